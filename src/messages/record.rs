//! What is known of a message, also after its end.
//!
//! A *record* is a document. One that was added with an id of the caller's has one from then on, so that the id is given once; and each that has
//! ended has one for as long as is to be remembered.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Document, DocumentChange, Expect, Messages, Queue, RECORD, Unit};
use crate::error::{Error, Result};
use crate::job::{Job, JobState, Payload};
use crate::storage::JobFilter;

/// What ids of jobs begin with that others have put into a line; no caller may choose such an id.
pub(super) const FOREIGN: char = '#';

/// What a message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageState {
    /// It waits: for a claim, or for its time.
    Queued,
    /// Somebody holds it.
    Running,
    /// It was completed.
    Completed,
    /// It was failed, or was claimed as often as it may be.
    Failed,
}

/// What is known of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MessageInfo {
    /// Its id.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// What it is doing.
    pub state: MessageState,
    /// How often it was claimed.
    pub attempts: i16,
    /// What was said when it failed, or was given back.
    pub error: Option<String>,
    /// When it is ready, of one that waits.
    pub run_at: Option<DateTime<Utc>>,
    /// When its lease ends, of one that is held.
    pub until: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A record, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub queue: String,
    /// Of one that has ended: how, by which claim, and when.
    pub end: Option<End>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub state: MessageState,
    pub receipt: String,
    pub attempts: i16,
    pub error: Option<String>,
    pub at: DateTime<Utc>,
    /// Whether events were told with it.
    #[serde(default)]
    pub told: bool,
}

impl Record {
    /// Of a message that has not ended.
    pub(super) fn open(queue: &str) -> Self {
        Self { queue: queue.to_owned(), end: None }
    }

    pub(super) fn payload(&self) -> Result<Payload> {
        ascii("a record", self)
    }
}

/// As JSON in ASCII: a database may have an encoding in which nothing else can be written.
pub(super) fn ascii<T: Serialize>(what: &str, value: &T) -> Result<Payload> {
    let json = Payload::new(what, value)?;
    if json.as_str().is_ascii() {
        return Ok(json);
    }
    let mut text = String::with_capacity(json.as_str().len() * 2);
    for char in json.as_str().chars() {
        if char.is_ascii() {
            text.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    Ok(Payload::from_trusted(text))
}

/// Forgets records of messages that were deleted without an end, as by a purge: so many are looked at, after the last ones.
pub(super) async fn forget_abandoned(messages: &dyn Messages, prefix: &str, after: &mut Option<String>) -> Result<()> {
    const PAGE: u32 = 500;
    let page = messages.documents(RECORD, prefix, after.as_deref(), PAGE).await?;
    *after = page.last().filter(|_| page.len() >= PAGE as usize).map(|document| document.key.key.clone());
    let forget = |document: Document| {
        let record: Record = document.value.decode().ok()?;
        // Under the record's lock, and its key is that of the job: whoever adds one stores its record with it.
        let unit = Unit::new().expect(Expect::version(document.key.clone(), document.version));
        let unit = unit.expect_no_job(document.key.key.clone()).change(DocumentChange::remove(document.key));
        record.end.is_none().then_some(unit)
    };
    let units: Vec<Unit> = page.into_iter().filter_map(forget).collect();
    if !units.is_empty() {
        messages.apply(&units).await?;
    }
    Ok(())
}

impl Queue {
    /// What is known of the message with this id: while it is there, and for as long as its end is remembered (see
    /// [`QueueBuilder::retention`](super::QueueBuilder::retention)).
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn get(&self, id: &str) -> Result<Option<MessageInfo>> {
        // What a lease holds that has ended is ready.
        self.messages()?.end_leases(None).await?;
        // It may end between the two looks.
        for _ in 0..2 {
            if let Some(Record { queue, end: Some(end) }) = self.record(id).await? {
                return Ok(Some(MessageInfo {
                    id: id.to_owned(),
                    queue,
                    state: end.state,
                    attempts: end.attempts,
                    error: end.error,
                    run_at: None,
                    until: None,
                    ended_at: Some(end.at),
                }));
            }
            if let Some(info) = self.look(id).await? {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }

    /// Whether a message was deleted without an end: it has a record of its beginning, and is not there.
    pub(super) async fn is_abandoned(&self, id: &str) -> Result<bool> {
        Ok(matches!(self.record(id).await?, Some(Record { end: None, .. })) && self.look(id).await?.is_none())
    }

    /// The record of a message, if it has one.
    pub(super) async fn record(&self, id: &str) -> Result<Option<Record>> {
        let key = self.inner.names.document(RECORD, &[id]);
        let Some(document) = self.messages()?.document(&key).await? else { return Ok(None) };
        document.value.decode().map(Some).map_err(|problem| {
            Error::invalid_message("the record of message", id, &format!("could not be read: {problem}"))
        })
    }

    async fn look(&self, id: &str) -> Result<Option<MessageInfo>> {
        let filter = JobFilter::new().key(self.inner.names.key(id)).limit(1);
        let Some(job) = self.inspect()?.jobs(&filter).await?.pop() else { return Ok(None) };
        let now = self.inner.storage.now().await?;
        let queue = match self.record(id).await? {
            Some(record) => record.queue,
            None => self.queue_of(&job),
        };
        let state = match job.state(now) {
            JobState::Running => MessageState::Running,
            JobState::Dead => MessageState::Failed,
            _ => MessageState::Queued,
        };
        Ok(Some(MessageInfo {
            id: id.to_owned(),
            queue,
            state,
            attempts: job.attempts,
            run_at: (state == MessageState::Queued).then_some(job.run_at),
            until: job.locked_at,
            error: job.last_error,
            ended_at: None,
        }))
    }

    /// The queue of a job; of one with a very long name, what is left of it.
    fn queue_of(&self, job: &Job) -> String {
        let name = job.task.strip_prefix(self.inner.names.prefix()).unwrap_or(&job.task);
        super::names::unescape(name).unwrap_or_else(|| name.to_owned())
    }
}
