//! Time that passes at once.
//!
//! All stored times become older, on every storage. No clock is moved. The clock of a PostgreSQL server cannot be, nor can the `Utc::now()` of
//! the code under test. So a job that this code adds for a time after an advance is due at that time, on each storage.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;

use super::TestQueue;
use crate::error::Result;
use crate::storage::{Watch, WorkerId};

/// Any positive time: so each worker is judged by the time that it has registered.
const BY_ITS_OWN: Duration = Duration::from_millis(1);

/// Time that passes when it is awaited. Made by [`TestQueue::advance`].
///
/// As a rule, no worker runs meanwhile. A worker that does has sent no heartbeat for so long: if that is longer than its
/// [`dead_after`](crate::WorkerBuilder::dead_after), it is declared dead and its jobs are ready again, as if its process had been suspended.
/// [`with_workers`](Self::with_workers) lets it live.
#[must_use = "no time passes before this is awaited"]
#[derive(Debug)]
pub struct Advance<'a> {
    queue: &'a TestQueue,
    time: Duration,
    workers: bool,
}

impl<'a> Advance<'a> {
    pub(super) fn new(queue: &'a TestQueue, time: Duration) -> Self {
        Self { queue, time, workers: false }
    }

    /// The registered workers have sent their heartbeats meanwhile, and keep their jobs.
    pub fn with_workers(mut self) -> Self {
        self.workers = true;
        self
    }

    async fn pass(&self) -> Result<()> {
        let storage = self.queue.storage.consumer();
        self.queue.place.let_pass(self.time).await?;
        self.queue.add_advanced(self.time);
        if self.workers {
            for worker in storage.require_inspect()?.serving().await? {
                storage.heartbeat(&WorkerId::named(worker.id)).await?;
            }
        } else {
            // As another worker would have done meanwhile.
            self.queue.place.mark_overdue().await?;
            storage.rescue(&Watch::new(BY_ITS_OWN)).await?;
        }
        storage.release_stale().await?;
        Ok(())
    }
}

impl<'a> IntoFuture for Advance<'a> {
    type Output = ();
    type IntoFuture = BoxFuture<'a, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.pass().await.unwrap_or_else(|error| panic!("time cannot pass: {error}")) })
    }
}
