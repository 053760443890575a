//! Starting once what is asked for again and again.

use std::time::Duration;

use serde::Serialize;

use super::{Client, Handle};
use crate::error::Result;
use crate::options::{OnDuplicate, Start};
use crate::store::INTERNAL_QUEUE;
use crate::workflow::Workflow;

impl Client {
    /// Starts a workflow after `delay`, unless it is asked for again in that time with the same key: then it waits anew, and has the new input. With
    /// `at_most`, it waits no longer than that from the first call.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn debounce<I: Serialize, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        key: &str,
        delay: Duration,
        at_most: Option<Duration>,
        input: &I,
        options: Start,
    ) -> Result<Handle<O, E>> {
        crate::options::text("the debounce key", key)?;
        let queue = options.queue.clone().unwrap_or_else(|| INTERNAL_QUEUE.to_owned());
        let options = options.queue(queue);
        let row = self.row(workflow.name(), input, &options)?;
        let row = Start::debounced(row, key, delay, at_most);
        self.enqueue(workflow, row, &options.on_duplicate(OnDuplicate::Reject)).await
    }
}
