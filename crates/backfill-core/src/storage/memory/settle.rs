//! Writing how jobs ended.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::claim::token;
use super::state::{Lock, State, lock_of};
use crate::job::JobId;
use crate::storage::{Settlement, WorkerId};

impl State {
    pub(super) fn settle(&mut self, worker: &WorkerId, settled: &[Settlement]) -> Vec<JobId> {
        let now = self.now();
        settled.iter().filter(|settlement| self.settle_one(worker, settlement, now)).map(|s| s.claim.id).collect()
    }

    /// Whether the next job of one of these queues, which are free, is of a task that this worker does not serve.
    pub(super) fn are_next_for_others(&mut self, worker: &WorkerId, queues: &[&str]) -> bool {
        if queues.is_empty() {
            return false;
        }
        let now = self.now();
        let queues: HashSet<&str> = queues.iter().copied().collect();
        let mut seen = HashSet::new();
        let ready =
            self.available.iter().filter(|(_, run_at, _)| *run_at <= now).filter_map(|(_, _, id)| self.jobs.get(id));
        let mut first = ready.filter(|job| {
            let queue = job.queue.as_deref().filter(|queue| queues.contains(*queue));
            queue.is_some_and(|queue| self.queues.get(queue).is_none_or(Option::is_none) && seen.insert(queue))
        });
        let served = self.workers.get(worker.as_str()).map(|registered| &registered.tasks);
        first.by_ref().take(queues.len()).any(|job| served.is_none_or(|tasks| !tasks.contains(&job.task)))
    }

    pub(super) fn settle_one(&mut self, worker: &WorkerId, settlement: &Settlement, now: DateTime<Utc>) -> bool {
        let claim = &settlement.claim;
        let is_claim = |lock: &Lock| lock.by == worker.as_str() && token(lock.at) == claim.token;
        if let Some(held) = claim.queue.as_ref().and_then(|queue| self.queues.get_mut(queue))
            && held.as_ref().is_some_and(is_claim)
        {
            *held = None;
        }
        if !self.jobs.get(&claim.id).and_then(lock_of).as_ref().is_some_and(is_claim) {
            return false;
        }
        if settlement.outcome.is_completed() {
            self.delete(claim.id);
        } else {
            self.change(claim.id, |job| {
                settlement.outcome.apply(claim, job, now);
            });
        }
        self.add(&settlement.then.jobs);
        true
    }
}
