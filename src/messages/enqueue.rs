//! Adding messages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::{FOREIGN, Record};
use super::{DocumentChange, Expect, Queue, RECORD, Refusal, Unit, refused};
use crate::error::{Error, Result};
use crate::job::{JobSpec, NewJob, Payload, Priority, RunAt};

/// What a job holds that is a message.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// A message that is to be added.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewMessage {
    body: Result<Box<RawValue>, Arc<serde_json::Error>>,
    id: Option<String>,
    priority: Priority,
    run_at: Option<RunAt>,
    group: Option<String>,
    max_attempts: Option<u32>,
}

impl NewMessage {
    /// A message with this body, which is written as JSON.
    pub fn new<T: Serialize + ?Sized>(body: &T) -> Self {
        Self::build(serde_json::value::to_raw_value(body))
    }

    /// A message whose body is this JSON text, kept as it is.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`] if it is none.
    pub fn from_json(json: impl Into<String>) -> Result<Self> {
        let json = json.into();
        // (Not with the text: bodies may hold what no log may.)
        let size = format!("of {} bytes", json.len());
        let body = RawValue::from_string(json)
            .map_err(|problem| Error::invalid_message("the body", &size, &format!("is no JSON: {problem}")))?;
        Ok(Self::build(Ok(body)))
    }

    fn build(body: Result<Box<RawValue>, serde_json::Error>) -> Self {
        Self {
            body: body.map_err(Arc::new),
            id: None,
            priority: Priority::default(),
            run_at: None,
            group: None,
            max_attempts: None,
        }
    }

    /// Its id, any string. Given once in a namespace: to add it again is an error, also after its end, for as long as that is
    /// remembered. Without one it gets an id by chance. It may not begin with `#`: those of jobs do that others have put into a queue.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Smaller comes first; 0 if nobody says otherwise.
    pub fn priority(mut self, priority: impl Into<Priority>) -> Self {
        self.priority = priority.into();
        self
    }

    /// Not before this time.
    pub fn run_at(mut self, time: DateTime<Utc>) -> Self {
        self.run_at = Some(RunAt::Time(time));
        self
    }

    /// Not before this time from now has passed, by the storage's clock.
    pub fn run_in(mut self, delay: Duration) -> Self {
        self.run_at = Some(RunAt::In(delay));
        self
    }

    /// Its group in its queue.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// How often it may be claimed.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }
}

/// A message that is being added. Nothing is sent before it is awaited; then it is stored, durably, when that answers its id.
///
/// # Errors
/// [`Error::MessageExists`] when its id was given before, and what [`JobSpec`] refuses.
#[derive(Debug)]
#[must_use = "nothing is added before this is awaited"]
pub struct Enqueue<'a> {
    queue: &'a Queue,
    to: &'a str,
    message: NewMessage,
}

impl Enqueue<'_> {
    fn with(mut self, change: impl FnOnce(NewMessage) -> NewMessage) -> Self {
        self.message = change(self.message);
        self
    }

    /// As [`NewMessage::id`].
    pub fn id(self, id: impl Into<String>) -> Self {
        self.with(|message| message.id(id))
    }

    /// As [`NewMessage::priority`].
    pub fn priority(self, priority: impl Into<Priority>) -> Self {
        self.with(|message| message.priority(priority))
    }

    /// As [`NewMessage::run_at`].
    pub fn run_at(self, time: DateTime<Utc>) -> Self {
        self.with(|message| message.run_at(time))
    }

    /// As [`NewMessage::run_in`].
    pub fn run_in(self, delay: Duration) -> Self {
        self.with(|message| message.run_in(delay))
    }

    /// As [`NewMessage::group`].
    pub fn group(self, group: impl Into<String>) -> Self {
        self.with(|message| message.group(group))
    }

    /// As [`NewMessage::max_attempts`].
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with(|message| message.max_attempts(attempts))
    }
}

impl<'a> IntoFuture for Enqueue<'a> {
    type Output = Result<String>;
    type IntoFuture = BoxFuture<'a, Result<String>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut ids = self.queue.enqueue_all(self.to, vec![self.message]).await?;
            ids.pop().ok_or_else(|| Error::Internal("a message was not answered".to_owned()))
        })
    }
}

impl Queue {
    /// Adds a message to a queue, any string, which need not be there; answers its id.
    pub fn enqueue<'a, T: Serialize + ?Sized>(&'a self, queue: &'a str, body: &T) -> Enqueue<'a> {
        Enqueue { queue: self, to: queue, message: NewMessage::new(body) }
    }

    /// Adds messages to a queue in this order, all or none; answers their ids.
    ///
    /// # Errors
    /// As [`Enqueue`], with the first id that was given before.
    pub async fn enqueue_all(&self, queue: &str, messages: Vec<NewMessage>) -> Result<Vec<String>> {
        let names = &self.inner.names;
        let (mut unit, mut ids) = (Unit::new(), Vec::with_capacity(messages.len()));
        let mut named: HashMap<super::DocumentKey, String> = HashMap::new();
        for message in messages {
            let is_named = message.id.is_some();
            let id = message.id.clone().unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
            if is_named {
                if id.starts_with(FOREIGN) {
                    return Err(Error::invalid_message(
                        "the id",
                        &id,
                        "begins with '#', as those of jobs do; use another",
                    ));
                }
                let key = names.document(RECORD, &[&id]);
                if named.insert(key.clone(), id.clone()).is_some() {
                    return Err(Error::MessageExists { id });
                }
                unit = unit
                    .expect(Expect::absent(key.clone()))
                    // Also of those whose id was made here, and of those that were moved here without their records.
                    .expect_no_job(names.key(&id))
                    .change(DocumentChange::put(key, Record::open(queue).payload()?));
            }
            unit = unit.adding([self.job(queue, &id, message)?]);
            ids.push(id);
        }
        loop {
            match self.do_unit(unit.clone()).await? {
                Ok(_) => {
                    self.inner.hub.wake(&names.line(queue));
                    return Ok(ids);
                }
                Err(Refusal::Document { key, found, .. }) => {
                    let id = named.get(&key).cloned().unwrap_or_default();
                    // One that was deleted without an end, as by a purge, has left its record.
                    if found.is_some() && !self.is_abandoned(&id).await? {
                        return Err(Error::MessageExists { id });
                    }
                    for expect in unit.expect.iter_mut().filter(|expect| expect.key == key) {
                        expect.version = found;
                    }
                }
                Err(Refusal::Key { key, .. }) => {
                    let id = ids.into_iter().find(|id| names.key(id) == key).unwrap_or_default();
                    return Err(Error::MessageExists { id });
                }
                Err(refusal) => return Err(refused(&refusal)),
            }
        }
    }

    fn job(&self, queue: &str, id: &str, message: NewMessage) -> Result<NewJob> {
        let names = &self.inner.names;
        let body = message.body.map_err(|problem| {
            Error::invalid_message("the body of message", id, &format!("could not be written as JSON: {problem}"))
        })?;
        let envelope = Payload::new(queue, &Envelope { id: id.into(), body: &body })?;
        let mut spec = JobSpec::with_payload(names.line(queue), envelope)
            .priority(message.priority)
            .key(names.key(id))
            .max_attempts(message.max_attempts.unwrap_or(self.inner.max_attempts));
        spec = match message.run_at {
            Some(RunAt::Time(time)) => spec.run_at(time),
            Some(RunAt::In(delay)) => spec.run_in(delay),
            None => spec,
        };
        if let Some(group) = &message.group {
            spec = spec.serial_queue(names.group(queue, group));
        }
        spec.check(self.inner.max_payload_bytes)
    }
}
