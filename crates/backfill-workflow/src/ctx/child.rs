//! Workflows that a workflow starts.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::fail;
use super::{Ctx, clock, replay, row};
use crate::client::{Client, Handle};
use crate::codec;
use crate::engine::run::{Execution, failure_of};
use crate::error::{Error, Result};
use crate::failure::{Failure, WorkflowError};
use crate::options::{OnDuplicate, Start};
use crate::store::{self, Checkpointed, Created, Effect, NewRun};
use crate::workflow::Workflow;

const RESULT: &str = "DBOS.getResult";

/// A workflow that a workflow has started.
pub struct Child<O, E = Failure> {
    execution: Arc<Execution>,
    handle: Handle<O, E>,
}

impl Ctx {
    /// Starts another workflow, once: it is stored in the write that records the step. Its id is this one's with the step's number, unless the options
    /// give one.
    ///
    /// It begins at once in this process, or in the queue that the options name. It inherits who asked for this workflow, and this
    /// one's deadline unless it is detached.
    ///
    /// # Errors
    /// When an option is wrong, the id or the deduplication id is taken, the workflow is cancelled, or inside a step.
    pub fn child<I, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        input: &I,
        options: Start,
    ) -> impl Future<Output = Result<Child<O, E>, Failure>> + Send + use<I, O, E>
    where
        I: Serialize,
        O: DeserializeOwned + Send + 'static,
        E: WorkflowError,
    {
        let number = self.numbers("starting a workflow", 1);
        let execution = Arc::clone(&self.execution);
        let input = codec::encode_input(input);
        let name = workflow.name();
        async move {
            let number = number?;
            execution.gate().await?;
            let child = |id: &str| Child {
                handle: Client::of_core(&execution.core).handle(workflow, id),
                execution: Arc::clone(&execution),
            };
            if let Some(row) = execution.replayed(number, name)? {
                if let Some(failure) = failure_of(row) {
                    return Err(failure);
                }
                return Ok(child(row.child.as_deref().unwrap_or_default()));
            }
            let new = child_row(&execution, number, name, input?, &options)?;
            let mut step = row(number, name, clock());
            step.child = Some(new.id.clone());
            match Client::of_core(&execution.core).check_partition(&new).await {
                // A database that is away is no reason to fail; the checkpoint waits for it.
                Err(error) if !error.is_transient() => return fail(&execution, number, name, error).await,
                _ => {}
            }
            let checkpoint = execution.checkpoint(step.clone(), Some(Effect::Child(Box::new(new.clone()))));
            let answer = execution.interruptible(execution.core.checkpoint_and_begin(checkpoint, new.clone())).await?;
            let Checkpointed::Child(created) = execution.judge(step.clone(), answer).await? else {
                // An earlier write of this execution, whose answer was lost.
                return Ok(child(&new.id));
            };
            match created {
                Created::New { .. } => {
                    if new.start.is_none()
                        && new.delay.is_none()
                        && let Some(queue) = &new.queue
                    {
                        execution.core.wake_queue(queue);
                    }
                    Ok(child(&new.id))
                }
                Created::Exists(existing) if existing.name == new.name => Ok(child(&new.id)),
                Created::Exists(existing) => {
                    let error = Error::OtherWorkflow { id: new.id, recorded: existing.name, found: new.name };
                    fail(&execution, number, name, error).await
                }
                Created::Moved { id } => Ok(child(&id)),
                Created::Duplicate { holder } if options.on_duplicate == OnDuplicate::ReturnExisting => {
                    step.child = Some(holder.clone());
                    execution.write(step, None).await?;
                    Ok(child(&holder))
                }
                Created::Duplicate { holder } => {
                    let error = Error::Duplicate {
                        queue: new.queue.unwrap_or_default(),
                        deduplication: new.deduplication.unwrap_or_default(),
                        holder,
                    };
                    fail(&execution, number, name, error).await
                }
            }
        }
    }
}

fn child_row(execution: &Execution, number: i32, name: &str, input: String, options: &Start) -> Result<NewRun> {
    let mut new = options.row(name, input)?;
    if options.id.is_none() {
        new.id = format!("{}-{number}", execution.id);
    }
    new.parent = Some(execution.id.to_string());
    let core = &execution.core;
    new.application.clone_from(&core.settings.application);
    if let Some(identity) = &execution.identity {
        new.user = new.user.or_else(|| identity.user.clone());
        new.role = new.role.or_else(|| identity.role.clone());
        new.roles = new.roles.or_else(|| identity.roles.clone());
    }
    if !options.detached {
        new.deadline = execution.deadline;
        if let (Some(deadline), Some(timeout)) = (new.deadline, new.timeout)
            && options.queue.is_none()
        {
            new.deadline = Some(deadline.min(core.now() + timeout));
        }
    }
    let here = options.version.as_ref().is_none_or(|version| *version == core.settings.version);
    if options.queue.is_none() && here && core.registry.contains_key(name) {
        new.queue = None;
        new.version = Some(core.settings.version.clone());
        new.start = Some(store::Execution { executor: core.settings.executor.clone(), owner: crate::id::token() });
    }
    Ok(new)
}

impl<O, E> Child<O, E>
where
    O: DeserializeOwned + Serialize + Send + 'static,
    E: WorkflowError,
{
    /// The workflow's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.handle.id()
    }

    /// Waits for its result, which is recorded as a step.
    ///
    /// # Errors
    /// What the workflow has failed with, or that this one is cancelled; and inside a step.
    pub fn result(&self) -> impl Future<Output = Result<O, E>> + Send + use<O, E> {
        let ctx = Ctx::new(Arc::clone(&self.execution));
        let number = ctx.numbers("waiting for a workflow", 1);
        let execution = Arc::clone(&self.execution);
        let handle = self.handle.clone();
        async move {
            let from = |error: Error| E::from(error.into());
            let number = number.map_err(from)?;
            execution.gate().await.map_err(from)?;
            if let Some(row) = execution.replayed(number, RESULT).map_err(from)? {
                return match &row.error {
                    Some(text) => Err(Failure::replay(codec::decode_error(text, row.format.as_deref()))),
                    None => replay(row).map_err(E::from),
                };
            }
            let started_at = clock();
            let outcome = execution.interruptible(handle.outcome()).await.map_err(from)?;
            let mut step = row(number, RESULT, started_at);
            step.child = Some(handle.id().to_owned());
            let result = match outcome {
                Ok(outcome) => {
                    step.output.clone_from(&outcome.output);
                    step.error.clone_from(&outcome.error);
                    step.format.clone_from(&outcome.format);
                    crate::client::decode(handle.id(), &outcome)
                }
                Err(error) if error.is_transient() => return Err(from(error)),
                Err(error) => Err(from(error)),
            };
            if step.output.is_none() && step.error.is_none() {
                step.format = Some(codec::PORTABLE.to_owned());
                match &result {
                    Err(error) => step.error = Some(codec::encode_error(&Failure::record(error))),
                    Ok(_) => step.output = Some("null".to_owned()),
                }
            }
            execution.write(step, None).await.map_err(from)?;
            result
        }
    }
}

impl<O, E> std::fmt::Debug for Child<O, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Child({:?})", self.handle.id())
    }
}
