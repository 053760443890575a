//! Letting time pass, for tests.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::MemoryStorage;
use super::state::State;
use crate::job::JobId;
use crate::storage::reserved_at;

impl MemoryStorage {
    /// Makes all times that are kept so much older, as if the storage had been left alone for so long. The locks of workers that are registered
    /// stay as they are: those workers are judged by their heartbeats, and their claims still stand.
    pub fn let_pass(&self, time: Duration) {
        self.state().let_pass(TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX));
        self.notify(1);
    }
}

impl State {
    fn let_pass(&mut self, time: TimeDelta) {
        let older = |at: &mut DateTime<Utc>| *at = at.checked_sub_signed(time).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            let held = self.jobs.get(&id).and_then(|job| job.locked_by.as_ref());
            let by_worker = held.is_some_and(|worker| self.workers.contains_key(worker));
            self.change(id, |job| {
                older(&mut job.run_at);
                older(&mut job.created_at);
                if by_worker {
                    return;
                }
                older(&mut job.updated_at);
                if let Some(locked_at) = job.locked_at.as_mut().filter(|at| **at < reserved_at()) {
                    older(locked_at);
                }
            });
        }
        for lock in self.queues.values_mut().flatten().filter(|lock| !self.workers.contains_key(&lock.by)) {
            older(&mut lock.at);
        }
        for worker in self.workers.values_mut() {
            older(&mut worker.started_at);
            older(&mut worker.seen_at);
        }
        for entry in self.crontabs.values_mut() {
            older(&mut entry.known_since);
            entry.last_execution.iter_mut().for_each(older);
        }
        self.documents.values_mut().filter_map(|document| document.until.as_mut()).for_each(older);
        self.streams.values_mut().flatten().for_each(|event| older(&mut event.at));
        self.turns.values_mut().for_each(older);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;
    use crate::storage::messages::Lease;
    use crate::storage::{ClaimRequest, Registration, WorkerId};

    #[test]
    fn everything_is_older_but_the_locks_of_registered_workers() {
        let mut state = State::default();
        let spec = JobSpec::new("t", 1).serial_queue("q").run_in(Duration::from_secs(3600));
        let later = state.add(&[spec.check(100).unwrap()]).remove(0);
        let worker = WorkerId::random();
        let tasks = ["t".to_owned()];
        state.register(&Registration::new(&worker, &tasks));
        assert!(state.claim(&ClaimRequest::new(&worker, &tasks, 1)).jobs.is_empty());
        state.let_pass(TimeDelta::hours(1));
        assert_eq!(state.jobs[&later.id].run_at, later.run_at - TimeDelta::hours(1));
        assert_eq!(state.claim(&ClaimRequest::new(&worker, &tasks, 1)).jobs.len(), 1);
        let claimed = state.jobs[&later.id].clone();
        state.let_pass(TimeDelta::hours(25));
        assert_eq!(state.jobs[&later.id].locked_at, claimed.locked_at);
        assert_eq!(state.queues["q"].as_ref().map(|lock| lock.at), claimed.locked_at);
        let now = state.now();
        assert!(state.workers[worker.as_str()].seen_at < now - TimeDelta::hours(24));
        state.forget_worker(worker.as_str());
        state.let_pass(TimeDelta::hours(25));
        assert_eq!(state.jobs[&later.id].locked_at, claimed.locked_at.map(|at| at - TimeDelta::hours(25)));
        assert_eq!(state.release_stale(), 1);
    }

    #[test]
    fn a_lease_ends_when_its_time_has_passed() {
        let mut state = State::default();
        let job = state.add(&[JobSpec::new("t", 1).check(100).unwrap()]).remove(0);
        let end = state.now() + TimeDelta::minutes(1);
        state.change(job.id, |job| {
            job.locked_at = Some(end);
            job.locked_by = Some(Lease::holder(7, "me"));
        });
        state.let_pass(TimeDelta::minutes(2));
        let now = state.now();
        assert!(Lease::has_ended(&state.jobs[&job.id], now));
        assert_eq!(state.leases.len(), 1, "it is found by its end");
    }
}
