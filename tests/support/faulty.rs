//! A storage that loses or delays answers. What it is asked for happens: only the news of it goes wrong, as with a
//! connection that dies after the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backfill::error::FailureKind;
use backfill::storage::{
    Check, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, DueJob, JobFilter, KnownCrontab, Migrated, NewJob, Offer,
    QueueInfo, Registration, Reschedule, Rescued, Settled, Settlement, Storage, TaskInfo, Wakeup, Watch, WorkerId,
    WorkerInfo,
};
use backfill::{Error, Job, JobId, Result};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::watch;

#[derive(Debug)]
pub struct Faults {
    /// Every how many-th claim's answer is lost; 0 for none.
    pub lose_claims: usize,
    /// Every how many-th settlement's answer is lost; 0 for none.
    pub lose_settles: usize,
    /// How late the answers of settlements are.
    pub late_settles: Duration,
    /// Whether the crontab finds nobody at home.
    pub away: AtomicBool,
    /// Whether sweeps fail.
    pub no_sweeps: AtomicBool,
    /// Whether the answers of adds are lost.
    pub lose_adds: AtomicBool,
    /// Whether heartbeats arrive, and their answers do not.
    pub signs_unheard: AtomicBool,
    calls: (AtomicUsize, AtomicUsize),
}

impl Faults {
    pub fn new(lose_claims: usize, lose_settles: usize, late_settles: Duration) -> Arc<Self> {
        Arc::new(Self {
            lose_claims,
            lose_settles,
            late_settles,
            away: AtomicBool::new(false),
            no_sweeps: AtomicBool::new(false),
            lose_adds: AtomicBool::new(false),
            signs_unheard: AtomicBool::new(false),
            calls: Default::default(),
        })
    }

    /// How many claims were made.
    pub fn claims(&self) -> usize {
        self.calls.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Storage>,
    pub faults: Arc<Faults>,
}

fn lost(every: usize, calls: &AtomicUsize) -> Result<()> {
    let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
    if every > 0 && call.is_multiple_of(every) {
        return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
    }
    Ok(())
}

#[async_trait]
impl Storage for Faulty {
    fn for_worker(&self) -> Arc<dyn Storage> {
        Arc::new(Self { inner: self.inner.for_worker(), faults: Arc::clone(&self.faults) })
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        let claimed = self.inner.claim(request).await?;
        lost(self.faults.lose_claims, &self.faults.calls.0)?;
        Ok(claimed)
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let applied = self.inner.settle(worker, settled).await?;
        tokio::time::sleep(self.faults.late_settles).await;
        lost(self.faults.lose_settles, &self.faults.calls.1)?;
        Ok(applied)
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.inner.existing(ids).await
    }
    fn name(&self) -> String {
        self.inner.name()
    }
    async fn migrate(&self) -> Result<Migrated> {
        self.inner.migrate().await
    }
    async fn check(&self) -> Result<i32> {
        self.inner.check().await
    }
    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        let added = self.inner.add(jobs).await?;
        if self.faults.lose_adds.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
        }
        Ok(added)
    }
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.inner.release_untracked(worker, holds).await
    }
    async fn release_stale(&self) -> Result<u64> {
        if self.faults.no_sweeps.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "not now"));
        }
        self.inner.release_stale().await
    }
    async fn register_with(&self, registration: &Registration<'_>) -> Result<bool> {
        self.inner.register_with(registration).await
    }
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        let shown = self.inner.heartbeat(worker).await?;
        if self.faults.signs_unheard.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
        }
        Ok(shown)
    }
    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.inner.deregister(worker).await
    }
    async fn rescue_with(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.inner.rescue_with(watch).await
    }
    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.inner.wakeups()
    }
    fn wakeups_and_handoffs(&self, offers: watch::Receiver<Option<Offer>>) -> BoxStream<'static, Wakeup> {
        self.inner.wakeups_and_handoffs(offers)
    }
    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        self.inner.remove(key).await
    }
    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.inner.complete(ids).await
    }
    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        self.inner.discard(ids, reason).await
    }
    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        self.inner.reschedule(ids, change).await
    }
    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        self.inner.unlock(workers).await
    }
    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        self.inner.cleanup(what).await
    }
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        self.inner.reserve(transfer_id, after, limit, max_bytes).await
    }
    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        self.inner.delete_reserved(transfer_id, ids).await
    }
    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        self.inner.import(run, transfer_id, jobs).await
    }
    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        self.inner.forget_imports(transfer_id).await
    }
    async fn task_names(&self) -> Result<Vec<String>> {
        self.inner.task_names().await
    }
    async fn diagnose(&self) -> Vec<Check> {
        self.inner.diagnose().await
    }
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.inner.job(id).await
    }
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.inner.jobs(filter).await
    }
    async fn counts(&self) -> Result<Counts> {
        self.inner.counts().await
    }
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        self.inner.known_crontabs().await
    }
    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.inner.register_crontabs(identifiers, since).await
    }
    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        if self.faults.away.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "the storage is away"));
        }
        self.inner.add_due(moment, due).await
    }
    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.inner.queues().await
    }
    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        self.inner.tasks().await
    }
    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.inner.workers().await
    }
}
