//! A worker beside a test.

use backfill::{BackfillClient, ShutdownHandle, Summary, Worker, WorkerBuilder};
use tokio::task::JoinHandle;

use super::{soon, until};

/// A worker that runs in the background until the test ends it.
pub struct Running {
    pub handle: ShutdownHandle,
    worker: JoinHandle<backfill::Result<Summary>>,
}

impl Running {
    pub fn start(builder: WorkerBuilder) -> Self {
        Self::of(builder.handle_signals(false).build().expect("worker"))
    }

    /// A worker that does not handle signals.
    pub fn of(worker: Worker) -> Self {
        Self { handle: worker.shutdown_handle(), worker: tokio::spawn(async move { worker.run().await }) }
    }

    pub async fn end(self) -> Summary {
        self.handle.shutdown();
        self.ended().await.expect("run")
    }

    pub async fn ended(self) -> backfill::Result<Summary> {
        soon("the worker ends", self.worker).await.expect("no panic")
    }
}

/// Waits until no jobs are left.
pub async fn empty(client: &BackfillClient) {
    until("no jobs are left", || async { client.counts().await.expect("counts").total() == 0 }).await;
}
