//! Heartbeats.

use std::time::Duration;

use super::WorkerId;

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
}

impl<'a> Registration<'a> {
    /// A worker that runs these tasks.
    #[must_use]
    pub fn new(worker: &'a WorkerId, tasks: &'a [String]) -> Self {
        Self { worker, tasks, dead_after: None }
    }

    /// The same, but no worker may declare it dead before it has sent no heartbeat for so long.
    #[must_use]
    pub fn dead_after(mut self, dead_after: Duration) -> Self {
        self.dead_after = Some(dead_after);
        self
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
