//! Taking jobs.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::state::{Lock, State};
use crate::storage::{Choice, Chooser, ClaimRequest, ClaimToken, Claimed, ClaimedJob};

/// The most jobs behind the others that are looked at because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

impl State {
    pub(super) fn claim(&mut self, request: &ClaimRequest<'_>) -> Claimed {
        if !self.workers.contains_key(request.worker.as_str()) {
            return Claimed::default();
        }
        let now = self.now();
        let ready_by = request.now.unwrap_or(now);
        let held = self.queues.iter().filter(|(_, lock)| lock.is_some()).map(|(queue, _)| queue.as_str());
        let mut chooser = Chooser::new(request, held);
        let (mut chosen, mut behind) = (Vec::new(), 0);
        for (_, run_at, id) in &self.available {
            // Beyond what can run side by side there may be more of the runs.
            behind += usize::from(chooser.is_full());
            if behind > MAX_IN_RUNS.min(request.run_length.saturating_sub(1).saturating_mul(request.limit)) {
                break;
            }
            let Some(job) = self.jobs.get(id).filter(|_| *run_at <= ready_by) else { continue };
            match chooser.look(job) {
                Choice::Take => chosen.push(*id),
                Choice::Leave => {}
                Choice::End => break,
            }
        }
        let mut claimed = chooser.claimed();
        let taken_queues: HashSet<String> =
            chosen.iter().filter_map(|id| self.jobs.get(id).and_then(|job| job.queue.clone())).collect();
        let lock = Lock { by: request.worker.to_string(), at: now };
        for queue in taken_queues {
            self.queues.insert(queue, Some(lock.clone()));
        }
        let token = token(now);
        claimed.jobs = chosen
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.attempts = job.attempts.saturating_add(1);
                    job.locked_by = Some(lock.by.clone());
                    job.locked_at = Some(now);
                })
            })
            .map(|job| ClaimedJob::new(job, token))
            .collect();
        claimed
    }
}

/// The moment of a claim names it: no two are the same.
pub(super) fn token(locked_at: DateTime<Utc>) -> ClaimToken {
    ClaimToken::from_number(locked_at.timestamp_micros())
}
