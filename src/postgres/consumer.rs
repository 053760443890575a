//! What a worker needs, each verb with what is around its statements: trying again, explaining what this role lacks, and telling
//! the cursors what may be ready now.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::connection::encoding;
use super::connection::rights::Need;
use super::handoff::Offering;
use super::{PostgresStorage, listen};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::messages::{settle_units, split_settled};
use crate::storage::{
    ClaimRequest, Claimed, Consumer, Offers, Registration, Rescued, Settled, Settlement, Wakeup, Watch, WorkerId,
    WorkerStatus,
};

#[async_trait]
impl Consumer for PostgresStorage {
    fn reconnect(&self) -> bool {
        self.database.connections.renew();
        true
    }

    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        self.database
            .retrying(|| async {
                self.database.refuse_hidden(Need::Work).await?;
                self.register_worker(registration).await
            })
            .await
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.serve_tasks(worker, tasks).await
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.database.retrying(|| self.write_heartbeat(worker)).await
    }

    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.write_status(worker, status).await
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.database.retrying(|| self.remove_registration(worker)).await
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.claim_jobs(request).await
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        if settled.iter().any(|settlement| settlement.then.needs_messages()) {
            let (with_messages, plain) = split_settled(settled);
            let written = settle_units(self, worker, &with_messages).await?;
            let plain = if plain.is_empty() { Settled::default() } else { self.settle(worker, &plain).await? };
            return Ok(written.and(plain));
        }
        match self.settle_batch(worker, settled).await {
            Err(error) if encoding::is_for_a_character(&error) => {
                match self.database.storable_results(settled).await? {
                    Some(storable) => self.settle_batch(worker, &storable).await,
                    None => Err(error),
                }
            }
            written => written,
        }
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.database.explained(Need::Read, self.existing_jobs(ids).await).await
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.freed(self.database.retrying(|| self.release_untracked_jobs(worker, holds)).await)
    }

    async fn release_stale(&self) -> Result<u64> {
        self.freed(self.database.retrying(|| self.release_stale_locks()).await)
    }

    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let rescued = self.database.retrying(|| self.rescue_workers(watch)).await?;
        if !rescued.is_empty() {
            self.cursors.forget();
        }
        Ok(rescued)
    }

    fn wakeups(&self, offers: Offers) -> BoxStream<'static, Wakeup> {
        listen::wakeups(self.clone(), offers.map_or_else(Offering::none, Offering::new))
    }
}
