//! Heartbeats, and what is released without a result.

use std::collections::BTreeSet;

use super::claim::token;
use super::state::{Lock, STALE, State, lock_of};
use crate::job::{Job, JobId};
use crate::storage::{ClaimRef, Outcome, Registered, Registration, Rescued, Settlement, Watch, WorkerId, WorkerStatus};

impl State {
    pub(super) fn release_untracked(&mut self, worker: &WorkerId, holds: &[JobId]) -> usize {
        let released: Vec<Settlement> = self
            .jobs
            .values()
            .filter(|job| job.locked_by.as_deref() == Some(worker.as_str()) && !holds.contains(&job.id))
            .filter_map(|job| Some(Settlement::new(ClaimRef::stored(job, token(job.locked_at?)), Outcome::Released)))
            .collect();
        self.settle(worker, &released).len()
    }

    pub(super) fn release_stale(&mut self) -> usize {
        let now = self.now();
        // Workers that are registered are judged by their heartbeats.
        let registered: BTreeSet<String> = self.workers.keys().cloned().collect();
        let is_stale = |lock: &Lock| lock.at < now - STALE && !registered.contains(&lock.by);
        self.release(is_stale, |job| job.run_at = job.run_at.max(now))
    }

    /// Releases jobs and queues whose lock matches, and then does this to the jobs.
    pub(super) fn release(&mut self, matches: impl Fn(&Lock) -> bool, mut then: impl FnMut(&mut Job)) -> usize {
        for held in self.queues.values_mut() {
            if held.as_ref().is_some_and(&matches) {
                *held = None;
            }
        }
        let held = self.jobs.values().filter(|job| lock_of(job).is_some_and(|lock| matches(&lock)));
        let ids: Vec<JobId> = held.map(|job| job.id).collect();
        for id in &ids {
            self.change(*id, |job| {
                job.locked_by = None;
                job.locked_at = None;
                then(job);
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
        self.workers.insert(worker.to_string(), Registered::new(registration, now));
        true
    }

    pub(super) fn serve(&mut self, worker: &WorkerId, tasks: &[String]) -> bool {
        self.tasks.extend(tasks.iter().cloned());
        self.workers
            .get_mut(worker.as_str())
            .map(|registered| registered.tasks = tasks.iter().cloned().collect())
            .is_some()
    }

    pub(super) fn heartbeat(&mut self, worker: &WorkerId) -> bool {
        let now = self.now();
        self.workers.get_mut(worker.as_str()).map(|registered| registered.seen_at = now).is_some()
    }

    pub(super) fn report(&mut self, worker: &WorkerId, status: &WorkerStatus) {
        if let Some(registered) = self.workers.get_mut(worker.as_str()) {
            registered.status = Some(status.clone());
        }
    }

    pub(super) fn deregister(&mut self, worker: &WorkerId) -> usize {
        self.forget_worker(worker.as_str());
        self.release_untracked(worker, &[])
    }

    /// Its documents go with it.
    pub(super) fn forget_worker(&mut self, worker: &str) {
        self.workers.remove(worker);
        self.documents.retain(|_, document| document.owner.as_ref().is_none_or(|owner| owner.as_str() != worker));
    }

    pub(super) fn rescue(&mut self, watch: &Watch) -> Vec<Rescued> {
        let now = self.now();
        let dead: Vec<(String, bool)> = self
            .workers
            .iter()
            .filter(|(_, registered)| registered.is_dead(watch, now))
            .map(|(worker, registered)| (worker.clone(), registered.in_place))
            .collect();
        dead.into_iter()
            .map(|(worker, in_place)| {
                self.forget_worker(&worker);
                let apply = |job: &mut Job| {
                    if in_place { Rescued::apply_in_place(&worker, job) } else { Rescued::apply(&worker, job, now) }
                };
                let jobs = self.release(|lock| lock.by == worker, apply);
                Rescued { worker, jobs: jobs as u64 }
            })
            .collect()
    }
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
