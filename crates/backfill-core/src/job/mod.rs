//! The words everybody shares.
//!
//! - A **job** is one piece of work: a task name, a payload, and when it should run ([`Job`]; before it is
//!   stored, [`JobSpec`]).
//! - A **task** is the code that runs jobs of one name.
//! - A **queue** ([`Queue`]) is serial: one of its jobs runs at a time. Jobs without one run in parallel.
//! - An **attempt** is one start of a job. It is counted when the job is claimed, so a worker that dies has
//!   used it.
//! - A **key** ([`JobKeyMode`]) makes sure that at most one waiting job exists for one purpose.
//! - A **claim** is a job held by one worker: nobody else starts it until it is settled or released.

mod id;
mod json;
mod key;
pub mod limits;
mod new;
mod payload;
mod priority;
mod queue;
mod spec;
mod state;
mod typed;

use chrono::{DateTime, Utc};

pub use id::JobId;
pub use json::{JobWithState, StoredJob};
pub use key::JobKeyMode;
pub use new::NewJob;
pub use payload::Payload;
pub use priority::Priority;
pub use queue::Queue;
/// For the derive macro.
#[doc(hidden)]
pub use serde::Serialize as __Serialize;
pub use spec::{JobSpec, RunAt};
pub use state::JobState;
pub use typed::TaskPayload;

/// A stored job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The name of the task that runs it.
    pub task: String,
    /// Its serial queue, if it has one.
    pub queue: Option<String>,
    /// Its JSON text.
    pub payload: Payload,
    /// Smaller runs sooner.
    pub priority: Priority,
    /// Not before this time.
    pub run_at: DateTime<Utc>,
    /// How often it was started; while it runs, this start is counted.
    pub attempts: i16,
    /// How often it may be started. At `attempts >= max_attempts` an unlocked job is dead.
    pub max_attempts: i16,
    /// What the last failed attempt said.
    pub last_error: Option<String>,
    /// When it was first added.
    pub created_at: DateTime<Utc>,
    /// When it was last changed by an enqueuer or an administrator.
    pub updated_at: DateTime<Utc>,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// How often it was replaced through its key.
    pub revision: i32,
    /// Its flags, sorted.
    pub flags: Vec<String>,
    /// Since when a worker holds it.
    pub locked_at: Option<DateTime<Utc>>,
    /// The worker that holds it.
    pub locked_by: Option<String>,
}

impl Job {
    /// A job with these identifying fields and the schema's defaults for the rest, for storages to fill in.
    #[must_use]
    pub fn new(id: impl Into<JobId>, task: impl Into<String>, payload: Payload, now: DateTime<Utc>) -> Self {
        Self {
            id: id.into(),
            task: task.into(),
            queue: None,
            payload,
            priority: Priority::default(),
            run_at: now,
            attempts: 0,
            max_attempts: 25,
            last_error: None,
            created_at: now,
            updated_at: now,
            key: None,
            revision: 0,
            flags: Vec::new(),
            locked_at: None,
            locked_by: None,
        }
    }

    /// What the job is doing at `now`.
    #[must_use]
    pub fn state(&self, now: DateTime<Utc>) -> JobState {
        if self.locked_at.is_some() {
            JobState::Running
        } else if self.attempts >= self.max_attempts {
            JobState::Dead
        } else if self.attempts > 0 && self.last_error.is_some() {
            JobState::Retrying
        } else if self.run_at > now {
            JobState::Scheduled
        } else {
            JobState::Ready
        }
    }
}
