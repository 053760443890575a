//! The report of a drain.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::jobs::Jobs;
use crate::job::Job;
use crate::task::NOT_DECODED;
use crate::worker::Event;

/// How a start of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Done,
    Failed,
    Dead,
    Snoozed,
    Interrupted,
}

/// How the jobs ended that a [drain](super::TestQueue::drain) has started. A job that was started twice is in it twice.
#[derive(Clone, Debug, Default)]
pub struct Report {
    ends: Vec<(End, Job)>,
    started: usize,
    now: DateTime<Utc>,
}

#[expect(clippy::must_use_candidate, reason = "an assertion is called for what it asserts")]
impl Report {
    /// The jobs that are done, as they were when they were started.
    #[must_use]
    pub fn done(&self) -> Jobs {
        self.of(End::Done, "done")
    }

    /// The jobs of which an attempt failed, and another one follows; with the error as their `last_error`.
    #[must_use]
    pub fn failed(&self) -> Jobs {
        self.of(End::Failed, "failed")
    }

    /// The jobs that are dead, with the error as their `last_error`.
    #[must_use]
    pub fn dead(&self) -> Jobs {
        self.of(End::Dead, "dead")
    }

    /// The jobs that their tasks have put off.
    #[must_use]
    pub fn snoozed(&self) -> Jobs {
        self.of(End::Snoozed, "put off")
    }

    /// All jobs that were started are done.
    ///
    /// # Panics
    /// If one failed or was put off.
    #[track_caller]
    pub fn assert_all_done(&self) -> &Self {
        let others: Vec<Job> =
            self.ends.iter().filter(|(end, _)| *end != End::Done).map(|(_, job)| job.clone()).collect();
        let others = Jobs::new(others, self.now, "not done");
        assert!(others.is_empty(), "expected all jobs to be done\n\n{}", super::failure::listed(&others));
        self
    }

    /// How many jobs were started.
    #[must_use]
    pub fn started(&self) -> usize {
        self.started
    }

    /// The jobs whose payload their task cannot read.
    pub(super) fn unreadable(&self) -> Jobs {
        let unread = |job: &&Job| job.last_error.as_ref().is_some_and(|error| error.starts_with(NOT_DECODED));
        let jobs = self.ends.iter().map(|(_, job)| job).filter(unread).cloned().collect();
        Jobs::new(jobs, self.now, "not readable by their task")
    }

    pub(super) fn see(&mut self, event: Event) {
        let (end, job, error) = match event {
            Event::JobStarted { .. } => {
                self.started += 1;
                return;
            }
            Event::JobSucceeded { job, .. } => (End::Done, job, None),
            Event::JobFailed { job, error, .. } => (End::Failed, job, Some(error)),
            Event::JobDead { job, error, .. } => (End::Dead, job, Some(error)),
            Event::JobSnoozed { job, .. } => (End::Snoozed, job, None),
            Event::JobInterrupted { job, error, .. } => (End::Interrupted, job, Some(error)),
            _ => return,
        };
        let mut job = Arc::unwrap_or_clone(job);
        job.last_error = error.or(job.last_error);
        self.ends.push((end, job));
    }

    pub(super) fn at(mut self, now: DateTime<Utc>) -> Self {
        self.now = now;
        self
    }

    fn of(&self, wanted: End, are: &'static str) -> Jobs {
        let jobs = self.ends.iter().filter(|(end, _)| *end == wanted).map(|(_, job)| job.clone());
        Jobs::new(jobs.collect(), self.now, are)
    }
}

/// A line for each task: `send_invoice: 2 done, 1 failed`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tasks: BTreeMap<&str, BTreeMap<End, usize>> = BTreeMap::new();
        for (end, job) in &self.ends {
            *tasks.entry(&job.task).or_default().entry(*end).or_default() += 1;
        }
        for (task, ends) in tasks {
            let name = |end: End| match end {
                End::Done => "done",
                End::Failed => "failed",
                End::Dead => "dead",
                End::Snoozed => "put off",
                End::Interrupted => "cut off",
            };
            let ends: Vec<String> = ends.into_iter().map(|(end, count)| format!("{count} {}", name(end))).collect();
            writeln!(f, "{task}: {}", ends.join(", "))?;
        }
        Ok(())
    }
}
