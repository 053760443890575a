//! What runs, and what the worker holds.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::jobs::{Ended, RELEASE_AFTER, Started};
use crate::job::JobId;
use crate::storage::ClaimToken;

/// By numbers that nobody chooses to do harm, hashed in a fifth of the standard time: there are several looks for each job.
type ByNumber<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The jobs that run.
#[derive(Default)]
pub(super) struct Slots {
    pub running: JoinSet<Ended>,
    pub started: ByNumber<Id, Started>,
    /// What the present identity has claimed and is not yet known to be written, with the claim: a job may
    /// be claimed again before the news of its last result is here.
    pub held: ByNumber<JobId, ClaimToken>,
    /// When to look for runs of serial queues that take longer than was expected, and to release the rest of each.
    pub rests_back_at: Option<Instant>,
    /// Cancelled for the jobs of the present identity.
    pub cancel: Arc<CancellationToken>,
    /// Drops the jobs' futures.
    pub drop_jobs: Arc<CancellationToken>,
}

impl Slots {
    /// The result of this claim is written.
    pub fn forget(&mut self, job: JobId, token: ClaimToken) {
        if self.held.get(&job) == Some(&token) {
            self.held.remove(&job);
        }
    }

    /// How many jobs of this task run.
    pub fn running_of(&self, task: &str) -> usize {
        self.started.values().filter(|started| started.job.task == *task).count()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.rests_back_at
    }

    /// What took too long has lost the rest of its run; when to look for the next such run.
    pub fn rests_were_released(&mut self) {
        let rests = self.started.values().filter(|started| !started.rest.is_empty());
        self.rests_back_at = rests.map(|started| started.since + RELEASE_AFTER).min();
    }
}
