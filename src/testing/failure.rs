//! The texts of failing assertions.

use std::fmt::Write;

use super::jobs::Jobs;
use super::matcher::JobMatcher;
use super::span::due;
use crate::job::{Job, JobState};
use crate::nearest::did_you_mean;

/// More jobs than this are not listed.
const MANY: usize = 20;
/// The most characters of a payload or an error in a list.
const LONG: usize = 200;

/// Not as many jobs match as were expected.
pub(super) fn unmatched<P>(jobs: &Jobs, matcher: &JobMatcher<P>, expected: usize, found: usize) -> String {
    let mut text = format!("expected {}, and there {}\n  {matcher}\n", some(expected), are(found));
    let matching = jobs.iter().filter(|job| matcher.matches(job, jobs.now));
    if found > expected {
        text += "\nthese match:\n";
        matching.take(MANY).for_each(|job| text += &line(job, jobs));
        if expected > 0 {
            return text;
        }
    } else {
        near(&mut text, jobs, matcher);
    }
    text.push('\n');
    text + &listed(jobs)
}

fn some(count: usize) -> String {
    match count {
        0 => "no job".to_owned(),
        1 => "one job".to_owned(),
        _ => format!("{count} jobs"),
    }
}

fn are(count: usize) -> String {
    match count {
        0 => "is none".to_owned(),
        1 => "is one".to_owned(),
        _ => format!("are {count}"),
    }
}

/// Names the job that comes nearest: one of the same task first, and of those the one that differs in the fewest fields.
fn near<P>(text: &mut String, jobs: &Jobs, matcher: &JobMatcher<P>) {
    if let Some(job) = jobs.outside.iter().find(|job| matcher.matches(job, jobs.now)) {
        let _ = write!(
            text,
            "\na job outside of this transaction matches: it was added without it, and stays when the transaction is rolled back; add \
             it by client.add(…).within(&mut tx)\n{}",
            line(job, jobs)
        );
    }
    let others = jobs.iter().filter(|job| !matcher.matches(job, jobs.now));
    let differing = others.map(|job| (job, matcher.differences(job, jobs.now)));
    let nearest = differing.min_by_key(|(job, differences)| (job.task != matcher.task(), differences.len()));
    match nearest {
        Some((job, differences)) if job.task == matcher.task() => {
            let _ = write!(text, "\nthe nearest is job {}, which differs in:\n", job.id);
            for (field, difference) in differences {
                let _ = writeln!(text, "  {field}: {difference}");
            }
        }
        Some(_) => {
            let tasks = jobs.iter().map(|job| job.task.as_str());
            let _ = writeln!(text, "\nno job is of this task{}", did_you_mean(matcher.task(), tasks));
        }
        None => {}
    }
}

/// All jobs, or the first ones of many.
pub(super) fn listed(jobs: &Jobs) -> String {
    if jobs.is_empty() {
        return format!("no jobs are {}\n", jobs.are);
    }
    let mut text = match jobs.len() {
        1 => format!("1 job is {}:\n", jobs.are),
        count => format!("{count} jobs are {}:\n", jobs.are),
    };
    jobs.iter().take(MANY).for_each(|job| text += &line(job, jobs));
    if jobs.len() > MANY {
        let _ = writeln!(text, "  … and {} more", jobs.len() - MANY);
    }
    text
}

/// One job in a list.
fn line(job: &Job, jobs: &Jobs) -> String {
    let state = job.state(jobs.now);
    let mut text = format!("  job {}: {} {}", job.id, job.task, shortened(job.payload.as_str()));
    let _ = match state {
        JobState::Scheduled | JobState::Retrying => write!(text, ", {state} {}", due(jobs.now, job.run_at)),
        _ => write!(text, ", {state}"),
    };
    for (field, value) in [("queue", &job.queue), ("key", &job.key), ("error", &job.last_error)] {
        if let Some(value) = value {
            let _ = write!(text, ", {field} {:?}", shortened(value));
        }
    }
    text + "\n"
}

fn shortened(text: &str) -> String {
    let short: String = text.chars().take(LONG).collect();
    if short.len() < text.len() { short + "…" } else { short }
}
