//! Heartbeats, and what is released without a result.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::claim::token;
use super::state::{Lock, Registered, STALE, State, lock_of};
use crate::job::JobId;
use crate::job::limits::later;
use crate::storage::{ClaimRef, ClaimedJob, Outcome, Registration, Rescued, Settlement, Watch, WorkerId};

impl State {
    pub(super) fn release_untracked(&mut self, worker: &WorkerId, holds: &[JobId]) -> usize {
        let unknown: Vec<ClaimedJob> = self
            .jobs
            .values()
            .filter(|job| job.locked_by.as_deref() == Some(worker.as_str()) && !holds.contains(&job.id))
            .filter_map(|job| Some(ClaimedJob::new(job.clone(), token(job.locked_at?))))
            .collect();
        let released: Vec<Settlement> = unknown
            .iter()
            .map(|job| {
                let mut claim = ClaimRef::of(job);
                // A takeover leaves no key, all attempts used, and a moment of change after the claim's.
                claim.had_key = job.attempts >= job.max_attempts
                    && job.locked_at.is_some_and(|locked_at| job.updated_at > locked_at);
                Settlement::new(claim, Outcome::Released)
            })
            .collect();
        self.settle(worker, &released).len()
    }

    pub(super) fn release_stale(&mut self) -> usize {
        let now = self.now();
        // Workers that are registered are judged by their heartbeats.
        let registered: BTreeSet<String> = self.workers.keys().cloned().collect();
        self.release(now, |lock| lock.at < now - STALE && !registered.contains(&lock.by), None)
    }

    /// Releases jobs and queues whose lock matches; jobs then run at `earliest` or later.
    pub(super) fn release(
        &mut self,
        earliest: DateTime<Utc>,
        matches: impl Fn(&Lock) -> bool,
        error: Option<&str>,
    ) -> usize {
        for held in self.queues.values_mut() {
            if held.as_ref().is_some_and(&matches) {
                *held = None;
            }
        }
        let ids: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| lock_of(job).is_some_and(|lock| matches(&lock)))
            .map(|job| job.id)
            .collect();
        for id in &ids {
            self.change(*id, |job| {
                job.locked_by = None;
                job.locked_at = None;
                job.run_at = job.run_at.max(earliest);
                if let Some(error) = error {
                    job.last_error = Some(error.to_owned());
                    let spread = Rescued::spread(job.attempts) * fastrand::f64();
                    job.run_at = later(job.run_at, Duration::from_secs_f64(spread));
                }
            });
        }
        ids.len()
    }

    pub(super) fn register(&mut self, registration: &Registration<'_>) -> bool {
        let (now, worker) = (self.now(), registration.worker);
        self.tasks.extend(registration.tasks.iter().cloned());
        if self.workers.contains_key(worker.as_str()) {
            return false;
        }
        let dead_after = registration.dead_after.unwrap_or_default();
        let tasks = sorted(registration.tasks);
        self.workers.insert(worker.to_string(), Registered { tasks, started_at: now, seen_at: now, dead_after });
        true
    }

    pub(super) fn serve(&mut self, worker: &WorkerId, tasks: &[String]) -> bool {
        self.tasks.extend(tasks.iter().cloned());
        self.workers.get_mut(worker.as_str()).map(|registered| registered.tasks = sorted(tasks)).is_some()
    }

    pub(super) fn heartbeat(&mut self, worker: &WorkerId) -> bool {
        let now = self.now();
        self.workers.get_mut(worker.as_str()).map(|registered| registered.seen_at = now).is_some()
    }

    pub(super) fn deregister(&mut self, worker: &WorkerId) -> usize {
        self.workers.remove(worker.as_str());
        self.release_untracked(worker, &[])
    }

    pub(super) fn rescue(&mut self, watch: &Watch) -> Vec<Rescued> {
        let now = self.now();
        let is_dead = |registered: &Registered| {
            let dead_after = watch.dead_after.max(registered.dead_after);
            dead_after <= watch.contact && (now - registered.seen_at).to_std().is_ok_and(|ago| ago > dead_after)
        };
        let dead: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, registered)| is_dead(registered))
            .map(|(worker, _)| worker.clone())
            .collect();
        dead.into_iter()
            .map(|worker| {
                self.workers.remove(&worker);
                let error = Rescued::last_error(&worker);
                let jobs = self.release(now, |lock| lock.by == worker, Some(&error));
                Rescued { worker, jobs: jobs as u64 }
            })
            .collect()
    }
}

fn sorted(tasks: &[String]) -> Vec<String> {
    tasks.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;
    use crate::storage::ClaimRequest;

    #[test]
    fn old_locks_are_released_unless_their_worker_is_registered() {
        let mut state = State::default();
        let jobs =
            [JobSpec::new("t", 1).check(100).unwrap(), JobSpec::new("t", 2).serial_queue("q").check(100).unwrap()];
        let workers = [WorkerId::random(), WorkerId::random()];
        for (job, worker) in jobs.iter().zip(&workers) {
            let id = state.add(std::slice::from_ref(job))[0].id;
            state.register(&Registration::new(worker, &[]));
            state.claim(&ClaimRequest::new(worker, &["t".to_owned()], 1));
            state.change(id, |job| job.locked_at = job.locked_at.map(|at| at - STALE * 2));
        }
        for lock in state.queues.values_mut().flatten() {
            lock.at -= STALE * 2;
        }
        assert_eq!(state.release_stale(), 0, "both are judged by their heartbeats");
        state.workers.remove(workers[1].as_str());
        assert_eq!(state.release_stale(), 1);
        assert_eq!(state.queues["q"], None);
    }
}
