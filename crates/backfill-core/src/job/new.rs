//! A job that has passed the checks and is about to be stored.

use chrono::{DateTime, Utc};

use super::{Job, JobId, JobKeyMode, JobSpec, Payload, Priority, Queue, RunAt, limits};
use crate::error::Result;

/// A checked job: what a [`JobSpec`](super::JobSpec) becomes before a storage sees it.
///
/// Every value is inside the limits of [`limits`](super::limits), and no two jobs of one batch share a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewJob {
    /// The task's name.
    pub task: String,
    /// Its JSON text.
    pub payload: Payload,
    /// Its serial queue, if any.
    pub queue: Option<String>,
    /// Not before this time; `None` is now.
    pub run_at: Option<RunAt>,
    /// From 1.
    pub max_attempts: i16,
    /// Its key, if any.
    pub key: Option<String>,
    /// What to do when the key is taken.
    pub key_mode: JobKeyMode,
    /// Smaller runs sooner.
    pub priority: Priority,
    /// Sorted, each once.
    pub flags: Vec<String>,
}

impl NewJob {
    /// What a caller said, once it has passed the checks.
    pub(super) fn of(spec: JobSpec, max_payload_bytes: usize) -> Result<Self> {
        let max_attempts = limits::check(&spec)?;
        let payload = spec.payload?;
        limits::check_payload(&spec.task, &payload, max_payload_bytes)?;
        let mut flags = spec.flags;
        flags.sort_unstable();
        flags.dedup();
        Ok(Self {
            task: spec.task,
            payload,
            queue: match spec.queue {
                Queue::Parallel => None,
                Queue::Serial(name) => Some(name),
            },
            run_at: spec.run_at,
            max_attempts,
            key: spec.key,
            key_mode: spec.key_mode,
            priority: spec.priority,
            flags,
        })
    }

    /// Whether a storage's short statements for most jobs can store it. They know nothing of keys. A field that few jobs have belongs here
    /// too: then only the full statement has to know it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.key.is_none()
    }

    /// Whether nothing stands in its way, so that it could start at once, wherever it is run.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.is_plain() && self.queue.is_none() && self.run_at.is_none() && self.flags.is_empty()
    }
}

/// For storages that keep a job as a whole; a statement does the same with columns.
impl NewJob {
    /// When it is due, by this present.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.run_at.map_or(now, |when| when.by(now))
    }

    /// The job that this becomes when it is stored under this number, now.
    #[must_use]
    pub fn stored(&self, id: impl Into<JobId>, run_at: DateTime<Utc>, now: DateTime<Utc>) -> Job {
        let mut job = Job::new(id, self.task.clone(), self.payload.clone(), now);
        job.queue.clone_from(&self.queue);
        job.run_at = run_at;
        job.max_attempts = self.max_attempts;
        job.key.clone_from(&self.key);
        job.priority = self.priority;
        job.flags.clone_from(&self.flags);
        job
    }

    /// What adding this job does to the one that has its key. Returns whether that one is the answer; otherwise it has lost its key, will
    /// not run again, and this job is stored beside it.
    pub fn meets(&self, other: &mut Job, now: DateTime<Utc>) -> bool {
        let waits = other.locked_at.is_none() && other.attempts < other.max_attempts;
        other.updated_at = now;
        if self.key_mode == JobKeyMode::UnsafeDedupe {
            other.revision += 1;
        } else if waits {
            self.replace(other, now);
        } else {
            other.key = None;
            other.attempts = other.max_attempts;
            return false;
        }
        true
    }

    /// Everything is replaced but the id and the time of creation. Two arrays are joined.
    fn replace(&self, job: &mut Job, now: DateTime<Utc>) {
        if self.key_mode != JobKeyMode::PreserveRunAt || job.attempts > 0 {
            job.run_at = self.due(now);
        }
        job.task.clone_from(&self.task);
        job.queue.clone_from(&self.queue);
        job.payload = job.payload.joined(&self.payload).unwrap_or_else(|| self.payload.clone());
        job.max_attempts = self.max_attempts;
        job.priority = self.priority;
        job.flags.clone_from(&self.flags);
        job.revision += 1;
        job.attempts = 0;
        job.last_error = None;
    }
}
