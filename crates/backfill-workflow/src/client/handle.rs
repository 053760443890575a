//! A workflow that was started, and its result.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Client;
use crate::codec;
use crate::engine::run::Outcome;
use crate::error::{Error, Result};
use crate::failure::{Failure, WorkflowError};
use crate::store::{Change, Filter, Run, Status};
use crate::workflow::Workflow;

/// A workflow that was started. Clones are the same workflow; its result may be awaited by any of them, any number of times, in any process.
pub struct Handle<O, E = Failure> {
    client: Client,
    id: Arc<str>,
    /// Where the engine of this process puts the result.
    outcome: Option<Arc<OnceLock<Outcome>>>,
    types: PhantomData<fn() -> Result<O, E>>,
}

impl<O, E> Clone for Handle<O, E> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            id: Arc::clone(&self.id),
            outcome: self.outcome.clone(),
            types: PhantomData,
        }
    }
}

impl<O, E> std::fmt::Debug for Handle<O, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({:?})", self.id)
    }
}

impl Client {
    /// The handle of a workflow, by its id. Nothing is looked at yet.
    #[must_use]
    pub fn handle<I, O, E>(&self, _: Workflow<I, O, E>, id: &str) -> Handle<O, E> {
        Handle { client: self.clone(), id: id.into(), outcome: None, types: PhantomData }
    }

    pub(super) fn local_handle<O, E>(&self, id: &str, outcome: Arc<OnceLock<Outcome>>) -> Handle<O, E> {
        Handle { client: self.clone(), id: id.into(), outcome: Some(outcome), types: PhantomData }
    }

    /// How a workflow has ended, if it has.
    async fn ended(&self, id: &str) -> Result<Option<Outcome>> {
        let filter = Filter { load_input: false, ..Filter::of_ids([id]) };
        let Some(run) = self.store.runs(&filter).await?.pop() else {
            return Err(Error::NoWorkflow { id: id.to_owned() });
        };
        let Run { status, output, error, format, .. } = run;
        Ok(status.is_final().then_some(Outcome { status, output, error, format }))
    }
}

impl<O, E> Handle<O, E> {
    /// The workflow's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is known of the workflow now.
    ///
    /// # Errors
    /// When there is no such workflow, or the storage fails.
    pub async fn get(&self) -> Result<Run> {
        self.client.get(&self.id).await
    }

    /// What has become of the workflow.
    ///
    /// # Errors
    /// When there is no such workflow, or the storage fails.
    pub async fn status(&self) -> Result<Status> {
        Ok(self.get().await?.status)
    }

    /// Waits for the end. A database that is away is waited for.
    pub(crate) async fn outcome(&self) -> Result<Outcome> {
        self.client.listen();
        let waiter = self.client.hub.wait(Change::Finished(self.id.to_string()));
        // While it runs here, its engine says when it has ended: the storage is read only if nothing was heard for a while.
        let runs_here = || self.client.core.as_ref().is_some_and(|core| core.runs_here(&self.id));
        let mut overdue = false;
        loop {
            let heard = waiter.heard();
            tokio::pin!(heard);
            heard.as_mut().enable();
            if let Some(outcome) = self.outcome.as_ref().and_then(|outcome| outcome.get()) {
                return Ok(outcome.clone());
            }
            if overdue || self.outcome.is_none() || !runs_here() {
                match self.client.ended(&self.id).await {
                    Ok(Some(outcome)) => return Ok(outcome),
                    Ok(None) => {}
                    Err(error) if error.is_transient() => tracing::debug!(%error, "waiting for the storage"),
                    Err(error) => return Err(error),
                }
            }
            overdue = tokio::select! {
                () = heard => false,
                () = tokio::time::sleep(self.client.poll.mul_f64(0.8 + 0.4 * fastrand::f64())) => true,
            };
        }
    }
}

impl<O: DeserializeOwned, E: WorkflowError> Handle<O, E> {
    /// Waits for the workflow's result. A database that is away is waited for.
    ///
    /// # Errors
    /// What the workflow has failed with; or [`Error::Cancelled`], [`Error::Exhausted`], [`Error::NoWorkflow`], as a [`Failure`].
    pub async fn result(&self) -> Result<O, E> {
        let outcome = self.outcome().await.map_err(|error| E::from(error.into()))?;
        decode(&self.id, &outcome)
    }

    /// The workflow's result, or `None` if it has none in this time.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub async fn result_within(&self, timeout: Duration) -> Result<Option<O>, E> {
        match tokio::time::timeout(timeout, self.result()).await {
            Ok(result) => result.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// What a workflow's end means to those who wait for it.
pub(crate) fn decode<O: DeserializeOwned, E: WorkflowError>(id: &str, outcome: &Outcome) -> Result<O, E> {
    if let Some(error) = Error::of_status(id, outcome.status) {
        return Err(E::from(error.into()));
    }
    let format = outcome.format.as_deref();
    if let Some(text) = &outcome.error {
        return Err(Failure::replay(codec::decode_error(text, format)));
    }
    // Some clients store no output where there is none.
    let (text, format) = outcome.output.as_deref().map_or(("null", Some(codec::PORTABLE)), |text| (text, format));
    codec::decode("the workflow's output", text, format).map_err(|error| E::from(error.into()))
}
