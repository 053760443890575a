//! Looking at workflows.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Client;
use crate::codec;
use crate::ctx::topic_name;
use crate::error::{Error, Result};
use crate::options::text;
use crate::store::{Change, Count, EventRow, Filter, MessageRow, NewMessage, Run, StepRow, StreamRow};

impl Client {
    /// A workflow's row.
    ///
    /// # Errors
    /// [`Error::NoWorkflow`], or when the storage fails.
    pub async fn get(&self, id: &str) -> Result<Run> {
        let found = self.store.runs(&Filter::of_ids([id])).await?.pop();
        found.ok_or_else(|| Error::NoWorkflow { id: id.to_owned() })
    }

    /// The workflows that are meant, oldest first unless the filter says otherwise. Values are given as they are stored: one that cannot be
    /// decoded is no error.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Run>> {
        self.store.runs(filter).await
    }

    /// How many workflows are meant, by status, name and queue. Of the filter, names, statuses, queues, versions and the times of creation and end
    /// hold.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn counts(&self, filter: &Filter) -> Result<Vec<Count>> {
        self.store.counts(filter).await
    }

    /// A workflow's steps, in order.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn steps(&self, id: &str) -> Result<Vec<StepRow>> {
        self.store.steps(id).await
    }

    /// What was sent to a workflow, in order.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn messages(&self, id: &str) -> Result<Vec<MessageRow>> {
        self.store.messages(id).await
    }

    /// A workflow's events, as they were set one after the other.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn events(&self, id: &str) -> Result<Vec<EventRow>> {
        self.store.events(id).await
    }

    /// Sends a message to a workflow. With a key, it is sent once however often this is called.
    ///
    /// # Errors
    /// [`Error::NoWorkflow`], or when the storage fails.
    pub async fn send<T: Serialize + ?Sized>(
        &self,
        destination: &str,
        topic: &str,
        message: &T,
        key: Option<&str>,
    ) -> Result<()> {
        let id = key.map_or_else(crate::id::fresh, |key| format!("{key}::{destination}"));
        let body = codec::portable("the message", message)?;
        let topic = topic_name(topic);
        let message = NewMessage { id, destination: destination.to_owned(), topic, body };
        crate::ctx::outside_transactions("sending a message by a client")?;
        if !self.store.send(&message).await? {
            return Err(Error::NoWorkflow { id: destination.to_owned() });
        }
        self.hub.wake(&Change::Message(format!("{destination}::{}", message.topic)));
        Ok(())
    }

    /// The value of a workflow's event, once it is set, or `None` if it is not in this time.
    ///
    /// # Errors
    /// When the value is no `T`, or the storage fails.
    pub async fn get_event<T: DeserializeOwned>(&self, id: &str, key: &str, timeout: Duration) -> Result<Option<T>> {
        text("the event", key)?;
        let change = Change::Event(format!("{id}::{key}"));
        let value = self.wait_for(change, timeout, async || self.store.event(id, key).await).await?;
        value.map(|value| codec::decode("the event", &value.text, value.format.as_deref())).transpose()
    }

    /// The next values of a workflow's stream, from this place on (0 is the first): whatever is there, as soon as something is. `None` is its end: it
    /// was closed, or its workflow has ended.
    ///
    /// # Errors
    /// [`Error::NoWorkflow`], when a value is no `T`, or the storage fails.
    pub async fn read_stream<T: DeserializeOwned>(&self, id: &str, key: &str, from: u32) -> Result<Option<Vec<T>>> {
        self.listen();
        let first = i32::try_from(from).unwrap_or(i32::MAX);
        let stream = self.hub.wait(Change::Stream(format!("{id}::{key}")));
        let end = self.hub.wait(Change::Finished(id.to_owned()));
        loop {
            let (grown, ended) = (stream.heard(), end.heard());
            tokio::pin!(grown, ended);
            grown.as_mut().enable();
            ended.as_mut().enable();
            // Whether it has ended is asked first: what is read after that is all there is.
            let filter = Filter { load_input: false, load_output: false, ..Filter::of_ids([id]) };
            let run = self.store.runs(&filter).await?.pop();
            let run = run.ok_or_else(|| Error::NoWorkflow { id: id.to_owned() })?;
            let rows = self.store.stream(id, Some(key), first).await?;
            let closed = rows.iter().any(|row| codec::is_closed(&row.value.text));
            let values = decode_values(&rows)?;
            if !values.is_empty() {
                return Ok(Some(values));
            }
            if closed || run.status.is_final() {
                return Ok(None);
            }
            tokio::select! {
                () = grown => {}
                () = ended => {}
                () = tokio::time::sleep(self.poll) => {}
            }
        }
    }

    /// The values that a workflow's stream has now, from this place on.
    ///
    /// # Errors
    /// When a value is no `T`, or the storage fails.
    pub async fn stream_now<T: DeserializeOwned>(&self, id: &str, key: &str, from: u32) -> Result<Vec<T>> {
        let first = i32::try_from(from).unwrap_or(i32::MAX);
        decode_values(&self.store.stream(id, Some(key), first).await?)
    }
}

fn decode_values<T: DeserializeOwned>(rows: &[StreamRow]) -> Result<Vec<T>> {
    let open = rows.iter().take_while(|row| !codec::is_closed(&row.value.text));
    open.map(|row| codec::decode("a stream's value", &row.value.text, row.value.format.as_deref())).collect()
}
