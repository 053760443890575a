//! Moving jobs from and to other storages.

use std::ops::Bound;

use async_trait::async_trait;

use super::MemoryStorage;
use super::state::{State, is_available};
use crate::error::{Error, Result};
use crate::job::{Job, JobId};
use crate::storage::manage::within;
use crate::storage::{Transfer, WorkerId, reserved_at};

#[async_trait]
impl Transfer for MemoryStorage {
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        Ok(self.state().reserve(transfer_id, after, limit, max_bytes))
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        Ok(self.state().delete_reserved(transfer_id, ids))
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        let here =
            self.state().import(run, transfer_id, jobs).ok_or_else(|| Error::MoveTakenOver { run: run.to_string() })?;
        self.notify(here.len());
        Ok(here)
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        self.state().forget_imports(transfer_id);
        Ok(())
    }
}

impl State {
    pub(super) fn reserve(&mut self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Vec<Job> {
        let theirs = |job: &&Job| is_available(job) || job.locked_by.as_deref() == Some(transfer_id);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let size = |job: &Job| job.payload.as_str().len() + job.last_error.as_ref().map_or(0, String::len);
        let waiting = self.jobs.range((from, Bound::Unbounded)).map(|(_, job)| job).filter(theirs).take(limit as usize);
        let ids: Vec<JobId> = within(max_bytes, waiting, |job| size(job)).map(|job| job.id).collect();
        let take = |id| {
            self.change(id, |job| {
                job.locked_by = Some(transfer_id.to_owned());
                job.locked_at = Some(reserved_at());
            })
        };
        ids.into_iter().filter_map(take).collect()
    }

    pub(super) fn delete_reserved(&mut self, transfer_id: &str, ids: &[JobId]) -> u64 {
        let is_taken = |id: &&JobId| self.jobs.get(id).is_some_and(|job| job.locked_by.as_deref() == Some(transfer_id));
        let taken: Vec<JobId> = ids.iter().filter(is_taken).copied().collect();
        taken.into_iter().filter_map(|id| self.delete(id)).count() as u64
    }

    pub(super) fn import(&mut self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Option<Vec<JobId>> {
        if !self.workers.contains_key(run.as_str()) {
            return None;
        }
        let mut here = Vec::new();
        for job in jobs {
            if self.imports.get(transfer_id).is_some_and(|known| known.contains(&job.id)) {
                here.push(job.id);
                continue;
            }
            if job.key.as_ref().is_some_and(|key| self.by_key.contains_key(key)) {
                continue;
            }
            self.tasks.insert(job.task.clone());
            if let Some(queue) = &job.queue {
                self.queues.entry(queue.clone()).or_default();
            }
            let mut copy = job.clone();
            copy.id = self.next_id();
            copy.locked_at = None;
            copy.locked_by = None;
            self.index(&copy);
            self.jobs.insert(copy.id, copy);
            self.imports.entry(transfer_id.to_owned()).or_default().insert(job.id);
            here.push(job.id);
        }
        Some(here)
    }

    pub(super) fn forget_imports(&mut self, transfer_id: &str) {
        self.imports.remove(transfer_id);
    }
}
