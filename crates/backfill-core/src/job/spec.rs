//! What a caller says about a job to be added.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::limits::{self, DEFAULT_MAX_ATTEMPTS};
use super::{JobKeyMode, NewJob, Payload, Priority, Queue};
use crate::error::Result;
use crate::json;

/// A job to be added: a task name, a payload, and how it should run.
///
/// Building never fails; whatever is wrong is told by the call that adds it, before anything is sent.
///
/// ```
/// use backfill_core::job::{JobSpec, Priority};
/// use std::time::Duration;
///
/// let spec = JobSpec::new("send_invoice", serde_json::json!({ "order": 17 }))
///     .serial_queue("billing")
///     .priority(Priority::FAST)
///     .run_in(Duration::from_secs(60))
///     .key("invoice-17");
/// ```
#[derive(Debug)]
#[must_use = "a spec does nothing until a client adds it"]
pub struct JobSpec {
    pub(super) task: String,
    pub(super) payload: Result<Payload>,
    pub(super) queue: Queue,
    pub(super) run_at: Option<RunAt>,
    pub(super) max_attempts: u32,
    pub(super) key: Option<String>,
    pub(super) key_mode: JobKeyMode,
    pub(super) priority: Priority,
    pub(super) flags: Vec<String>,
}

/// When something should happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAt {
    /// At this time.
    Time(DateTime<Utc>),
    /// This long after the storage's present, so that a caller's wrong clock does not matter.
    In(Duration),
}

/// A time is an RFC 3339 text, a delay a number of seconds.
impl Serialize for RunAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Time(at) => json::time(at, serializer),
            Self::In(delay) => serializer.serialize_f64(delay.as_secs_f64()),
        }
    }
}

impl RunAt {
    /// The moment that this means, by this present. A delay is 100 years at the most.
    #[must_use]
    pub fn by(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Time(time) => time,
            Self::In(delay) => limits::later(now, delay),
        }
    }
}

impl From<DateTime<Utc>> for RunAt {
    fn from(time: DateTime<Utc>) -> Self {
        Self::Time(time)
    }
}

impl From<Duration> for RunAt {
    fn from(delay: Duration) -> Self {
        Self::In(delay)
    }
}

impl JobSpec {
    /// A job for the task of this name, with any payload that serialises.
    pub fn new(task: impl Into<String>, payload: impl Serialize) -> Self {
        let task = task.into();
        let payload = Payload::new(&task, &payload);
        Self::build(task, payload)
    }

    /// A job whose payload is JSON text already, stored byte for byte.
    pub fn with_payload(task: impl Into<String>, payload: Payload) -> Self {
        Self::build(task.into(), Ok(payload))
    }

    fn build(task: String, payload: Result<Payload>) -> Self {
        Self {
            task,
            payload,
            queue: Queue::Parallel,
            run_at: None,
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            key: None,
            key_mode: JobKeyMode::default(),
            priority: Priority::default(),
            flags: Vec::new(),
        }
    }

    /// Where it waits. Default: [`Queue::Parallel`].
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Puts it into the serial queue of this name: one job at a time, across all workers.
    pub fn serial_queue(self, name: impl Into<String>) -> Self {
        self.queue(Queue::serial(name))
    }

    /// Not before this time. Default: now.
    pub fn run_at(mut self, time: DateTime<Utc>) -> Self {
        self.run_at = Some(RunAt::Time(time));
        self
    }

    /// Not before this long after it is added, by the storage's clock: a hundred years at the most.
    pub fn run_in(mut self, delay: Duration) -> Self {
        self.run_at = Some(RunAt::In(delay));
        self
    }

    /// How often it may be started, at the most. Default: 25. From 1 to 32 767.
    ///
    /// A job in its last attempt is claimed only when it can start, so that it does not die unstarted with its worker. With 1 that is
    /// always: such jobs run by the number of slots, not thousands of fast ones at a time.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// A key: at most one waiting job has it. See [`JobKeyMode`].
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What to do when the key is taken. Default: [`JobKeyMode::Replace`].
    pub fn key_mode(mut self, mode: JobKeyMode) -> Self {
        self.key_mode = mode;
        self
    }

    /// Smaller runs sooner. Default: 0.
    pub fn priority(mut self, priority: impl Into<Priority>) -> Self {
        self.priority = priority.into();
        self
    }

    /// Adds a flag; Node workers can be told to leave jobs with certain flags alone.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The task's name.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Checks everything against the limits and the payload cap.
    ///
    /// # Errors
    /// For whatever is outside them.
    pub fn check(self, max_payload_bytes: usize) -> Result<NewJob> {
        NewJob::of(self, max_payload_bytes)
    }
}
