//! Heartbeats.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{WorkerId, WorkerInfo, WorkerStatus};
use crate::job::Job;
use crate::job::limits::later;

/// What a worker says when it registers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Registration<'a> {
    /// Its identity.
    pub worker: &'a WorkerId,
    /// The tasks that it runs.
    pub tasks: &'a [String],
    /// After how long without a heartbeat it may be declared dead, at the earliest. `None`: whoever looks decides.
    pub dead_after: Option<Duration>,
    /// Whether what it holds, if it dies, keeps its place: ready again where it stood, without being spread in time.
    pub in_place: bool,
}

impl<'a> Registration<'a> {
    /// A worker that runs these tasks.
    #[must_use]
    pub fn new(worker: &'a WorkerId, tasks: &'a [String]) -> Self {
        Self { worker, tasks, dead_after: None, in_place: false }
    }

    /// The same, but no worker may declare it dead before it has sent no heartbeat for so long.
    #[must_use]
    pub fn dead_after(mut self, dead_after: Duration) -> Self {
        self.dead_after = Some(dead_after);
        self
    }

    /// The same, and what it holds, if it dies, is ready again where it stood. For brokers, whose consumers expect the order to stay. (Jobs of a
    /// worker come back apart from each other when they have died before: one of them may be what kills it.)
    #[must_use]
    pub fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }
}

/// A registered worker, for storages that keep it as a whole. Its JSON has times in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The tasks that it runs.
    pub tasks: BTreeSet<String>,
    /// Since when.
    #[serde(with = "micros")]
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    #[serde(with = "micros")]
    pub seen_at: DateTime<Utc>,
    /// Zero if it did not say.
    pub dead_after: Duration,
    /// What it says of itself.
    pub status: Option<WorkerStatus>,
    /// Whether what it holds keeps its place if it dies.
    #[serde(default)]
    pub in_place: bool,
}

impl Registered {
    /// A worker that registers so, now.
    #[must_use]
    pub fn new(registration: &Registration<'_>, now: DateTime<Utc>) -> Self {
        Self {
            tasks: registration.tasks.iter().cloned().collect(),
            started_at: now,
            seen_at: now,
            dead_after: registration.dead_after.unwrap_or_default(),
            status: None,
            in_place: registration.in_place,
        }
    }

    /// Whether it is dead, by the eyes of this watch.
    #[must_use]
    pub fn is_dead(&self, watch: &Watch, now: DateTime<Utc>) -> bool {
        let dead_after = watch.dead_after.max(self.dead_after);
        dead_after <= watch.contact && (now - self.seen_at).to_std().is_ok_and(|ago| ago > dead_after)
    }

    /// What is told of it, but for what it holds.
    #[must_use]
    pub fn info(&self, id: &str, now: DateTime<Utc>) -> WorkerInfo {
        let mut info = WorkerInfo::new(id.to_owned());
        info.started_at = Some(self.started_at);
        info.seen_at = Some(self.seen_at);
        info.last_seen_ago = (now - self.seen_at).to_std().ok();
        info.status.clone_from(&self.status);
        info.tasks = Some(self.tasks.iter().cloned().collect());
        info
    }
}

mod micros {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(time.timestamp_micros())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let micros = i64::deserialize(deserializer)?;
        DateTime::from_timestamp_micros(micros).ok_or_else(|| serde::de::Error::custom("no time"))
    }
}

/// How to look for dead workers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Watch {
    /// After how long without a heartbeat a worker counts as dead. If a worker has registered a longer time, that holds.
    pub dead_after: Duration,
    /// For how long the caller has been in contact with the storage. No worker is declared dead for heartbeats that it missed over a
    /// longer time: a caller that was away itself cannot tell who missed them.
    pub contact: Duration,
}

impl Watch {
    /// By one that has always been in contact.
    #[must_use]
    pub fn new(dead_after: Duration) -> Self {
        Self { dead_after, contact: Duration::MAX }
    }

    /// By one that has been in contact for so long.
    #[must_use]
    pub fn contact(mut self, contact: Duration) -> Self {
        self.contact = contact;
        self
    }
}

/// A worker that missed its heartbeats, and what was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// The worker's id.
    pub worker: String,
    /// How many jobs it held.
    pub jobs: u64,
}

impl Rescued {
    /// Writes into a job that a dead worker held: it is free, keeps its attempt, and is due at once or [spread](Self::spread).
    pub fn apply(worker: &str, job: &mut Job, now: DateTime<Utc>) {
        let spread = Self::spread(job.attempts) * fastrand::f64();
        job.locked_at = None;
        job.locked_by = None;
        job.last_error = Some(Self::last_error(worker));
        job.run_at = later(job.run_at.max(now), Duration::from_secs_f64(spread));
    }

    /// The same of a worker that registered so: see [`Registration::in_place`].
    pub fn apply_in_place(worker: &str, job: &mut Job) {
        job.locked_at = None;
        job.locked_by = None;
        job.last_error = Some(Self::last_error(worker));
    }

    /// What the released jobs get as `last_error`.
    #[must_use]
    pub fn last_error(worker: &str) -> String {
        format!("worker {worker} stopped sending heartbeats while running this job")
    }

    /// When a released job that has used so many attempts is due, in seconds from now, at the latest: at a time by chance until then.
    ///
    /// After the first death all of a worker's jobs come back at once. One that has died with a worker again may be what kills it, or
    /// stand beside what does: such jobs come back apart from each other, so that the next death takes fewer with it. The bound is
    /// twice e to the power of the attempts, and 10 minutes at most.
    #[must_use]
    pub fn spread(attempts: i16) -> f64 {
        if attempts > 1 { (2.0 * f64::from(attempts).exp()).min(600.0) } else { 0.0 }
    }
}
