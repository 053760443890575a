//! Messages from workflow to workflow, and from outside.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ctx, clock, replay, row, sleep};
use crate::codec;
use crate::engine::run::Execution;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::store::{Change, Checkpointed, Effect, NewMessage};

/// The topic of messages that name none.
pub(crate) const NO_TOPIC: &str = "__null__topic__";
const SEND: &str = "DBOS.send";
const RECEIVE: &str = "DBOS.recv";

impl Ctx {
    /// Sends a message to a workflow, once: it is stored in the write that records the step. Without a topic, give `""`.
    ///
    /// The answer's error is [`Error::NoWorkflow`] if the workflow does not exist; that is recorded, too.
    ///
    /// # Errors
    /// When the workflow does not exist, the message cannot be serialized, this one is cancelled, or inside a step.
    pub fn send<T: Serialize + ?Sized>(
        &self,
        destination: &str,
        topic: &str,
        message: &T,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<T> {
        let number = self.numbers("a message", 1);
        let execution = Arc::clone(&self.execution);
        let body = codec::portable("the message", message);
        let destination = destination.to_owned();
        let topic = topic_name(topic);
        async move {
            let number = number?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, SEND)? {
                return replay(row);
            }
            let id = format!("{}-{number}::{destination}", execution.id);
            let message = NewMessage { id, destination, topic, body: body? };
            let change = Change::Message(format!("{}::{}", message.destination, message.topic));
            let mut step = row(number, SEND, clock());
            step.output = Some("null".to_owned());
            let missing = message.destination.clone();
            let answer = execution.write(step, Some(Effect::Send(message))).await?;
            if answer == Checkpointed::NoDestination {
                return fail(&execution, number, SEND, Error::NoWorkflow { id: missing }).await;
            }
            execution.core.hub.wake(&change);
            Ok(())
        }
    }

    /// Receives the oldest message of a topic, or `None` if none has come in this time. Without a topic, give `""`.
    ///
    /// A message is received once: it is consumed in the write that records the step. A restarted workflow waits for what is left of the
    /// time. It takes two numbers.
    ///
    /// # Errors
    /// When the message is no `T`, another call receives from the topic, the workflow is cancelled, or inside a step.
    pub fn recv<T: DeserializeOwned + Send>(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<T>, Failure>> + Send + use<T> {
        let number = self.numbers("receiving", 2);
        let execution = Arc::clone(&self.execution);
        let topic = topic_name(topic);
        async move {
            let number = number?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, RECEIVE)? {
                return replay(row);
            }
            let _receiving = execution.receive_from(&topic)?;
            receive(&execution, number, &topic, timeout).await
        }
    }
}

async fn receive<T: DeserializeOwned>(
    execution: &Execution,
    number: i32,
    topic: &str,
    timeout: Duration,
) -> Result<Option<T>, Failure> {
    let started_at = clock();
    let core = &execution.core;
    let waiter = core.hub.wait(Change::Message(format!("{}::{topic}", execution.id)));
    let mut deadline = None;
    let mut poll = core.settings.poll;
    loop {
        let heard = waiter.heard();
        tokio::pin!(heard);
        heard.as_mut().enable();
        // A look costs little; a write waits for the disk, and others for it.
        let waits = execution.interruptible(core.store.has_message(&execution.id, topic)).await?;
        let waits = waits.unwrap_or_else(|error| {
            tracing::debug!(%error, "waiting for the storage");
            false
        });
        if waits {
            let step = row(number, RECEIVE, started_at);
            match execution.write(step, Some(Effect::Receive { topic: topic.to_owned() })).await? {
                Checkpointed::Received(body) => {
                    return Ok(codec::decode("the message", &body.text, body.format.as_deref())?);
                }
                // An earlier write of this execution, whose answer was lost.
                Checkpointed::Recorded(row) => return replay(&row),
                _ => {}
            }
        }
        let until = match deadline {
            Some(until) => until,
            None => *deadline.insert(sleep::deadline(execution, number + 1, timeout).await?),
        };
        if core.now() >= until {
            let mut step = row(number, RECEIVE, started_at);
            step.output = Some("null".to_owned());
            execution.write(step, None).await?;
            return Ok(None);
        }
        execution.wait(heard, poll, until).await?;
        // Who was told nothing looks less and less often.
        poll = (poll * 2).min(core.settings.poll * 4);
    }
}

/// A topic's name, as it is stored.
pub(crate) fn topic_name(topic: &str) -> String {
    if topic.is_empty() { NO_TOPIC.to_owned() } else { topic.to_owned() }
}

/// Records that a step of the engine's own has failed.
pub(super) async fn fail<T>(execution: &Execution, number: i32, name: &str, error: Error) -> Result<T, Failure> {
    let failure = Failure::from(error);
    let mut step = row(number, name, clock());
    step.error = Some(codec::encode_error(failure.envelope()));
    execution.write(step, None).await?;
    Err(failure)
}
