//! Events: named values of a workflow that others can read while it runs.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ctx, clock, replay, row, sleep};
use crate::codec;
use crate::error::Result;
use crate::failure::Failure;
use crate::options::text;
use crate::store::{Change, Effect};

const SET: &str = "DBOS.setEvent";
const GET: &str = "DBOS.getEvent";

impl Ctx {
    /// Sets the value of an event of this workflow, for everybody to read. The last one holds.
    ///
    /// # Errors
    /// When the value cannot be serialized, the workflow is cancelled, or inside a step.
    pub fn set_event<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<T> {
        let number = self.numbers("an event", 1);
        let execution = Arc::clone(&self.execution);
        let value = codec::portable("the event", value);
        let key = text("the event", key).map(|()| key.to_owned());
        async move {
            let (number, key) = (number?, key?);
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, SET)? {
                return replay(row);
            }
            let mut step = row(number, SET, clock());
            step.output = Some("null".to_owned());
            let change = Change::Event(format!("{}::{key}", execution.id));
            execution.write(step, Some(Effect::Event { key, value: value? })).await?;
            execution.core.hub.wake(&change);
            Ok(())
        }
    }

    /// The value of another workflow's event, once it is set, or `None` if it is not in this time. It takes two numbers.
    ///
    /// # Errors
    /// When the value is no `T`, the workflow is cancelled, or inside a step.
    pub fn get_event<T: DeserializeOwned + Send>(
        &self,
        workflow: &str,
        key: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<T>, Failure>> + Send + use<T> {
        let number = self.numbers("reading an event", 2);
        let execution = Arc::clone(&self.execution);
        let (workflow, key) = (workflow.to_owned(), key.to_owned());
        async move {
            let number = number?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, GET)? {
                return replay(row);
            }
            let started_at = clock();
            let core = &execution.core;
            let waiter = core.hub.wait(Change::Event(format!("{workflow}::{key}")));
            let mut deadline = None;
            loop {
                let heard = waiter.heard();
                tokio::pin!(heard);
                heard.as_mut().enable();
                let value = match core.store.event(&workflow, &key).await {
                    Err(error) if error.is_transient() => {
                        tracing::debug!(%error, "waiting for the storage");
                        None
                    }
                    value => value?,
                };
                let over = deadline.is_some_and(|until| core.now() >= until);
                if value.is_some() || over {
                    let mut step = row(number, GET, started_at);
                    match &value {
                        Some(value) => {
                            step.output = Some(value.text.clone());
                            step.format.clone_from(&value.format);
                        }
                        None => step.output = Some("null".to_owned()),
                    }
                    execution.write(step.clone(), None).await?;
                    return replay(&step);
                }
                let until = match deadline {
                    Some(until) => until,
                    None => *deadline.insert(sleep::deadline(&execution, number + 1, timeout).await?),
                };
                execution.wait(heard, core.settings.poll, until).await?;
            }
        }
    }
}
