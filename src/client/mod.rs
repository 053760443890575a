//! Adding jobs, and managing them.

mod add;
mod builder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod within;
/// There are no databases, so nobody has a transaction.
#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
mod within {
    use super::BackfillClient;
    use crate::error::Result;
    use crate::job::{Job, NewJob};

    pub(super) type Within<'a> = std::convert::Infallible;

    pub(super) async fn add_within(_: &BackfillClient, nobody: Within<'_>, _: Vec<NewJob>) -> Result<Vec<Job>> {
        match nobody {}
    }
}

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "postgres")]
use sqlx::PgPool;

pub use add::{Add, AddMany};
pub use builder::BackfillClientBuilder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use within::Within;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::explain::{Reason, explain};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{Job, JobId, JobSpec, NewJob, Payload, RunAt};
#[cfg(feature = "postgres")]
use crate::postgres::PostgresStorage;
use crate::search::{Found, Search};
use crate::storage::memory::MemoryStorage;
use crate::storage::{
    AnyStorage, Cleaned, Cleanup, Counts, Effort, JobFilter, KnownCrontab, Migrated, QueueInfo, QueueList, Reschedule,
    Storage, Tally, TaskInfo, WorkerInfo,
};
use crate::task::output_of;
use crate::worker::{Worker, WorkerBuilder};

/// Adds jobs and manages them. Cheap to clone.
///
/// ```no_run
/// use backfill::{BackfillClient, JobSpec};
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let client = BackfillClient::new("postgres://localhost/app").await?;
///
/// // On the client's own pool …
/// client.add(JobSpec::new("send_invoice", serde_json::json!({ "order": 17 }))).await?;
///
/// // … or in the transaction that creates the order: both happen, or neither.
/// let mut tx = pool.begin().await?;
/// sqlx::query("insert into orders (id) values (18)").execute(&mut *tx).await?;
/// client.add(JobSpec::new("send_invoice", serde_json::json!({ "order": 18 }))).within(&mut tx).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BackfillClient {
    storage: AnyStorage,
    max_payload_bytes: usize,
    clock: Clock,
}

impl BackfillClient {
    /// Opens the storage that this URL means (`postgres://…`, with the schema `graphile_worker`; `sqlite://jobs.db`, with the
    /// feature `sqlite`; `memory:`) and brings it up to date.
    ///
    /// # Errors
    /// When the URL is wrong, the database cannot be reached, or the schema cannot be brought up to date.
    pub async fn new(database_url: &str) -> Result<Self> {
        Self::builder().database_url(database_url).build().await
    }

    /// The same with another schema. Any name PostgreSQL accepts works.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for a name that PostgreSQL cannot have.
    pub async fn new_with_schema(database_url: &str, schema: &str) -> Result<Self> {
        Self::builder().database_url(database_url).schema(schema).build().await
    }

    /// Uses a pool that is there already, and brings the schema `graphile_worker` up to date.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[cfg(feature = "postgres")]
    pub async fn with_pool(pool: PgPool) -> Result<Self> {
        Self::builder().pool(pool).build().await
    }

    /// The same with another schema.
    ///
    /// # Errors
    /// As [`new_with_schema`](Self::new_with_schema).
    #[cfg(feature = "postgres")]
    pub async fn with_pool_and_schema(pool: PgPool, schema: &str) -> Result<Self> {
        Self::builder().pool(pool).schema(schema).build().await
    }

    /// Keeps jobs in this process's memory: for tests and demonstrations.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with_storage(MemoryStorage::new())
    }

    /// Keeps jobs in any storage. It is used as it is, without migrating.
    #[must_use]
    pub fn with_storage(storage: impl Into<AnyStorage>) -> Self {
        Self { storage: storage.into(), max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES, clock: Clock::storage() }
    }

    /// Everything that can be set.
    pub fn builder() -> BackfillClientBuilder {
        BackfillClientBuilder::default()
    }

    /// The same client by another clock: for the times of the jobs that it adds, and for the workers that it is given to.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whose clock this client goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What a job has put out that is done, for as long as it is kept (see [`JobContext::output`](crate::JobContext::output)).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a storage without messages.
    pub async fn output(&self, job: JobId) -> Result<Option<Payload>> {
        let found = self.storage().require_messages()?.document(&output_of(job)).await?;
        Ok(found.map(|document| document.value))
    }

    /// The cap on one payload's JSON text, in bytes.
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// The same client with another cap on one payload's JSON text, in bytes: at most 256 MiB.
    ///
    /// # Errors
    /// [`Error::InvalidClient`].
    pub fn with_max_payload_bytes(mut self, bytes: usize) -> Result<Self> {
        builder::check_payload_cap(bytes)?;
        self.max_payload_bytes = bytes;
        Ok(self)
    }

    /// The storage behind this client.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        self.storage.storage()
    }

    /// The same, which still knows what kind of storage it is.
    #[must_use]
    pub fn any_storage(&self) -> &AnyStorage {
        &self.storage
    }

    /// Brings the storage up to date. Safe to call from many processes at once.
    ///
    /// # Errors
    /// Each reason has its own error: see [`Error`].
    pub async fn migrate(&self) -> Result<Migrated> {
        self.storage().migrate().await
    }

    /// Fails as [`add`](Self::add) would before anything is sent, and sends nothing.
    ///
    /// # Errors
    /// For a job outside the limits.
    pub fn check(&self, spec: JobSpec) -> Result<()> {
        self.checked(vec![spec]).map(drop)
    }

    /// A worker for these jobs. Add tasks to it, then run it.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(self.clone())
    }

    /// Adds one job, and answers it as stored once it is awaited: possibly as held by a worker already, which was waiting for one
    /// (see [`WorkerBuilder::accept_handoffs`](crate::worker::WorkerBuilder::accept_handoffs)).
    ///
    /// The job is a payload that names its task ([`TaskPayload`](crate::TaskPayload)), or a [`JobSpec`]. [`Add`] has options, and
    /// [`within`](Add::within) for the caller's own transaction.
    ///
    /// # Errors
    /// When awaited: for a job outside the limits, before anything is sent; or when the storage fails.
    pub fn add(&self, job: impl Into<JobSpec>) -> Add<'_> {
        Add::new(self, job.into())
    }

    /// Adds many jobs, all or none, and answers them in the order of the input once it is awaited.
    ///
    /// # Errors
    /// As [`add`](Self::add), and when two of them have the same key.
    pub fn add_many<J: Into<JobSpec>>(&self, jobs: impl IntoIterator<Item = J>) -> AddMany<'_> {
        AddMany::new(self, jobs.into_iter().map(Into::into).collect())
    }

    /// Removes the job with this key: a waiting or dead one is deleted; a running one keeps running, without its key
    /// and without further attempts. Answers the job, or `None` if no job has the key.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn remove(&self, key: &str) -> Result<Option<Job>> {
        self.storage().require_admin()?.remove(key).await
    }

    /// Deletes jobs as if they were done; answers the deleted ones. Running jobs are left alone (a lock older than
    /// four hours counts as none).
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.storage().require_admin()?.complete(ids).await
    }

    /// Makes jobs dead, with this text as `last_error`; answers the changed ones. Running jobs are left alone.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        self.storage().require_admin()?.discard(ids, reason).await
    }

    /// Changes time, priority or attempts of jobs; answers the changed ones. Running jobs are left alone. Attempts
    /// set to 0 revive a dead job.
    ///
    /// # Errors
    /// When a value is outside the schema's limits, or the storage fails.
    pub async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        self.storage().require_admin()?.reschedule(ids, change).await
    }

    /// Lets jobs run as soon as a worker is free; answers the changed ones. Dead ones get all their attempts anew. Running jobs are left alone.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn run_now(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let mut dead = Vec::new();
        for id in ids {
            // Attempts are given anew only to jobs that have none left.
            dead.extend(self.job(*id).await?.filter(|job| job.attempts >= job.max_attempts).map(|job| job.id));
        }
        let alive: Vec<JobId> = ids.iter().copied().filter(|id| !dead.contains(id)).collect();
        let now = Reschedule::new().run_in(Duration::ZERO);
        let mut changed = if alive.is_empty() { Vec::new() } else { self.reschedule(&alive, &now).await? };
        if !dead.is_empty() {
            changed.extend(self.reschedule(&dead, &now.attempts(0)).await?);
        }
        Ok(changed)
    }

    /// Releases everything that these workers hold, at once; answers how many jobs. Only for workers that are
    /// known to be dead: a live one would find its claims gone and its jobs started by others.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn unlock<S: Into<String>>(&self, workers: impl IntoIterator<Item = S>) -> Result<u64> {
        let workers: Vec<String> = workers.into_iter().map(Into::into).collect();
        self.storage().require_admin()?.unlock(&workers).await
    }

    /// Deletes what is no longer needed. Safe beside enqueuers and workers.
    ///
    /// # Errors
    /// When the storage fails, or is too busy to be cleaned at this moment.
    pub async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        self.storage().require_admin()?.cleanup(what).await
    }

    /// Reads one job. Done jobs are deleted, so `None` may mean that it is done.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn job(&self, id: impl Into<JobId>) -> Result<Option<Job>> {
        self.storage().require_inspect()?.job(id.into()).await
    }

    /// Why this job does not run, the most important reason first; `None` if there is no such job. Workers say what they do with
    /// their heartbeats, so it may be seconds old.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn why(&self, id: impl Into<JobId>) -> Result<Option<Vec<Reason>>> {
        explain(&**self.storage(), id.into()).await
    }

    /// Lists jobs, by id.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.storage().require_inspect()?.jobs(filter).await
    }

    /// Looks for jobs by what they are: `state:dead task:send_* payload.order:17`. [`search`](crate::search) has the grammar.
    ///
    /// Each call answers a page. With a [`budget`](Search::budget) it also ends after that time, and says how far it looked.
    ///
    /// ```no_run
    /// # async fn example(client: backfill::BackfillClient) -> backfill::Result<()> {
    /// use backfill::search::Search;
    ///
    /// let mut search = Search::new("state:dead error:refused".parse()?).limit(50);
    /// loop {
    ///     let found = client.search(&search).await?;
    ///     println!("{} jobs", found.jobs.len());
    ///     let Some(next) = found.next else { break };
    ///     search = search.after(Some(next));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidSearch`] for a place of another order, and when the storage fails.
    pub async fn search(&self, search: &Search) -> Result<Found> {
        self.storage().require_inspect()?.search(search).await
    }

    /// Counts jobs by state within about a fifth of a second, however many there are. Each number says how well it is known.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn tally(&self) -> Result<Tally> {
        self.storage().require_inspect()?.tally(Effort::Bounded).await
    }

    /// Counts jobs by state, exactly. Reads all of them: [`tally`](Self::tally) is for who looks often.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn counts(&self) -> Result<Counts> {
        self.storage().require_inspect()?.counts().await
    }

    /// The serial queues, by name, and what is in them.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.storage().require_inspect()?.queues(&QueueList::all(Effort::Exact)).await
    }

    /// The known task names, sorted, and their jobs.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        self.storage().require_inspect()?.tasks(Effort::Exact).await
    }

    /// The workers that send heartbeats or hold something. Node's hold, but send none.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.storage().require_inspect()?.workers(Effort::Exact).await
    }

    /// The crontab entries that some worker has run, and when each was last due.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn crontabs(&self) -> Result<Vec<KnownCrontab>> {
        self.storage().require_schedules()?.known_crontabs().await
    }

    /// Adds jobs that [`checked`](Self::checked) has passed in the caller's own transaction, as [`Add::within`] does.
    ///
    /// # Errors
    /// When the database refuses them, or the connection is of another kind than the client's.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub async fn add_checked<'a>(&self, jobs: Vec<NewJob>, within: impl Into<Within<'a>>) -> Result<Vec<Job>> {
        within::add_within(self, within.into(), jobs).await
    }

    /// Checks jobs as [`add_many`](Self::add_many) does, and turns them into what a storage takes.
    ///
    /// # Errors
    /// For a job outside the limits, and for two with the same key.
    pub fn checked(&self, specs: impl IntoIterator<Item = JobSpec>) -> Result<Vec<NewJob>> {
        let now = self.clock.time();
        let checked = |spec: JobSpec| {
            let mut job = spec.check(self.max_payload_bytes)?;
            if let Some(now) = now {
                job.run_at = Some(RunAt::Time(job.run_at.map_or(now, |run_at| run_at.by(now))));
            }
            Ok(job)
        };
        let jobs = specs.into_iter().map(checked).collect::<Result<Vec<NewJob>>>()?;
        let mut keys = HashSet::new();
        for key in jobs.iter().filter_map(|job| job.key.as_ref()) {
            if !keys.insert(key) {
                return Err(Error::DuplicateKey { key: key.clone() });
            }
        }
        Ok(jobs)
    }

    /// The PostgreSQL storage behind this client, for what only that has, such as the name of its schema.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the client stores its jobs elsewhere.
    #[cfg(feature = "postgres")]
    pub fn postgres(&self) -> Result<&PostgresStorage> {
        self.storage.postgres().ok_or_else(|| self.unsupported("what only PostgreSQL has"))
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported { what, storage: self.storage().name() }
    }
}

fn one(mut jobs: Vec<Job>) -> Result<Job> {
    jobs.pop().ok_or_else(|| Error::Internal("the storage did not answer the stored job".to_owned()))
}
