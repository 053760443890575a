//! Writing how jobs ended.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::claim::token;
use super::state::{Lock, State, lock_of, time_of};
use crate::job::limits::later;
use crate::job::{Job, JobId, RunAt};
use crate::storage::{ClaimRef, INTERRUPTED, Outcome, Rescued, Settlement, WorkerId, clean_error};

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
                write_outcome(job, claim, &settlement.outcome, now);
                job.locked_by = None;
                job.locked_at = None;
            });
        }
        self.add(&settlement.then.jobs);
        true
    }
}

fn write_outcome(job: &mut Job, claim: &ClaimRef, outcome: &Outcome, now: DateTime<Utc>) {
    // Its key was taken while it ran: it was replaced or removed, and must stay unavailable.
    let taken_over = claim.had_key && job.key.is_none();
    match outcome {
        Outcome::Completed { .. } => {}
        Outcome::Failed { error, retry, payload } => {
            job.last_error = Some(clean_error(error));
            job.run_at = match retry {
                RunAt::Time(time) => *time,
                RunAt::In(delay) => later(job.run_at.max(now), *delay),
            };
            if let Some(payload) = payload {
                job.payload = payload.clone();
            }
        }
        Outcome::Dead { error } => {
            job.last_error = Some(clean_error(error));
            job.attempts = job.max_attempts;
        }
        Outcome::Snoozed { until } => {
            job.run_at = time_of(Some(*until), now);
            if !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
        Outcome::Interrupted { error, wait, payload } => {
            let again = job.last_error.as_ref().is_some_and(|last| last.starts_with(INTERRUPTED));
            if again {
                let spread = Rescued::spread(job.attempts) * fastrand::f64();
                job.run_at = later(job.run_at.max(now), wait.saturating_add(Duration::from_secs_f64(spread)));
            } else if !wait.is_zero() {
                job.run_at = later(job.run_at.max(now), *wait);
            }
            job.last_error = Some(clean_error(error));
            if let Some(payload) = payload {
                job.payload = payload.clone();
            }
            if !again && !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
        Outcome::Released => {
            if !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
    }
}
