//! A storage that makes the faults that a test asks for. A call whose answer is lost has happened: as with a connection that dies after the
//! commit, only the news of it goes wrong.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

use super::Faults;
use crate::error::Result;
use crate::job::{Job, JobId, NewJob};
use crate::storage::messages::Messages;
use crate::storage::{
    Admin, Capabilities, ClaimRequest, Claimed, Consumer, Doctor, DueJob, Inspect, KnownCrontab, Migrated, Offers,
    Registration, Rescued, Schedules, Settled, Settlement, Storage, Transfer, Wakeup, Watch, WorkerId, WorkerStatus,
};

/// A storage in front of another one, with [`Faults`].
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    faults: Arc<Faults>,
}

/// The same for one worker.
#[derive(Debug)]
struct FaultyConsumer {
    inner: Arc<dyn Consumer>,
    faults: Arc<Faults>,
}

impl FaultyStorage {
    /// This storage, with these faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

/// The part that both have.
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
                self.faults.reach().await?;
                self.inner.migrate().await
            }
            async fn version(&self) -> Result<i32> {
                self.faults.reach().await?;
                self.inner.version().await
            }
            async fn now(&self) -> Result<DateTime<Utc>> {
                self.faults.reach().await?;
                self.inner.now().await
            }
            async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
                self.faults.add(self.inner.add(jobs)).await
            }
            fn consumer(&self) -> Arc<dyn Consumer> {
                Arc::new(FaultyConsumer { inner: self.inner.consumer(), faults: Arc::clone(&self.faults) })
            }
            fn schedules(&self) -> Option<&dyn Schedules> {
                self.inner.schedules().map(|_| self as &dyn Schedules)
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
                self.faults.reach().await?;
                self.inner.require_schedules()?.known_crontabs().await
            }
            async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
                self.faults.reach().await?;
                self.inner.require_schedules()?.register_crontabs(identifiers, since).await
            }
            async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
                self.faults.reach().await?;
                self.inner.require_schedules()?.add_due(moment, due).await
            }
        }
    };
}

faulty_storage!(FaultyStorage);
faulty_storage!(FaultyConsumer);

#[async_trait]
impl Consumer for FaultyConsumer {
    fn reconnect(&self) -> bool {
        self.inner.reconnect()
    }
    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        self.faults.reach().await?;
        self.inner.register(registration).await
    }
    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.faults.reach().await?;
        self.inner.serve(worker, tasks).await
    }
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.faults.reach().await?;
        let shown = self.inner.heartbeat(worker).await?;
        self.faults.heard()?;
        Ok(shown)
    }
    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.faults.reach().await?;
        self.inner.report(worker, status).await
    }
    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.faults.reach().await?;
        self.inner.deregister(worker).await
    }
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.faults.reach().await?;
        let claimed = self.inner.claim(request).await?;
        self.faults.claimed()?;
        Ok(claimed)
    }
    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        self.faults.reach().await?;
        let applied = self.inner.settle(worker, settled).await?;
        self.faults.settled().await?;
        Ok(applied)
    }
    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.faults.reach().await?;
        self.inner.existing(ids).await
    }
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.faults.reach().await?;
        self.inner.release_untracked(worker, holds).await
    }
    async fn release_stale(&self) -> Result<u64> {
        self.faults.reach().await?;
        self.faults.sweep()?;
        self.inner.release_stale().await
    }
    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.faults.reach().await?;
        self.inner.rescue(watch).await
    }
    fn wakeups(&self, offers: Offers) -> BoxStream<'static, Wakeup> {
        self.inner.wakeups(offers)
    }
}
