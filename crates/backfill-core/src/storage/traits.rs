//! The traits of a storage, one for each kind of caller.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::watch;

use super::messages::Messages;
use super::{
    Capabilities, Check, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, DueJob, Effort, JobFilter, KnownCrontab,
    Migrated, Offer, QueueInfo, QueueList, Registration, Reschedule, Rescued, Settled, Settlement, Tally, TaskInfo,
    Wakeup, Watch, WorkerId, WorkerInfo, WorkerStatus,
};
use crate::error::{Error, Result};
use crate::job::{Job, JobId, NewJob};
use crate::search::{Found, Search};

/// A place where jobs are kept: what everybody needs of it, and the way to the rest.
///
/// Every call of these traits happens as a whole or not at all, but for `cleanup`, whose parts are separate. Dropping a call's
/// future before it ends leaves open which of the two.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// What people call it, such as `PostgreSQL, schema "graphile_worker"`. Never holds a secret.
    fn name(&self) -> String;

    /// What it can do, and how much of it.
    fn capabilities(&self) -> Capabilities;

    /// Brings the storage to the version this crate works with. Safe to call from many processes at once.
    async fn migrate(&self) -> Result<Migrated>;

    /// The version of the storage. Fails with a clear error when the storage is not ready to be used; changes nothing.
    async fn version(&self) -> Result<i32>;

    /// What time it is by the clock that jobs become due by.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// Stores jobs, all or none, and returns the stored ones in the order of the input.
    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>>;

    /// The same storage for one worker, which must be able to claim, settle and send its heartbeats while the user's code uses up
    /// whatever this one shares with it (such as a pool of connections).
    fn consumer(&self) -> Arc<dyn Consumer>;

    /// The gate of crontabs, if it has one.
    fn schedules(&self) -> Option<&dyn Schedules>;

    /// The administrative verbs, if it has them.
    fn admin(&self) -> Option<&dyn Admin>;

    /// Looking at jobs and workers, if it can be looked at.
    fn inspect(&self) -> Option<&dyn Inspect>;

    /// Moving jobs to and from other storages, if it can.
    fn transfer(&self) -> Option<&dyn Transfer>;

    /// Lines, leases, units, documents and events, if it has them.
    fn messages(&self) -> Option<&dyn Messages>;

    /// Looking for what is wrong with it, if it can.
    fn doctor(&self) -> Option<&dyn Doctor>;

    // The rest follows from these, and no storage has to say it.

    /// The same, of a storage that must have it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]. See [`schedules`](Self::schedules).
    fn require_schedules(&self) -> Result<&dyn Schedules> {
        self.schedules().ok_or_else(|| Error::Unsupported { what: "crontabs", storage: self.name() })
    }

    /// The same, of a storage that must have it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]. See [`admin`](Self::admin).
    fn require_admin(&self) -> Result<&dyn Admin> {
        self.admin().ok_or_else(|| Error::Unsupported { what: "managing jobs", storage: self.name() })
    }

    /// The same, of a storage that must have it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]. See [`inspect`](Self::inspect).
    fn require_inspect(&self) -> Result<&dyn Inspect> {
        self.inspect().ok_or_else(|| Error::Unsupported { what: "looking at jobs", storage: self.name() })
    }

    /// The same, of a storage that must have it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]. See [`messages`](Self::messages).
    fn require_messages(&self) -> Result<&dyn Messages> {
        self.messages().ok_or_else(|| Error::Unsupported { what: "messages", storage: self.name() })
    }

    /// The same, of a storage that must have it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]. See [`transfer`](Self::transfer).
    fn require_transfer(&self) -> Result<&dyn Transfer> {
        self.transfer().ok_or_else(|| Error::Unsupported { what: "moving jobs", storage: self.name() })
    }
}

/// When this worker offers to take new jobs, and as whom; `None` for never (see [`Offer`]).
pub type Offers = Option<watch::Receiver<Option<Offer>>>;

/// What a worker, or a door, needs: taking jobs, and saying how they ended.
///
/// Workers drop calls that take too long, and repair what that leaves open: a settlement is sent again, and after a claim that was
/// dropped they call [`release_untracked`](Self::release_untracked).
#[async_trait]
pub trait Consumer: Storage {
    /// Calls are not answered, so whatever connections this holds may be dead: the next calls use new ones. Returns whether there was
    /// anything that could be dead: then calls that wait on it are given up.
    fn reconnect(&self) -> bool;

    /// Registers a worker, which is its first heartbeat, and makes the names of its tasks known, so that jobs of these names can be
    /// claimed. Returns `false` if this identity is registered already: then it is another worker's, and only the names are known.
    /// A call that fails registers nothing, unless its answer was lost.
    async fn register(&self, registration: &Registration<'_>) -> Result<bool>;

    /// Sets which tasks a registered worker runs from now on, and makes their names known. Returns `false` if it is not registered.
    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool>;

    /// Shows that a worker is alive, and returns whether it is still registered: `false` means that another worker declared it dead and
    /// released what it held.
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool>;

    /// Keeps what a registered worker says of itself, for people to see. Sent beside its heartbeats, when it has changed.
    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()>;

    /// Deregisters a worker that has stopped in an orderly way. What it still holds, without knowing it, is released as
    /// by [`release_untracked`](Self::release_untracked).
    async fn deregister(&self, worker: &WorkerId) -> Result<()>;

    /// Takes up to `limit` ready jobs, smallest priority and then oldest `run_at` first; of one serial queue a run of its next jobs,
    /// and only while no other worker holds it.
    ///
    /// A worker that is not registered (see [`register`](Self::register)) gets nothing.
    ///
    /// It may pass ready jobs by to save itself a long search, unless the request is `full_scan`; then the answer says when to
    /// look again.
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed>;

    /// Writes how claimed jobs ended; returns the ids of those whose claim still stood. Settling twice is the same
    /// as settling once. Rows that another transaction keeps locked are skipped and returned in `busy`. What is to follow a job
    /// ([`Settlement::then`]) happens in the same write, and only if its claim still stood.
    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled>;

    /// Which of these jobs are there, in any state.
    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>>;

    /// Releases what this worker holds but for the jobs that it `holds` knowingly: those of a claim whose answer was lost.
    /// They get their attempt back. Returns how many.
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64>;

    /// Releases locks older than four hours (Graphile's rule), but for those of workers that are registered, who are judged by their
    /// heartbeats; returns how many jobs.
    async fn release_stale(&self) -> Result<u64>;

    /// Releases what registered workers hold that were last seen too long ago, and deregisters them. Their jobs keep the attempt they
    /// used and are ready at once. Workers that never registered are left alone. A worker that has registered a longer time than
    /// what is asked for is judged by its own.
    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>>;

    /// A stream of wakeups that reconnects by itself and never ends by itself. It begins with [`Wakeup::Listening`].
    ///
    /// Whatever makes jobs ready is told, once it is durable: adding and replacing, the crontab's gate, rescheduling, releasing,
    /// unlocking, rescuing, importing. (Jobs whose time comes are not told: workers look now and then.)
    ///
    /// While there is an offer, jobs may be handed off. After [`Wakeup::ListenerLost`] jobs may have been
    /// handed off that were not told: they are released by [`release_untracked`](Self::release_untracked), which also ends the
    /// offer. What is handed off at the end of an offer may be told after it. A storage need not hand off anything.
    fn wakeups(&self, offers: Offers) -> BoxStream<'static, Wakeup>;
}

/// The gate of crontabs: however many schedulers there are, an entry gets one job at a moment.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// The crontab entries that some worker has run, by identifier.
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>>;

    /// Makes crontab entries known, since this time. Those that are known already stay as they are.
    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()>;

    /// Adds the jobs that crontab entries want at this moment, in order, but only of those whose last execution is older
    /// than it: for each identifier and moment one caller gets its job, however many ask, and none for an older moment
    /// after a newer one. Returns for each the job that was added. No two have the same identifier; two may have the
    /// same key, and then the second is added after the first.
    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>>;
}

/// The administrative verbs.
#[async_trait]
pub trait Admin: Send + Sync {
    /// Removes the job with this key: deletes it, or, if it is running, takes its key and further attempts away.
    async fn remove(&self, key: &str) -> Result<Option<Job>>;

    /// Deletes jobs that no worker holds; returns the deleted ones.
    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>>;

    /// Makes jobs that no worker holds dead; returns the changed ones.
    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>>;

    /// Changes jobs that no worker holds; returns the changed ones. Fails by [`Reschedule::check`], and then changes nothing.
    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>>;

    /// Releases everything that these workers (of Node, from 0.17 on: pools) hold, and deregisters them: one that is alive
    /// all the same finds that it was declared dead. Returns how many jobs.
    async fn unlock(&self, workers: &[String]) -> Result<u64>;

    /// Deletes what is no longer needed. Safe beside enqueuers and workers.
    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned>;
}

/// Looking at jobs, queues, tasks and workers.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// Reads one job.
    async fn job(&self, id: JobId) -> Result<Option<Job>>;

    /// Looks for jobs. Without a budget it looks until the page is full, or all jobs were looked at; with one, it ends soon after
    /// that time and says where to go on. Fails by [`Search::check`].
    async fn search(&self, search: &Search) -> Result<Found>;

    /// Counts jobs by state.
    async fn tally(&self, effort: Effort) -> Result<Tally>;

    /// The serial queues, by name, and what is in them.
    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>>;

    /// The known task names, sorted, and their jobs.
    async fn tasks(&self, effort: Effort) -> Result<Vec<TaskInfo>>;

    /// The known task names, sorted. Reads no jobs.
    async fn task_names(&self) -> Result<Vec<String>>;

    /// The greatest id that was ever given to a job; `None` where that cannot be told. How it grows says how many jobs
    /// are added, also of those that are done already. (An add that only changes a waiting job may use an id up.)
    async fn last_id(&self) -> Result<Option<JobId>>;

    /// The workers that send heartbeats or hold something, by id. Where reading all jobs would take too long for the effort, those that
    /// hold something and send no heartbeats may be missing.
    async fn workers(&self, effort: Effort) -> Result<Vec<WorkerInfo>>;

    /// The registered workers and the tasks that they run, by id. What they hold may be left out, so that no jobs are read.
    async fn serving(&self) -> Result<Vec<WorkerInfo>>;

    // The rest follows from these, and no storage has to say it.

    /// Reads jobs, by id, oldest first. With [`max_bytes`](JobFilter::max_bytes) it may end before the limit.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.search(&filter.into()).await.map(|found| found.jobs)
    }

    /// Counts jobs by state, exactly.
    ///
    /// # Errors
    /// As [`tally`](Self::tally).
    async fn counts(&self) -> Result<Counts> {
        self.tally(Effort::Exact).await.map(|tally| tally.counts())
    }
}

/// Moving jobs that wait from one storage to another, each once. It also needs [`Admin::unlock`], which releases what a transfer has
/// reserved, and [`Consumer::register`] for the run that moves.
#[async_trait]
pub trait Transfer: Send + Sync {
    /// Reserves jobs that wait (ready, scheduled or retrying), to move them to another
    /// storage: by id, with a greater one than `after`, at most `limit`, and at most `max_bytes` of payloads and errors together (a single
    /// larger job comes alone). Among them are those that this transfer reserved before and
    /// that are still here, as after a move that was interrupted. No attempt is counted, and neither workers nor sweeps touch
    /// them until [`delete_reserved`](Self::delete_reserved), or [`unlock`](Admin::unlock) of the transfer, which releases them.
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>>;

    /// Deletes jobs that this transfer has reserved; returns how many.
    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64>;

    /// Stores jobs that were reserved in another storage, as they are but for their ids and locks: each once, however often
    /// it comes, which is remembered under the transfer's id and the job's old id until
    /// [`forget_imports`](Self::forget_imports). Returns the old ids of those that are here, or were: all but the jobs
    /// whose key another job here has.
    ///
    /// The `run` of the move must be registered here (see [`Consumer::register`]), or nothing is stored and the
    /// call fails: one that was declared dead must not store what another run has moved since.
    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>>;

    /// Forgets what a transfer has brought, once it is gone from where it came.
    async fn forget_imports(&self, transfer_id: &str) -> Result<()>;
}

/// Looking for what is wrong.
#[async_trait]
pub trait Doctor: Send + Sync {
    /// Looks for what is wrong with the storage, and changes nothing. It need not be there, or migrated. What would take too long for the
    /// effort is skipped, and told.
    async fn diagnose(&self, effort: Effort) -> Vec<Check>;
}
