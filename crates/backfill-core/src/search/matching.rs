//! Whether a job is wanted, for storages that look at jobs one by one; and the meaning that the others' statements must have.

use chrono::{DateTime, Utc};

use super::pattern::Pattern;
use super::query::{Query, Test};
use crate::job::Job;

impl Query {
    /// Whether this job is wanted, if it is `now` now. Payloads are only looked at if [`reads_payloads`](Self::reads_payloads).
    #[must_use]
    pub fn matches(&self, job: &Job, now: DateTime<Utc>) -> bool {
        self.terms.iter().all(|term| term.test.holds(job, now) != term.negated)
    }
}

impl Test {
    /// Whether this is so of a job. What a job does not have is like nothing.
    #[must_use]
    pub fn holds(&self, job: &Job, now: DateTime<Utc>) -> bool {
        let like = |pattern: &Pattern, text: &Option<String>| text.as_ref().is_some_and(|text| pattern.matches(text));
        match self {
            Self::State(states) => states.contains(&job.state(now)),
            Self::Task(tasks) => tasks.iter().any(|task| task.matches(&job.task)),
            Self::Queue(queue) => like(queue, &job.queue),
            Self::Key(key) => like(key, &job.key),
            Self::Worker(worker) => like(worker, &job.locked_by),
            Self::Error(part) => {
                job.last_error.as_ref().is_some_and(|error| error.to_lowercase().contains(&part.to_lowercase()))
            }
            Self::Flag(flag) => job.flags.contains(flag),
            Self::Id(range) => range.contains(job.id.number()),
            Self::Priority(range) => range.contains(job.priority.0.into()),
            Self::Attempts(range) => range.contains(job.attempts.into()),
            Self::Created(range) => range.contains(job.created_at, now),
            Self::Due(range) => range.contains(job.run_at, now),
            Self::Payload { path, test } => test.holds(job.payload.as_str(), path),
            Self::Name(name) => name.matches(&job.task) || like(name, &job.key),
        }
    }
}
