//! Streams: values that a workflow adds one after the other, for others to read.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::fail;
use super::{Ctx, Step, clock, replay, row};
use crate::codec;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::options::text;
use crate::store::{Change, Checkpointed, Effect, Encoded};

impl Ctx {
    /// Adds a value at the end of a stream of this workflow.
    ///
    /// The answer's error is [`Error::StreamClosed`] if it is closed.
    pub fn write_stream<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<T> {
        self.append("DBOS.writeStream", key, codec::portable("the stream's value", value))
    }

    /// Closes a stream of this workflow: its readers end. It also ends with the workflow.
    pub fn close_stream(&self, key: &str) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        self.append("DBOS.closeStream", key, Ok(codec::closed()))
    }

    fn append(
        &self,
        name: &'static str,
        key: &str,
        value: Result<Encoded>,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let number = self.numbers("writing a stream", 1);
        let execution = Arc::clone(&self.execution);
        let key = text("the stream", key).map(|()| key.to_owned());
        async move {
            let (number, key) = (number?, key?);
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, name)? {
                return replay(row);
            }
            let mut step = row(number, name, clock());
            step.output = Some("null".to_owned());
            let change = Change::Stream(format!("{}::{key}", execution.id));
            let effect = Effect::Append { key: key.clone(), value: value? };
            if execution.write(step, Some(effect)).await? == Checkpointed::StreamClosed {
                let closed = Error::StreamClosed { run: execution.id.to_string(), key };
                return fail(&execution, number, name, closed).await;
            }
            execution.core.hub.wake(&change);
            Ok(())
        }
    }

    /// The values that a workflow's stream has now, from this place on (0 is the first), as a step.
    pub fn read_stream<'a, T>(&self, workflow: &str, key: &str, from: u32) -> Step<'a, Vec<T>>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let store = Arc::clone(&self.execution.core.store);
        let (workflow, key) = (workflow.to_owned(), key.to_owned());
        self.named_step(
            "DBOS.readStream",
            None,
            Box::new(move || {
                let (store, workflow, key) = (Arc::clone(&store), workflow.clone(), key.clone());
                Box::pin(async move {
                    let from = i32::try_from(from).unwrap_or(i32::MAX);
                    let rows = store.stream(&workflow, Some(&key), from).await?;
                    let open = rows.iter().take_while(|row| !codec::is_closed(&row.value.text));
                    let values =
                        open.map(|row| codec::decode("a stream's value", &row.value.text, row.value.format.as_deref()));
                    Ok(values.collect::<Result<Vec<T>>>()?)
                })
            }),
        )
    }
}
