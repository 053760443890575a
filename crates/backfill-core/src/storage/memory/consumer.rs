//! What a worker needs.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::MemoryStorage;
use crate::error::Result;
use crate::job::JobId;
use crate::storage::messages::{settle_units, split_settled};
use crate::storage::{
    ClaimRequest, Claimed, Consumer, Offers, Registration, Rescued, Settled, Settlement, Wakeup, Watch, WorkerId,
    WorkerStatus,
};

#[async_trait]
impl Consumer for MemoryStorage {
    fn reconnect(&self) -> bool {
        false
    }

    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        Ok(self.state().register(registration))
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        Ok(self.state().serve(worker, tasks))
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        Ok(self.state().heartbeat(worker))
    }

    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.state().report(worker, status);
        Ok(())
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        let released = self.state().deregister(worker);
        self.notify(released);
        Ok(())
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        Ok(self.state().claim(request))
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        if settled.iter().any(|settlement| settlement.then.needs_messages()) {
            let (with_messages, plain) = split_settled(settled);
            let written = settle_units(self, worker, &with_messages).await?;
            return Ok(written.and(self.settle(worker, &plain).await?));
        }
        let freed: Vec<&str> = settled.iter().filter_map(|settlement| settlement.claim.queue.as_deref()).collect();
        let (applied, for_others) = {
            let mut state = self.state();
            let applied = state.settle(worker, settled);
            (applied, state.are_next_for_others(worker, &freed))
        };
        let is_back =
            |settlement: &&Settlement| settlement.outcome.releases() && applied.contains(&settlement.claim.id);
        let follow = settled.iter().filter(|settlement| applied.contains(&settlement.claim.id));
        let follow: usize = follow.map(|settlement| settlement.then.jobs.len()).sum();
        let released = settled.iter().filter(is_back).count() + follow;
        // Whoever frees a queue looks for its next job itself; others have heard of nothing.
        self.notify(released.max(usize::from(for_others)));
        Ok(Settled::applied(applied).freed_queues(freed.len()))
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        let state = self.state();
        Ok(ids.iter().copied().filter(|id| state.job(*id).is_some()).collect())
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

    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let rescued = self.state().rescue(watch);
        self.notify(rescued.iter().map(|worker| usize::try_from(worker.jobs).unwrap_or_default()).sum());
        Ok(rescued)
    }

    fn wakeups(&self, _offers: Offers) -> BoxStream<'static, Wakeup> {
        Wakeup::by_count(self.added.subscribe())
    }
}
