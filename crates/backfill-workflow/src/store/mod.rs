//! The seam between workflows and where they are kept: rows, and nothing of policy.
//!
//! A [`Store`] creates, claims, reads and changes rows. What they mean (replay, retries, limits of attempts, whether a name fits) stands above
//! it, once. Every verb is atomic: it happens or it does not. `tests/contract` runs one list of cases on each storage.
//!
//! The rules that every storage keeps:
//!
//! - An execution writes while the row is `PENDING` and carries its token (the *fence*). That is checked in the transaction of the write.
//! - A checkpoint and its [`Effect`] are both written or neither.
//! - A row that has ended is changed by [`Transition::Resume`] (not if it has answered or failed) and by deletion alone.
//! - Whatever is repeated because its answer was lost changes nothing the second time, and says so.
//! - Times are the storage's: one clock for all processes.

mod memory;
mod rows;

use std::any::Any;

use async_trait::async_trait;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use backfill::client::Within;
use futures::stream::BoxStream;

pub use self::memory::MemoryStore;
pub use self::rows::*;
use crate::error::Result;

/// The queue of workflows that have no other: whatever is recovered, resumed or forked.
pub const INTERNAL_QUEUE: &str = "_dbos_internal_queue";

/// Where workflows are kept.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The storage's name, for people: `PostgreSQL`, `SQLite`, `memory`.
    fn name(&self) -> &'static str;

    /// Makes the tables, or brings them up to date.
    async fn migrate(&self) -> Result<()>;

    /// What time it is.
    async fn now(&self) -> Result<Ms>;

    /// What time it is, where that is known without asking.
    fn clock(&self) -> Option<Ms> {
        None
    }

    /// Waits until the storage's clock may have reached this moment. The caller looks again.
    async fn sleep_until(&self, until: Ms, now: Ms) {
        let left = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
        tokio::time::sleep(std::time::Duration::from_millis(left)).await;
    }

    // --- Running

    /// Stores new workflows.
    async fn create(&self, runs: &[NewRun]) -> Result<Vec<Created>>;

    /// Stores a new workflow in the caller's own transaction.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    async fn create_within(&self, within: Within<'_>, run: &NewRun) -> Result<Created>;

    /// Takes workflows from a queue, by priority and then by age, with their histories: those of this version, and those of none if this
    /// is the latest.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Claimed>>;

    /// The parts of a queue in which workflows wait.
    async fn partitions(&self, queue: &str) -> Result<Vec<String>>;

    /// Records steps, with what goes with them.
    async fn checkpoint(&self, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>>;

    /// Begins a transaction for the user's own statements, which a checkpoint ends.
    async fn begin(&self) -> Result<Box<dyn StoreTransaction>>;

    /// Whether the jobs of this client are in the same database, so that a checkpoint can add some.
    async fn is_database_of(&self, _: &backfill::BackfillClient) -> Result<bool> {
        Ok(false)
    }

    /// Ends workflows. Answers of each whether it was the execution's to end.
    async fn finish(&self, finishes: &[Finish]) -> Result<Vec<bool>>;

    /// Says that an executor lives, for so long from now, and asks which of its executions are no longer its own.
    async fn beat(&self, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat>;

    /// Says that an executor has ended: what it left is free at once.
    async fn retire(&self, executor: &str) -> Result<()>;

    // --- Steering

    /// Changes many rows at once.
    async fn transition(&self, transition: &Transition) -> Result<Vec<Moved>>;

    /// Stores a fork. Answers whether the source exists.
    async fn fork(&self, fork: &Fork) -> Result<bool>;

    /// Sends a message from outside. Answers whether the workflow exists.
    async fn send(&self, message: &NewMessage) -> Result<bool>;

    /// Deletes workflows with all that is theirs. Answers which.
    async fn delete(&self, ids: &[String]) -> Result<Vec<String>>;

    /// Deletes old workflows that have ended. Answers how many.
    async fn delete_expired(&self, expired: &Expired) -> Result<u64>;

    /// Stores exported workflows again. Answers which ids were there already; of those nothing was stored.
    async fn import(&self, exports: &[Export]) -> Result<Vec<String>>;

    // --- Reading

    /// The workflows that are meant.
    async fn runs(&self, filter: &Filter) -> Result<Vec<Run>>;

    /// How many are meant, by status, name and queue. Of the filter, names, statuses, queues, versions and the times of creation and end hold.
    async fn counts(&self, filter: &Filter) -> Result<Vec<Count>>;

    /// Whether a message of this topic waits for a workflow.
    async fn has_message(&self, run: &str, topic: &str) -> Result<bool>;

    /// A workflow's steps, in order.
    async fn steps(&self, run: &str) -> Result<Vec<StepRow>>;

    /// What was sent to a workflow, in order.
    async fn messages(&self, run: &str) -> Result<Vec<MessageRow>>;

    /// An event's value.
    async fn event(&self, run: &str, key: &str) -> Result<Option<Encoded>>;

    /// A workflow's events, as they were set one after the other.
    async fn events(&self, run: &str) -> Result<Vec<EventRow>>;

    /// A stream's values from this place on, of one stream or of all.
    async fn stream(&self, run: &str, key: Option<&str>, from: i32) -> Result<Vec<StreamRow>>;

    /// News, as long as it is listened to.
    fn changes(&self) -> BoxStream<'static, Change>;

    // --- What is configured

    /// The queues' settings.
    async fn queues(&self) -> Result<Vec<QueueRow>>;
    /// Stores a queue's settings. With `only_new`, settings that are there stay.
    async fn put_queue(&self, queue: &QueueRow, only_new: bool) -> Result<()>;
    /// Forgets a queue's settings.
    async fn delete_queue(&self, name: &str) -> Result<bool>;
    /// The schedules.
    async fn schedules(&self) -> Result<Vec<ScheduleRow>>;
    /// Stores a schedule. One that has the name keeps its id, whether it is paused, and when it last fired.
    async fn put_schedule(&self, schedule: &ScheduleRow) -> Result<()>;
    /// Changes a schedule. Answers whether it exists.
    async fn change_schedule(&self, name: &str, change: &ScheduleChange) -> Result<bool>;
    /// The versions, the latest first.
    async fn versions(&self) -> Result<Vec<VersionRow>>;
    /// Registers a version if it is new; with `latest`, makes it the latest.
    async fn put_version(&self, name: &str, application: Option<&str>, latest: bool) -> Result<()>;
}

/// A transaction for the user's own statements.
#[async_trait]
pub trait StoreTransaction: Send {
    /// The driver's connection: [`sqlx::PgConnection`] or [`sqlx::SqliteConnection`].
    fn connection(&mut self) -> &mut (dyn Any + Send);

    /// The same, to look at.
    fn connection_ref(&self) -> &(dyn Any + Send);

    /// Records the step and commits, or does neither.
    async fn commit(self: Box<Self>, checkpoint: &Checkpoint) -> Result<Checkpointed>;

    /// Forgets what was done.
    async fn rollback(self: Box<Self>);
}

/// How many workflows of a kind there are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// What has become of them.
    pub status: Status,
    /// The workflow's name.
    pub name: String,
    /// Their queue.
    pub queue: Option<String>,
    /// How many.
    pub count: i64,
}

/// A change of a schedule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ScheduleChange {
    /// It starts nothing for now.
    Pause,
    /// It goes on.
    Resume,
    /// It has started a workflow for this moment (RFC 3339). An earlier one than is known changes nothing.
    Fired(String),
    /// It is forgotten.
    Delete,
}
