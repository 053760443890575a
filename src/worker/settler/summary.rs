//! What a worker did.

use crate::storage::Outcome;

/// What a worker did, by what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Jobs done and deleted.
    pub completed: u64,
    /// Attempts that failed and will be tried again if any are left.
    pub failed: u64,
    /// Jobs that a task gave up for good.
    pub dead: u64,
    /// Jobs put off without using an attempt.
    pub snoozed: u64,
    /// Jobs cut off by the worker's end: ready again at once, and no failures.
    pub interrupted: u64,
    /// Jobs released unstarted.
    pub released: u64,
    /// Results that came too late: the claim had been broken, by an administrator or because the worker was taken for
    /// dead. Whoever holds the job now decides about it.
    pub stale: u64,
}

impl Summary {
    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { .. } => self.completed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Dead { .. } => self.dead += 1,
            Outcome::Snoozed { .. } => self.snoozed += 1,
            Outcome::Interrupted { .. } => self.interrupted += 1,
            _ => self.released += 1,
        }
    }
}
