//! What the worker does: its tasks, and how many jobs at once, which may change while it runs.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::super::events::Event;
use super::super::work::Work;
use super::Engine;
use super::claiming::{FIRST_CLAIM_DELAY, MAX_CLAIM_DELAY};
use super::registration::REGISTER_TIMEOUT;

/// Tells the storage which tasks the worker runs, for as long as it takes.
pub(super) type Telling = BoxFuture<'static, ()>;

/// What it does at present, and what it is to do.
pub(super) struct CurrentWork {
    pub now: Arc<Work>,
    pub next: watch::Receiver<Arc<Work>>,
}

impl CurrentWork {
    pub fn new(mut next: watch::Receiver<Arc<Work>>) -> Self {
        let now = Arc::clone(&next.borrow_and_update());
        Self { now, next }
    }
}

impl Engine {
    /// Other work is to be done from now on. Jobs that run go on. What is claimed and has not started is released: it was claimed by
    /// other limits.
    pub(super) fn work_changed(&mut self) {
        self.work.now = Arc::clone(&self.work.next.borrow_and_update());
        let work = &self.work.now;
        self.events.tell(|| Event::WorkChanged { tasks: work.names.to_vec(), concurrency: work.concurrency });
        self.claims.of_old_work = self.claims.newest;
        self.release_waiting();
        // An offer names the tasks. The next one names these.
        self.handoff.end_offer();
        self.tell_tasks();
        self.look();
    }

    /// Tells others what this worker runs, if it is not what it registered with.
    pub(super) fn tell_tasks(&mut self) {
        if *self.work.now.names == *self.registration.told_tasks {
            return;
        }
        self.registration.told_tasks = Arc::clone(&self.work.now.names);
        let (calls, worker, tasks) =
            (self.calls.clone(), Arc::clone(&self.registration.worker), Arc::clone(&self.work.now.names));
        self.registration.telling = Some(Box::pin(async move {
            let mut delay = FIRST_CLAIM_DELAY;
            // One that is registered no more has nothing to tell: who comes after it tells anew.
            while let Err(error) = calls.call(REGISTER_TIMEOUT, calls.storage().serve(&worker, &tasks)).await {
                tracing::warn!(%error, ?delay, "cannot tell which tasks this worker runs; trying again");
                tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(MAX_CLAIM_DELAY);
            }
        }));
    }
}
