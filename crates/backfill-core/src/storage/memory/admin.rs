//! The administrative verbs.

use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::MemoryStorage;
use super::state::State;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{Admin, Cleaned, Cleanup, Reschedule, clean_error};

#[async_trait]
impl Admin for MemoryStorage {
    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        let removed = self.state().remove(key);
        self.notify_behind(removed.as_slice());
        Ok(removed)
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let completed = self.state().complete(ids);
        self.notify_behind(&completed);
        Ok(completed)
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let discarded = self.state().discard(ids, reason);
        self.notify_behind(&discarded);
        Ok(discarded)
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        let changed = self.state().reschedule(ids, change);
        self.notify(changed.len());
        Ok(changed)
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        let released = self.state().unlock(workers);
        self.notify(released);
        Ok(released as u64)
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        Ok(self.state().clean(what))
    }
}

impl State {
    pub(super) fn remove(&mut self, key: &str) -> Option<Job> {
        let now = self.now();
        let id = *self.by_key.get(key)?;
        if self.is_free(id, now) { self.delete(id) } else { self.take_key(id, now) }
    }

    pub(super) fn complete(&mut self, ids: &[JobId]) -> Vec<Job> {
        let now = self.now();
        self.free_ones(ids, now).into_iter().filter_map(|id| self.delete(id)).collect()
    }

    pub(super) fn discard(&mut self, ids: &[JobId], reason: &str) -> Vec<Job> {
        let now = self.now();
        let reason = clean_error(reason);
        self.free_ones(ids, now)
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.last_error = Some(reason.clone());
                    job.attempts = job.max_attempts;
                    job.updated_at = now;
                })
            })
            .collect()
    }

    pub(super) fn reschedule(&mut self, ids: &[JobId], change: &Reschedule) -> Vec<Job> {
        let now = self.now();
        let after = |delay| TimeDelta::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay));
        let run_at =
            change.run_at.or_else(|| change.run_in.map(|delay| after(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)));
        self.free_ones(ids, now)
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.run_at = run_at.unwrap_or(job.run_at);
                    job.priority = change.priority.unwrap_or(job.priority);
                    job.attempts = change.attempts.unwrap_or(job.attempts);
                    job.max_attempts = change.max_attempts.unwrap_or(job.max_attempts);
                    job.updated_at = now;
                })
            })
            .collect()
    }

    pub(super) fn unlock(&mut self, workers: &[String]) -> usize {
        for worker in workers {
            self.forget_worker(worker);
        }
        // Unlocking leaves run_at alone.
        self.release(|lock| workers.contains(&lock.by), |_| {})
    }

    pub(super) fn clean(&mut self, what: &Cleanup) -> Cleaned {
        let mut cleaned = Cleaned::default();
        if what.dead_jobs {
            let dead: Vec<JobId> = self
                .jobs
                .values()
                .filter(|job| job.locked_at.is_none() && job.attempts >= job.max_attempts)
                .map(|job| job.id)
                .collect();
            cleaned.dead_jobs = dead.into_iter().filter_map(|id| self.delete(id)).count() as u64;
        }
        if what.tasks {
            let used: HashSet<&String> = self.jobs.values().map(|job| &job.task).chain(&what.keep_tasks).collect();
            let before = self.tasks.len();
            self.tasks.retain(|task| used.contains(task));
            cleaned.tasks = (before - self.tasks.len()) as u64;
        }
        if what.queues {
            let used: HashSet<&String> = self.jobs.values().filter_map(|job| job.queue.as_ref()).collect();
            let before = self.queues.len();
            self.queues.retain(|queue, held| held.is_some() || used.contains(queue));
            cleaned.queues = (before - self.queues.len()) as u64;
            let queues = &self.queues;
            self.turns.retain(|(_, queue), _| queues.contains_key(queue));
        }
        cleaned
    }
}
