//! Jobs as text that is the same at each run.

use serde_json::Value;

use super::jobs::Jobs;
use super::span::due;
use crate::job::{Job, JobState};

pub(super) fn of(jobs: &Jobs) -> String {
    let mut lines: Vec<String> = jobs.iter().map(|job| line(job, job.state(jobs.now))).collect();
    lines.sort_unstable();
    lines.into_iter().map(|line| line + "\n").collect()
}

fn line(job: &Job, state: JobState) -> String {
    // Keys in one order.
    let payload = job.payload.decode::<Value>().map_or_else(|_| job.payload.to_string(), |payload| payload.to_string());
    let mut line = format!("{} {payload}", job.task);
    let when = due(job.updated_at, job.run_at);
    let (attempts, most) = (job.attempts, job.max_attempts);
    let mut about = match state {
        JobState::Retrying => vec![format!("retrying after attempt {attempts} of {most}")],
        JobState::Dead => vec![format!("dead after attempt {attempts} of {most}")],
        JobState::Running => vec!["running".to_owned()],
        _ if when == "now" => Vec::new(),
        _ => vec![when],
    };
    about.extend(job.queue.as_ref().map(|queue| format!("queue {queue:?}")));
    about.extend(job.key.as_ref().map(|key| format!("key {key:?}")));
    if job.priority.0 != 0 {
        about.push(format!("priority {}", job.priority.0));
    }
    if !job.flags.is_empty() {
        about.push(format!("flags {:?}", job.flags));
    }
    about.extend(job.last_error.as_ref().map(|error| format!("error {error:?}")));
    if !about.is_empty() {
        line += " ";
        line += &about.join(", ");
    }
    line
}
