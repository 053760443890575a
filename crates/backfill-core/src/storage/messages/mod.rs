//! Messages: what brokers' doors, and programs that use a storage as a durable queue, need beyond jobs.
//!
//! A message is a job, and nothing needs a second store. The words:
//!
//! - A **line** is the jobs of one task, in the order of claims: priority, then time, then id.
//! - A **lease** is a hold that ends by itself, by the storage's clock (a *visibility timeout*, elsewhere). Whoever has its [`Receipt`] may renew it, or settle the job.
//! - A **unit** is what belongs together: settling, adding, changing documents, appending events; all of it or nothing.
//! - A **document** is a small value under a kind and a key, with a version, and perhaps an owner or an end.
//! - An **event** is a payload in a stream, at a position. No event ever appears below one that was read.
//! - **News** tell that something in a line, a kind of documents or a stream may have changed.
//!
//! [`Plan`] decides what becomes of units, for every storage: a storage locks and reads what [`Needs`] names, and writes what the plan says.

mod document;
mod event;
mod lease;
mod line;
mod news;
mod plan;
mod take;
mod unit;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use document::{
    Document, DocumentChange, DocumentKey, Expect, MAX_DOCUMENT_BYTES, MAX_KEY_BYTES, MAX_KIND_CHARS, end_of_prefix,
};
pub use event::{Event, NewEvent};
pub use lease::{Ended, LEASE, Lease, MAX_LEASE, Receipt};
pub use line::{Depth, Purge};
pub use news::{Changes, Names, News};
pub use plan::{Batch, FreedQueue, JobWrite, Needs, Plan, Present};
pub use take::{Hold, Holder, Take, Taken, TakenJob};
pub use unit::{Applied, Done, Refusal, Settle, Unit, check_units, in_halves, settle_units, split_settled};

use super::Storage;
use crate::error::Result;
use crate::job::{Job, JobId};

/// What doors, and programs that use a storage as a durable queue, need of it.
///
/// All verbs keep the promises of [`Storage`]: a call happens as a whole or not at all, but for [`purge`](Self::purge), which goes in parts,
/// and [`apply`](Self::apply), whose units are each a whole. Dropping a call's future before it ends leaves open which of the two.
/// All times are by the storage's clock.
#[async_trait]
pub trait Messages: Storage {
    /// Takes ready jobs, of each line so many at the most, in its order. Each is held by the request's [`Holder`], and its attempt is
    /// counted. What it costs grows with the lines that are asked for and the jobs that are taken, not with what waits elsewhere.
    ///
    /// Of a serial queue it takes one job, and only while nobody holds the queue, as a claim does. With
    /// [`in_line`](Take::in_line) it takes as many as are wanted, in order, but nothing that stands behind a job which somebody
    /// holds; queues from which nothing was taken for longest come first. A queue must be served in one of the two ways only.
    ///
    /// Nothing is taken while one of the documents in [`unless`](Take::unless) is there: when a call that stored one has returned, no
    /// later job is taken, also not by a take that is under way.
    ///
    /// A worker that is not registered gets nothing.
    async fn take(&self, request: &Take<'_>) -> Result<Taken>;

    /// Lets leases end so long after now; with zero, now. Answers those that stood. One that has ended cannot be renewed. The number of
    /// the claim stays, so a receipt stays good.
    async fn renew(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>>;

    /// Gives back what ended leases hold, of these jobs or of all: where it stood, with its attempt used. Each once, whoever asks.
    async fn end_leases(&self, of: Option<&[JobId]>) -> Result<Ended>;

    /// Does what belongs together: each unit as a whole or not at all, independent of the others, in order. Answers for each what it
    /// did, or what stood in its way.
    ///
    /// A unit that settles or names a document may be sent again when an answer was lost: it finds itself done and is refused by
    /// its hold or its document. A unit that only adds or appends would be done twice.
    async fn apply(&self, units: &[Unit]) -> Result<Vec<Applied>>;

    /// Reads documents of a kind whose key begins so, by key, after one. Those that have expired are not there.
    async fn documents(&self, kind: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>>;

    /// One document, unless it has expired.
    async fn document(&self, key: &DocumentKey) -> Result<Option<Document>> {
        // Of all that begin so it is the first.
        let found = self.documents(&key.kind, &key.key, None, 1).await?;
        Ok(found.into_iter().find(|document| document.key == *key))
    }

    /// Events of a stream after a position, oldest first. Whatever is appended later has a greater position than all that was ever
    /// answered.
    async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>>;

    /// Forgets the events of a stream up to a position; answers how many.
    async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64>;

    /// The streams that have events and whose names begin so.
    async fn streams(&self, prefix: &str) -> Result<Vec<String>>;

    /// How many jobs of each line are ready, delayed and held. Exact up to `cap`; see [`Depth`].
    async fn depths(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>>;

    /// Deletes jobs of a line, in parts; answers how many. Holders of what is deleted find that their claim no longer stands.
    async fn purge(&self, line: &str, what: Purge) -> Result<u64>;

    /// The first ready jobs of a line, as they stand. Takes and changes nothing.
    async fn peek(&self, line: &str, limit: u32) -> Result<Vec<Job>>;

    /// Forgets documents that have expired, up to so many; answers how many. (Whoever reads does not see them anyway.)
    async fn sweep_documents(&self, limit: u32) -> Result<u64>;

    /// What may have changed, in the order of the writes: a stream that reconnects by itself and never ends by itself. It begins with
    /// [`News::Listening`].
    ///
    /// What [`apply`](Self::apply) and [`end_leases`](Self::end_leases) do is told by name. Jobs that come into a line by other verbs, and those whose time comes, may not be
    /// told: whoever waits looks now and then.
    ///
    /// Whoever asks for it keeps polling it: while it waits for its turn it may hold what other calls wait for, such as a connection of the pool.
    fn news(&self) -> BoxStream<'static, News>;
}
