//! A storage that loses or delays answers. What it is asked for happens: only the news of it goes wrong, as with a
//! connection that dies after the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backfill::error::FailureKind;
use backfill::storage::messages::Messages;
use backfill::storage::{
    Admin, Capabilities, ClaimRequest, Claimed, Consumer, Doctor, DueJob, Inspect, KnownCrontab, Migrated, NewJob,
    Offers, Registration, Rescued, Schedules, Settled, Settlement, Storage, Transfer, Wakeup, Watch, WorkerId,
    WorkerStatus,
};
use backfill::{Error, Job, JobId, Result};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

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

/// The same for one worker.
#[derive(Debug)]
struct FaultyConsumer {
    inner: Arc<dyn Consumer>,
    faults: Arc<Faults>,
}

fn lost(every: usize, calls: &AtomicUsize) -> Result<()> {
    let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
    if every > 0 && call.is_multiple_of(every) {
        return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
    }
    Ok(())
}

/// What both are: the storage within, but for adding and the crontab.
macro_rules! faulty_storage {
    ($of:ty) => {
        #[async_trait]
        impl Storage for $of {
            fn name(&self) -> String {
                self.inner.name()
            }
            fn capabilities(&self) -> Capabilities {
                self.inner.capabilities()
            }
            async fn migrate(&self) -> Result<Migrated> {
                self.inner.migrate().await
            }
            async fn version(&self) -> Result<i32> {
                self.inner.version().await
            }
            async fn now(&self) -> Result<DateTime<Utc>> {
                self.inner.now().await
            }
            async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
                let added = self.inner.add(jobs).await?;
                if self.faults.lose_adds.load(Ordering::SeqCst) {
                    return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
                }
                Ok(added)
            }
            fn consumer(&self) -> Arc<dyn Consumer> {
                Arc::new(FaultyConsumer { inner: self.inner.consumer(), faults: Arc::clone(&self.faults) })
            }
            fn schedules(&self) -> Option<&dyn Schedules> {
                Some(self)
            }
            fn admin(&self) -> Option<&dyn Admin> {
                self.inner.admin()
            }
            fn inspect(&self) -> Option<&dyn Inspect> {
                self.inner.inspect()
            }
            fn transfer(&self) -> Option<&dyn Transfer> {
                self.inner.transfer()
            }
            fn messages(&self) -> Option<&dyn Messages> {
                self.inner.messages()
            }
            fn doctor(&self) -> Option<&dyn Doctor> {
                self.inner.doctor()
            }
        }

        #[async_trait]
        impl Schedules for $of {
            async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
                self.inner.require_schedules()?.known_crontabs().await
            }
            async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
                self.inner.require_schedules()?.register_crontabs(identifiers, since).await
            }
            async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
                if self.faults.away.load(Ordering::SeqCst) {
                    return Err(Error::storage("ask the storage", FailureKind::Unknown, "the storage is away"));
                }
                self.inner.require_schedules()?.add_due(moment, due).await
            }
        }
    };
}

faulty_storage!(Faulty);
faulty_storage!(FaultyConsumer);

#[async_trait]
impl Consumer for FaultyConsumer {
    fn reconnect(&self) -> bool {
        self.inner.reconnect()
    }
    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        self.inner.register(registration).await
    }
    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.inner.serve(worker, tasks).await
    }
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        let shown = self.inner.heartbeat(worker).await?;
        if self.faults.signs_unheard.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost"));
        }
        Ok(shown)
    }
    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.inner.report(worker, status).await
    }
    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.inner.deregister(worker).await
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
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.inner.release_untracked(worker, holds).await
    }
    async fn release_stale(&self) -> Result<u64> {
        if self.faults.no_sweeps.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unknown, "not now"));
        }
        self.inner.release_stale().await
    }
    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.inner.rescue(watch).await
    }
    fn wakeups(&self, offers: Offers) -> BoxStream<'static, Wakeup> {
        self.inner.wakeups(offers)
    }
}
