//! A durable queue for programs: messages that are claimed with a lease, renewed, and ended together with an event (an *outbox*); both or
//! neither.
//!
//! ```
//! use std::time::Duration;
//! use backfill::messages::Queue;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> backfill::Result<()> {
//! let queue = Queue::open("memory:", "shop").await?;
//! queue.enqueue("emails", "to Ada").id("order 17").await?;
//!
//! let message = queue.claim("emails", "worker-1").lease(Duration::from_secs(30)).one().await?.expect("it is ready");
//! assert_eq!(message.decode::<String>()?, "to Ada");
//! queue.complete_with_event(&message, "sent", &serde_json::json!({ "order": 17 })).await?;
//!
//! assert_eq!(queue.events("sent", 0, 10).await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! The words:
//!
//! - A **namespace** is what one application sees: queues, ids, events, workers and switches of two namespaces never meet, whatever strings
//!   they are.
//! - A **message** has a body (any JSON) and an id, given by the caller or made up. An id is given once in a namespace.
//! - A **lease** is a claim that ends by itself, by the storage's clock. Then the message is ready again, where it stood.
//! - A **handle** names one claim of one message. It may go from process to process, as text. Once somebody else has claimed the message, it is
//!   good for nothing: no late worker can end what another one works on.
//! - Messages of one **group** are claimed in order by those who ask for [`in_groups`](claim::Claim::in_groups): nothing behind a held one.
//!
//! | file | what it does |
//! | --- | --- |
//! | `enqueue` | adding messages |
//! | `claim` | claiming messages |
//! | `ending` | renewing, completing, failing, giving back |
//! | `record` | what is known of a message, also after its end |
//! | `workers` | heartbeats, and switches by which an operator stops workers |
//! | `listen` | waiting for messages without asking again and again |
//! | `names` | how namespaces and queues become names that never meet |
//!
//! It stands on [`Messages`], which storages offer that have lines and leases: PostgreSQL, SQLite and memory. There is no second
//! place: messages are jobs of the storage, seen by `backfill jobs` and moved by `backfill move`.

pub mod claim;
mod ending;
mod enqueue;
pub mod listen;
mod names;
mod open;
mod record;
mod workers;

use std::sync::Arc;
use std::time::Duration;

pub use backfill_core::storage::messages::{Depth, Event, Purge};
pub use claim::{Claim, Handle, Message};
pub use enqueue::{Enqueue, NewMessage};
pub use listen::Subscription;
pub use open::QueueBuilder;
pub use record::{MessageInfo, MessageState};
pub use workers::{Switch, WorkerSeen};

use crate::error::{Error, FailureKind, Result};
use crate::job::JobId;
use crate::storage::messages::{
    Applied, Document, DocumentChange, DocumentKey, Done, Expect, Hold, Holder, Messages, NewEvent, Receipt, Refusal,
    Take, TakenJob, Unit,
};
use crate::storage::{AnyStorage, Inspect, Storage};
use listen::Hub;
use names::Names;

/// The schema in PostgreSQL when nobody names one: apart from that of jobs.
pub const DEFAULT_SCHEMA: &str = "backfill_messages";
/// For how long what has ended is remembered, unless told otherwise.
pub const DEFAULT_RETENTION: Duration = Duration::from_hours(24);
/// How long a lease lasts, unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// The kinds of documents.
const RECORD: &str = "backfill.message";
const SWITCH: &str = "backfill.switch";
const WORKER: &str = "backfill.worker";

/// How often a unit is tried again that another transaction keeps from being written at this moment.
const BUSY_TRIES: u32 = 40;

/// The queues of one namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    names: Names,
    retention: Duration,
    max_attempts: u32,
    max_payload_bytes: usize,
    hub: Hub,
}

impl Queue {
    /// Opens the queues of a namespace, any string, where this URL says: `postgres://user@host/database` (in the schema
    /// [`DEFAULT_SCHEMA`]), `sqlite://queue.db`, `redis://localhost` or `memory:`. It goes to the network, or to the disk, and makes or upgrades what is needed.
    ///
    /// # Errors
    /// When the URL is wrong, the database cannot be reached, or the schema cannot be brought up to date.
    pub async fn open(url: &str, namespace: &str) -> Result<Self> {
        Self::builder().database_url(url).namespace(namespace).build().await
    }

    /// The queues of a namespace in a storage that is there already, as it is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a storage without messages, such as one in PostgreSQL that was opened without them.
    pub fn with_storage(storage: impl Into<AnyStorage>, namespace: &str) -> Result<Self> {
        Self::builder().namespace(namespace).with_storage(storage)
    }

    /// Everything that can be set.
    pub fn builder() -> QueueBuilder {
        QueueBuilder::default()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.inner.names.namespace()
    }

    /// The storage, for what is not about one namespace.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// How many messages of a queue are ready, delayed and claimed. Exact up to ten thousand of each; see [`Depth`].
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn counts(&self, queue: &str) -> Result<Depth> {
        let line = self.inner.names.line(queue);
        // What a lease holds that has ended is ready.
        self.messages()?.end_leases(None).await?;
        let mut depths = self.messages()?.depths(&[line], 10_000).await?;
        let mut depth = depths.pop().unwrap_or_default();
        queue.clone_into(&mut depth.line);
        Ok(depth)
    }

    /// Events of a stream after a position (0: from the first), oldest first. Nothing ever appears below what was read.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        let mut events = self.messages()?.events(&self.inner.names.stream(stream), since, limit).await?;
        for event in &mut events {
            stream.clone_into(&mut event.stream);
        }
        Ok(events)
    }

    /// Appends an event by itself; answers its position.
    ///
    /// # Errors
    /// When it cannot be written as JSON, is too large, or the storage fails.
    pub async fn append<T: serde::Serialize + ?Sized>(&self, stream: &str, payload: &T) -> Result<u64> {
        let done = self.do_unit(Unit::new().event(self.event(stream, payload)?)).await?;
        Ok(done.map_err(|refusal| refused(&refusal))?.positions.first().copied().unwrap_or_default())
    }

    /// Forgets the events of a stream up to a position; answers how many.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64> {
        self.messages()?.trim_events(&self.inner.names.stream(stream), upto).await
    }

    /// Deletes what waits in a queue, or all of it; answers how many. Who holds a message of it finds that its lease is lost.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn purge(&self, queue: &str, what: Purge) -> Result<u64> {
        self.messages()?.purge(&self.inner.names.line(queue), what).await
    }

    /// Deletes everything of this namespace: messages, events, records, workers and switches. Not at one moment: what is added
    /// meanwhile may stay. Jobs of other programs in the same schema go with it, if their task begins with the namespace and `:`.
    ///
    /// # Errors
    /// When the storage fails; then a part may be gone, and it may be asked for again.
    pub async fn drop_namespace(&self) -> Result<()> {
        const PAGE: u32 = 500;
        let (names, messages) = (&self.inner.names, self.messages()?);
        for line in self.inspect()?.task_names().await?.iter().filter(|line| names.owns(line)) {
            messages.purge(line, Purge::All).await?;
        }
        for stream in messages.streams(names.prefix()).await? {
            messages.trim_events(&stream, u64::MAX).await?;
        }
        for kind in [RECORD, SWITCH, WORKER] {
            loop {
                let found = messages.documents(kind, names.prefix(), None, PAGE).await?;
                let remove =
                    |unit: Unit, document: &Document| unit.change(DocumentChange::remove(document.key.clone()));
                let gone = self.do_unit(found.iter().fold(Unit::new(), remove)).await?;
                gone.map_err(|refusal| refused(&refusal))?;
                if found.len() < PAGE as usize {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ends what this handle, and its clones, do in the background. From then on subscriptions hear of this process's own messages only.
    pub async fn close(&self) {
        self.inner.hub.end().await;
    }

    fn messages(&self) -> Result<&dyn Messages> {
        self.inner.storage.require_messages()
    }

    fn inspect(&self) -> Result<&dyn Inspect> {
        self.inner.storage.require_inspect()
    }

    fn event<T: serde::Serialize + ?Sized>(&self, stream: &str, payload: &T) -> Result<NewEvent> {
        Ok(NewEvent::new(self.inner.names.stream(stream), crate::job::Payload::new(stream, payload)?))
    }

    /// Does one unit, and tries again while another transaction keeps it from being written.
    async fn do_unit(&self, unit: Unit) -> Result<Result<Done, Refusal>> {
        let units = [unit];
        let mut tries = 0;
        loop {
            match self.messages()?.apply(&units).await?.pop() {
                Some(Applied::Done(done)) => return Ok(Ok(done)),
                Some(Applied::Refused(Refusal::Busy { .. })) if tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(5..100))).await;
                }
                Some(Applied::Refused(refusal)) => return Ok(Err(refusal)),
                None => return Err(Error::Internal("a unit was not answered".to_owned())),
            }
        }
    }
}

/// A refusal that no caller of this module expects.
fn refused(refusal: &Refusal) -> Error {
    let text = match refusal {
        Refusal::Storage { message, .. } => message.clone(),
        Refusal::Busy { id } => {
            let what = id.map(|id| format!(" (job {id})")).unwrap_or_default();
            format!("another transaction keeps it locked{what}; end that, or try again later")
        }
        other => format!("it was refused: {other:?}"),
    };
    Error::storage("write messages", FailureKind::Invalid, text)
}

/// The jobs that these are, for the storage's verbs.
fn numbers(handles: &[Handle]) -> Vec<JobId> {
    handles.iter().map(|handle| handle.receipt().id).collect()
}
