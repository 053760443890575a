//! Tasks that come and go while the worker runs.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Engine;
use super::claiming::{FIRST_CLAIM_DELAY, MAX_CLAIM_DELAY};
use super::identity::REGISTER_TIMEOUT;

/// Tells the storage which tasks the worker runs, for as long as it takes.
pub(super) type Telling = BoxFuture<'static, ()>;

impl Engine {
    /// Other tasks are to be run from now on. Jobs that run go on, and those of tasks that are gone and have not started are
    /// released.
    pub(super) fn tasks_changed(&mut self) {
        let tasks = Arc::clone(&self.task_sets.borrow_and_update());
        self.handlers = Arc::clone(&tasks.handlers);
        self.tasks = Arc::clone(&tasks.names);
        self.limited.clone_from(&tasks.limited);
        self.offered = Arc::clone(&tasks.offered);
        // An offer names the tasks. The next one names these.
        self.handoff.end_offer();
        self.tell_tasks();
        self.look();
    }

    /// Tells others what this worker runs, if it is not what it registered with.
    pub(super) fn tell_tasks(&mut self) {
        if Arc::ptr_eq(&self.tasks, &self.registered_with) {
            return;
        }
        let (line, worker, tasks) = (self.line.clone(), Arc::clone(&self.worker), Arc::clone(&self.tasks));
        self.telling = Some(Box::pin(async move {
            let mut delay = FIRST_CLAIM_DELAY;
            // One that is registered no more has nothing to tell: who comes after it tells anew.
            while let Err(error) = line.call(REGISTER_TIMEOUT, line.storage().serve(&worker, &tasks)).await {
                tracing::warn!(%error, ?delay, "cannot tell which tasks this worker runs; trying again");
                tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(MAX_CLAIM_DELAY);
            }
        }));
    }
}
