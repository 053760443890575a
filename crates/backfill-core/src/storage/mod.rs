//! The seam between jobs and where they are kept.
//!
//! Client, worker and the rest speak to [`Storage`]; PostgreSQL's is the reference, [`memory`] the smallest
//! correct implementation. `contract` (feature `contract`) is the suite of cases that each must pass.
//!
//! The verbs take and give lists: a single job is a list of one, and no second path exists.
//!
//! - To **claim** is to take ready jobs for one worker: each is locked by the worker's id and its attempt is
//!   counted.
//! - To **settle** is to say how claimed jobs ended. A settlement names its claim ([`ClaimRef`]); one whose
//!   claim somebody else has meanwhile broken (the *fence*) changes nothing.
//! - A **wakeup** tells a worker that a claim may find something.
//! - A new job may be **handed off** to a worker that [offers](Offer) to take it: then it is stored as claimed.

mod check;
mod claim;
#[cfg(feature = "contract")]
pub mod contract;
mod cron;
mod cursor;
mod handoff;
mod heartbeat;
mod inspect;
mod manage;
pub mod memory;
mod settle;
mod wakeup;

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::watch;

pub use check::{Check, CheckStatus};
pub use claim::{ClaimRequest, Claimed, WorkerId};
pub use cron::{DueJob, KnownCrontab};
pub use cursor::{Cursor, Position, Reached, Start, Walk};
pub use handoff::{Handoff, Offer};
pub use heartbeat::{Registration, Rescued, Watch};
pub use inspect::{QueueInfo, TaskInfo, WorkerInfo};
pub use manage::{Cleaned, Cleanup, Counts, JobFilter, Migrated, Reschedule, check_whole, reserved_at};
pub use settle::{ClaimRef, INTERRUPTED, MAX_ERROR_BYTES, Outcome, Settled, Settlement, clean_error};
pub use wakeup::Wakeup;

use crate::error::Result;
pub use crate::job::NewJob;
use crate::job::{Job, JobId};

/// A place where jobs are kept.
///
/// Every call happens as a whole or not at all, but for `cleanup`, whose parts are separate.
/// Dropping a call's future before it ends leaves open which of the two. Workers do drop calls that take too long, and repair
/// it: a settlement is sent again, and after a claim that was dropped they call
/// [`release_untracked`](Self::release_untracked).
#[async_trait]
pub trait Storage: Any + Debug + Send + Sync {
    /// What people call it, such as `PostgreSQL, schema "graphile_worker"`. Never holds a secret.
    fn name(&self) -> String;

    /// The same storage for a worker, which must be able to claim, settle and send its heartbeats while the user's code
    /// uses up whatever this one shares with it (such as a pool of connections).
    fn for_worker(&self) -> Arc<dyn Storage>;

    /// Calls are not answered, so whatever connections this holds may be dead: the next calls use new ones. Only asked of
    /// what [`for_worker`](Self::for_worker) gave. Answers whether there was anything that could be dead: then calls that wait on it
    /// are given up. A storage without connections need not do anything.
    fn reconnect(&self) -> bool {
        false
    }

    /// Brings the storage to the version this crate works with. Safe to call from many processes at once.
    async fn migrate(&self) -> Result<Migrated>;

    /// Fails with a clear error when the storage is not ready to be used; changes nothing. Answers its revision.
    async fn check(&self) -> Result<i32>;

    /// What time it is by the clock that jobs become due by.
    async fn time(&self) -> Result<DateTime<Utc>> {
        Ok(Utc::now())
    }

    /// Stores jobs, all or none, and answers the stored ones in the order of the input.
    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>>;

    /// Takes up to `limit` ready jobs, smallest priority and then oldest `run_at` first; of one serial queue at
    /// the most one, and only while no other of it is held by anybody.
    ///
    /// A worker that is not registered (see [`register`](Self::register)) gets nothing.
    ///
    /// It may pass ready jobs by to save itself a long search, unless the request is `full_scan`; then the answer says when to
    /// look again.
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed>;

    /// Which of these jobs are there, in any state.
    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>>;

    /// Says how claimed jobs ended; answers the ids of those whose claim still stood. Settling twice is the same
    /// as settling once. Rows that another transaction keeps locked are skipped and
    /// returned in `busy`.
    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled>;

    /// Releases what this worker holds but for the jobs that it `holds` knowingly: those of a claim whose answer was lost.
    /// They get their attempt back. Answers how many.
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64>;

    /// Releases locks older than four hours (Graphile's rule), but for those of workers that are registered, who are judged by their
    /// heartbeats; answers how many jobs.
    async fn release_stale(&self) -> Result<u64>;

    /// Registers a worker, which is its first heartbeat, and makes the names of its tasks known, so that jobs of these names can be
    /// claimed. Answers `false` if this identity is registered already: then it is somebody else's, and only the names are known.
    /// A call that fails registers nothing, unless its answer was lost.
    async fn register(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.register_with(&Registration::new(worker, tasks)).await
    }

    /// The same, with everything that a worker may say of itself.
    async fn register_with(&self, registration: &Registration<'_>) -> Result<bool>;

    /// Tells which tasks a registered worker runs from now on, and makes their names known. Answers `false` if it is not registered.
    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.register(worker, tasks).await.map(|_| true)
    }

    /// Shows that a worker is alive, and answers whether it is still registered: `false` means that somebody declared it dead and
    /// released what it held.
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool>;

    /// Deregisters a worker that has stopped in an orderly way. What it still holds, without knowing it, is released as
    /// by [`release_untracked`](Self::release_untracked).
    async fn deregister(&self, worker: &WorkerId) -> Result<()>;

    /// Releases what registered workers hold that were last seen longer ago than this, and deregisters them. Their
    /// jobs keep the attempt they used and are ready at once. Workers that never registered are left alone.
    async fn rescue(&self, dead_after: Duration) -> Result<Vec<Rescued>> {
        self.rescue_with(&Watch::new(dead_after)).await
    }

    /// The same by one that has not always been in contact. A worker that has registered a longer time than what is asked for is
    /// judged by its own.
    async fn rescue_with(&self, watch: &Watch) -> Result<Vec<Rescued>>;

    /// A stream of wakeups that reconnects by itself and never ends by itself. It begins with [`Wakeup::Listening`].
    ///
    /// Whatever makes jobs ready is told, once it is durable: adding and replacing, the crontab's gate, rescheduling, releasing,
    /// unlocking, rescuing, importing. (Jobs whose time comes are not told: workers look now and then.)
    fn wakeups(&self) -> BoxStream<'static, Wakeup>;

    /// The same, and jobs that are handed off (see [`Offer`]) while there is an offer. After [`Wakeup::ListenerLost`] jobs may have been
    /// handed off that were not told: they are released by [`release_untracked`](Self::release_untracked), which also ends the
    /// offer. What is handed off at the end of an offer may be told after it.
    ///
    /// A storage need not hand off anything.
    fn wakeups_and_handoffs(&self, offers: watch::Receiver<Option<Offer>>) -> BoxStream<'static, Wakeup> {
        drop(offers);
        self.wakeups()
    }

    /// The crontab entries that some worker has run, by identifier.
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>>;

    /// Makes crontab entries known, since this time. Those that are known already stay as they are.
    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()>;

    /// Adds the jobs that crontab entries want at this moment, in order, but only of those whose last execution is older
    /// than it: for each identifier and moment one caller gets its job, whoever else asks, and none for an older moment
    /// after a newer one. Answers for each whether its job was added. No two have the same identifier; two may have the
    /// same key, and then the second is added after the first.
    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>>;

    /// Removes the job with this key: deletes it, or, if it is running, takes its key and further attempts away.
    async fn remove(&self, key: &str) -> Result<Option<Job>>;

    /// Deletes jobs that nobody holds; answers the deleted ones.
    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>>;

    /// Makes jobs that nobody holds dead; answers the changed ones.
    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>>;

    /// Changes jobs that nobody holds; answers the changed ones. Fails by [`Reschedule::check`], and then changes nothing.
    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>>;

    /// Releases everything that these workers (of Node, from 0.17 on: pools) hold, and deregisters them: one that is alive
    /// all the same finds that it was declared dead. Answers how many jobs.
    async fn unlock(&self, workers: &[String]) -> Result<u64>;

    /// Deletes what is no longer needed. Safe beside enqueuers and workers.
    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned>;

    /// Reserves jobs that wait (ready, scheduled or retrying), to move them to another
    /// storage: by id, with a greater one than `after`, at most `limit`, and at most `max_bytes` of payloads and errors together (a single
    /// larger job comes alone). Among them are those that this transfer reserved before and
    /// that are still here, as after a move that was interrupted. No attempt is counted, and neither workers nor sweeps touch
    /// them until [`delete_reserved`](Self::delete_reserved), or [`unlock`](Self::unlock) of the transfer, which releases them.
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>>;

    /// Deletes jobs that this transfer has reserved; answers how many.
    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64>;

    /// Stores jobs that were reserved in another storage, as they are but for their numbers and locks: each once, however often
    /// it comes, which is remembered under the transfer's id and the job's old number until
    /// [`forget_imports`](Self::forget_imports). Answers the old numbers of those that are here, or were: all but the jobs
    /// whose key another job here has.
    ///
    /// The `run` of the move must be registered here (see [`register`](Self::register)), or nothing is stored and the
    /// call fails: one that was declared dead must not store what another run has moved since.
    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>>;

    /// Forgets what a transfer has brought, once it is gone from where it came.
    async fn forget_imports(&self, transfer_id: &str) -> Result<()>;

    /// Reads one job.
    async fn job(&self, id: JobId) -> Result<Option<Job>>;

    /// Reads jobs, by id, oldest first. With [`max_bytes`](JobFilter::max_bytes) it may end before the limit.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>>;

    /// Counts jobs by state.
    async fn counts(&self) -> Result<Counts>;

    /// The serial queues, by name, and what is in them.
    async fn queues(&self) -> Result<Vec<QueueInfo>>;

    /// The known task names, sorted, and their jobs.
    async fn tasks(&self) -> Result<Vec<TaskInfo>>;

    /// The known task names, sorted. Reads no jobs.
    async fn task_names(&self) -> Result<Vec<String>>;

    /// Looks for what is wrong with the storage, and changes nothing. It need not be there, or migrated.
    async fn diagnose(&self) -> Vec<Check>;

    /// The workers that send heartbeats or hold something, by id.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;

    /// The registered workers and the tasks that they run, by id. What they hold may be left out, so that no jobs are read.
    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.workers().await?.into_iter().filter(|worker| worker.seen_at.is_some()).collect())
    }
}
