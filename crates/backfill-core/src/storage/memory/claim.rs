//! Taking jobs.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::state::{Lock, State};
use crate::job::Job;
use crate::storage::{ClaimRequest, ClaimToken, Claimed, ClaimedJob};

/// The most jobs behind the others that are looked at because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

impl State {
    pub(super) fn claim(&mut self, request: &ClaimRequest<'_>) -> Claimed {
        if !self.workers.contains_key(request.worker.as_str()) {
            return Claimed::default();
        }
        let now = self.now();
        let ready_by = request.now.unwrap_or(now);
        let mut room: HashMap<&str, usize> = request.limits.iter().map(|(task, room)| (task.as_str(), *room)).collect();
        let may_run = |job: &Job| {
            request.tasks.contains(&job.task) && !job.flags.iter().any(|flag| request.forbidden_flags.contains(flag))
        };
        // Of each serial queue that was met, how many of its jobs are taken; `None` if no more may be: it is held, its first job is not
        // for this worker, or its run has ended.
        let mut queues: HashMap<&str, Option<usize>> = HashMap::new();
        let (mut chosen, mut bytes, mut heavy, mut for_free_slots) = (Vec::new(), 0, false, false);
        let (mut side_by_side, mut behind) = (0, 0);
        for (_, run_at, id) in &self.available {
            // Beyond what can run side by side there may be more of the runs.
            behind += usize::from(side_by_side >= request.limit);
            if heavy || behind > MAX_IN_RUNS.min(request.run_length.saturating_sub(1).saturating_mul(request.limit)) {
                break;
            }
            let Some(job) = self.jobs.get(id).filter(|_| *run_at <= ready_by) else { continue };
            let is_last = job.attempts + 1 >= job.max_attempts;
            let mut behind_first = false;
            if let Some(queue) = &job.queue {
                let is_free = self.queues.get(queue).is_none_or(Option::is_none);
                let state = queues.entry(queue).or_insert(is_free.then_some(0));
                let Some(taken) = *state else { continue };
                behind_first = taken > 0;
                let is_limited = room.contains_key(job.task.as_str());
                if !may_run(job) || (behind_first && (taken >= request.run_length || is_last || is_limited)) {
                    *state = None;
                    continue;
                }
            }
            if !behind_first {
                let is_full = side_by_side >= request.limit;
                if is_full || !may_run(job) || room.get(job.task.as_str()) == Some(&0) {
                    if let Some(queue) = &job.queue {
                        queues.insert(queue, None);
                    }
                    continue;
                }
                for_free_slots = is_last && side_by_side >= request.free_slots;
            }
            bytes += job.payload.as_str().len();
            heavy = bytes > request.max_bytes && !chosen.is_empty();
            if heavy || for_free_slots {
                break;
            }
            if let Some(taken) = job.queue.as_deref().and_then(|queue| queues.get_mut(queue)).and_then(Option::as_mut) {
                *taken += 1;
            }
            if !behind_first {
                side_by_side += 1;
                if let Some(room) = room.get_mut(job.task.as_str()) {
                    *room -= 1;
                }
            }
            chosen.push(*id);
        }
        let taken_queues: HashSet<String> =
            chosen.iter().filter_map(|id| self.jobs.get(id).and_then(|job| job.queue.clone())).collect();
        let lock = Lock { by: request.worker.to_string(), at: now };
        for queue in taken_queues {
            self.queues.insert(queue, Some(lock.clone()));
        }
        let more = heavy || for_free_slots || side_by_side >= request.limit;
        let token = token(now);
        let jobs = chosen
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
        Claimed::jobs(jobs).more(more).for_free_slots(for_free_slots)
    }
}

/// The moment of a claim names it: no two are the same.
pub(super) fn token(locked_at: DateTime<Utc>) -> ClaimToken {
    ClaimToken::from_number(locked_at.timestamp_micros())
}
