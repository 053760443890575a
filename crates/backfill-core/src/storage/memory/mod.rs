//! Jobs in this process's memory: for tests, demonstrations and examples.
//!
//! The smallest correct implementation of [`Storage`]: one lock, one map. It keeps the seam honest, and it follows the
//! same rules as PostgreSQL, case for case (see the contract suite). Nothing survives the process.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::{
    Check, CheckStatus, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, DueJob, JobFilter, KnownCrontab, Migrated,
    QueueInfo, Registration, Reschedule, Settled, Settlement, Storage, TaskInfo, Wakeup, Watch, WorkerId, WorkerInfo,
};
use crate::error::{Error, Result};
use crate::job::{Job, JobId, NewJob};
use state::State;

/// Jobs in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    /// How many jobs have been added or made ready so far.
    added: Arc<watch::Sender<u64>>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self { state: Arc::default(), added: Arc::new(watch::Sender::new(0)) }
    }
}

impl MemoryStorage {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held can only come from running out of memory; the state is a plain map.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, count: usize) {
        if count > 0 {
            self.added.send_modify(|added| *added = added.wrapping_add(count as u64));
        }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn for_worker(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    async fn migrate(&self) -> Result<Migrated> {
        Ok(Migrated::new(None, 1))
    }

    async fn check(&self) -> Result<i32> {
        Ok(1)
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        let stored = self.state().add(jobs);
        self.notify(stored.len());
        Ok(stored)
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        Ok(self.state().claim(request))
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        let state = self.state();
        Ok(ids.iter().copied().filter(|id| state.job(*id).is_some()).collect())
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let freed: Vec<&str> = settled.iter().filter_map(|settlement| settlement.claim.queue.as_deref()).collect();
        let (applied, for_others) = {
            let mut state = self.state();
            let applied = state.settle(worker, settled);
            (applied, state.are_next_for_others(worker, &freed))
        };
        let is_back =
            |settlement: &&Settlement| settlement.outcome.releases() && applied.contains(&settlement.claim.id);
        let released = settled.iter().filter(is_back).count();
        // Whoever frees a queue looks for its next job itself; others have heard of nothing.
        self.notify(released.max(usize::from(for_others)));
        Ok(Settled::applied(applied))
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        let released = self.state().release_untracked(worker, holds);
        self.notify(released);
        Ok(released as u64)
    }

    async fn release_stale(&self) -> Result<u64> {
        let released = self.state().release_stale();
        self.notify(released);
        Ok(released as u64)
    }

    async fn register_with(&self, registration: &Registration<'_>) -> Result<bool> {
        Ok(self.state().register(registration))
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        Ok(self.state().serve(worker, tasks))
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        Ok(self.state().heartbeat(worker))
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        let released = self.state().deregister(worker);
        self.notify(released);
        Ok(())
    }

    async fn rescue_with(&self, watch: &Watch) -> Result<Vec<super::Rescued>> {
        let rescued = self.state().rescue(watch);
        self.notify(rescued.iter().map(|worker| usize::try_from(worker.jobs).unwrap_or_default()).sum());
        Ok(rescued)
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        let changes = self.added.subscribe();
        // The sender is kept alive by the state's owner; when every storage handle is gone, nothing can be added.
        let added = stream::unfold((changes, 0), |(mut changes, seen)| async move {
            if changes.wait_for(|added| *added != seen).await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = *changes.borrow_and_update();
            Some((Wakeup::JobsAdded(now.wrapping_sub(seen)), (changes, now)))
        });
        stream::once(std::future::ready(Wakeup::Listening)).chain(added).boxed()
    }

    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        Ok(self.state().known_crontabs())
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.state().register_crontabs(identifiers, since);
        Ok(())
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        let added = self.state().add_due(moment, due);
        self.notify(added.iter().flatten().count());
        Ok(added)
    }

    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        Ok(self.state().remove(key))
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        Ok(self.state().complete(ids))
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        Ok(self.state().discard(ids, reason))
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

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.state().job(id))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        Ok(self.state().list(filter))
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.state().counts())
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        Ok(self.state().queues())
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        Ok(self.state().tasks())
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        Ok(self.state().task_names())
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        Ok(Some(self.state().last_id()))
    }

    async fn diagnose(&self) -> Vec<Check> {
        let status = CheckStatus::Fine { detail: "nothing survives this process".to_owned() };
        vec![Check::new("memory", status)]
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.state().workers())
    }
}
