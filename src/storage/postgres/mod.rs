//! Jobs in PostgreSQL, in the schema shared with Node's graphile-worker.
//!
//! | file | what it does |
//! | --- | --- |
//! | `schema` | the configurable schema name, and the executor that puts it into each statement |
//! | `address` | what a database URL means, and what the environment says beside it |
//! | `connections` | the connections that statements use, and how a worker gets new ones |
//! | `own` | a worker's own connections: as many as it can use, as few as there are |
//! | `isolation` | transactions beside a default isolation that is stricter than ours |
//! | `migrate` | from nothing, or from any revision since 10, to revision 20 |
//! | `add` | storing jobs |
//! | `add_plain` | storing jobs without keys |
//! | `add_one` | storing one job with neither key nor queue |
//! | `add_guarded` | storing jobs where a trigger may change rows or leave them out |
//! | `coalesce` | storing single jobs together that are added at the same time |
//! | `handoff` | direct handoff: a new job goes to a worker that waits for one |
//! | `claim` | taking jobs |
//! | `slow_calls` | claims and results after one of them took too long |
//! | `settle` | writing how jobs ended |
//! | `cron` | the gate through which crontabs add their jobs |
//! | `listen` | wakeups through `LISTEN` |
//! | `transaction_pooling` | finding out that connections are pooled by the transaction |
//! | `manage` | the administrative verbs |
//! | `forget` | forgetting names that no job has |
//! | `transfer` | moving jobs from and to other storages |
//! | `inspect` | what an administrator sees of queues, tasks and workers |
//! | `heartbeat` | heartbeats, rescue from dead workers, claims whose answer was lost |
//! | `reach` | waiting for a server that is away, and the first look at the schema |
//! | `row` | reading rows that anybody may have written |
//! | `doctor` | a check-up: what is wrong, and what to do about it |
//! | `encoding` | error texts where the database's encoding lacks a character |
//! | `errors` | which database errors mean what |
//! | `failure` | what the driver said: which kind of failure it is, and in which words |
//! | `rights` | what this role may do, asked of the server |

mod add;
mod add_guarded;
mod add_one;
mod add_plain;
mod address;
mod claim;
mod coalesce;
mod connections;
mod cron;
mod doctor;
mod encoding;
mod errors;
mod failure;
mod forget;
mod handoff;
mod heartbeat;
mod inspect;
mod isolation;
mod listen;
mod manage;
mod migrate;
mod own;
mod reach;
mod rights;
mod row;
mod schema;
mod settle;
mod slow_calls;
mod transaction_pooling;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use sqlx::PgPool;
use tokio::sync::watch;

pub use address::address;
pub use migrate::{FIRST_WITH_PRIVATE_TABLES, REVISION};

use claim::{Cursors, Plainness};
use coalesce::Coalescer;
pub(crate) use connections::ConnectionHealth;
use connections::Connections;
use encoding::Characters;
use handoff::{HandoffSender, Offering};
use isolation::Isolation;
use rights::Need;
use schema::Schema;
use slow_calls::{LockedRows, SlowCallGuard};

use super::{
    Check, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, DueJob, JobFilter, KnownCrontab, Migrated, Offer,
    QueueInfo, Registration, Reschedule, Rescued, Settled, Settlement, Storage, TaskInfo, Wakeup, Watch, WorkerId,
    WorkerInfo,
};
use crate::error::Result;
use crate::job::limits::MAX_DELAY;
use crate::job::{Job, JobId, NewJob};
use failure::driver;

/// The name of the schema when nobody names one: Graphile's.
pub const DEFAULT_SCHEMA: &str = schema::TEMPLATE;

/// Jobs in a PostgreSQL schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostgresStorage {
    /// The user's pool.
    pool: PgPool,
    /// What statements use: that pool, or a worker's own.
    connections: Connections,
    health: ConnectionHealth,
    schema: Arc<Schema>,
    /// Whether transactions name their isolation level, see [`Isolation`].
    isolation: Isolation,
    /// Whether claims and results have taken too long lately.
    slow_calls: SlowCallGuard,
    /// Whose rows were locked when their results were to be written.
    locked_rows: LockedRows,
    /// When those were tried last whom somebody's lock keeps from being rescued wholly.
    unfinished_rescues: heartbeat::UnfinishedRescues,
    /// Where claims begin.
    cursors: Arc<Cursors>,
    /// Which kind of claim to try.
    plainness: Arc<Plainness>,
    /// Single adds under way.
    coalescer: Arc<Coalescer>,
    /// The workers to which they may be handed off.
    sender: Arc<HandoffSender>,
    /// Which characters the database's encoding has.
    characters: Arc<Characters>,
    /// Whether the last heartbeat has not been answered.
    heartbeat_unanswered: Arc<AtomicBool>,
}

impl PostgresStorage {
    /// Jobs in this schema, through this pool. Sends nothing.
    ///
    /// # Errors
    /// [`Error::InvalidSchemaName`](crate::Error::InvalidSchemaName).
    pub fn new(pool: PgPool, schema: &str) -> Result<Self> {
        Self::with_prepared_statements(pool, schema, true)
    }

    /// The same; `prepared` says whether statements may be prepared once and kept by the connection. A pooler that
    /// hands out connections by the transaction and does not track prepared statements needs `false`.
    ///
    /// # Errors
    /// [`Error::InvalidSchemaName`](crate::Error::InvalidSchemaName).
    pub fn with_prepared_statements(pool: PgPool, schema: &str, prepared: bool) -> Result<Self> {
        // A pool of the user's has the user's own hooks.
        Self::with_health(pool, schema, prepared, ConnectionHealth::default())
    }

    /// The same for a pool that this crate has made, which goes by `health`.
    pub(crate) fn with_health(pool: PgPool, schema: &str, prepared: bool, health: ConnectionHealth) -> Result<Self> {
        let schema = Arc::new(Schema::new(schema, prepared)?);
        let connections = Connections::Shared(pool.clone());
        Ok(Self {
            health,
            pool,
            connections,
            schema,
            isolation: Isolation::default(),
            slow_calls: SlowCallGuard::default(),
            locked_rows: LockedRows::default(),
            unfinished_rescues: heartbeat::UnfinishedRescues::default(),
            coalescer: Arc::default(),
            sender: Arc::default(),
            characters: Arc::default(),
            heartbeat_unanswered: Arc::default(),
            cursors: Arc::default(),
            plainness: Arc::default(),
        })
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The schema's name, unquoted.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.schema.name()
    }

    /// Runs a transaction that is ours alone, and runs it again when it failed only because of another at the same time: two
    /// that meet in each other's keys or new names may deadlock, and serializable ones may fail.
    async fn retrying<T, F: Future<Output = Result<T>>>(&self, transaction: impl Fn() -> F) -> Result<T> {
        self.retrying_for(Need::Work, transaction).await
    }

    /// The same for those who need other rights than a worker.
    async fn retrying_for<T, F: Future<Output = Result<T>>>(
        &self,
        need: Need,
        transaction: impl Fn() -> F,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            match transaction().await {
                Err(error) if driver(&error).is_some_and(errors::is_conflict) && tries < 10 => {
                    driver(&error).inspect(|told| self.isolation.learn(told));
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20 * tries))).await;
                }
                result => return self.explained(need, result).await,
            }
        }
    }

    async fn settle_batch(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let call = self.slow_calls.begin();
        let written = if let Some(applied) = call.answered(self.settle_all(worker, settled).await)? {
            Settled::applied(applied)
        } else {
            // In pieces, each by itself: so it is not tried again as a whole, which would find the first ones gone.
            let call = self.slow_calls.begin();
            let written = call.answered(self.settle_the_free(worker, settled).await)?;
            self.locked_rows.learn(settled, &written.busy);
            written
        };
        let mut freed = settled.iter().filter_map(|settlement| settlement.claim.queue.as_deref()).peekable();
        if freed.peek().is_some() {
            self.cursors.queues_were_freed(freed, Instant::now());
        }
        if settled.iter().any(|settlement| settlement.outcome.releases()) {
            self.cursors.forget_soon();
        }
        Ok(written)
    }

    /// Passes on an answer after which jobs may be ready that claims have passed by. (Other processes are notified of it.)
    fn freed<T>(&self, answer: Result<T>) -> Result<T> {
        self.cursors.forget();
        answer
    }

    async fn read_task_names(&self) -> Result<Vec<String>> {
        sqlx::query_scalar!(
            r#"
select identifier as "identifier!: row::Text"
from graphile_worker._private_tasks
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by identifier
"#
        )
        .fetch_all(self.schema.on(&self.db()))
        .await
        .map(|names| names.into_iter().map(|name| name.text).collect())
        .map_err(|e| self.error("read task names", e))
    }

    /// Stores jobs, all or none.
    async fn add_all(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        self.retrying_for(Need::Add, || async {
            // One job is one statement, which is all or nothing by itself.
            let mut work = if jobs.len() > 1 { self.transaction().await?.into() } else { self.work().await? };
            let added = self.add_chunks(&mut work, jobs).await?;
            self.done(work).await?;
            Ok(added)
        })
        .await
    }
}

#[async_trait]
impl Storage for PostgresStorage {
    fn name(&self) -> String {
        format!("PostgreSQL, schema {:?}", self.schema.name())
    }

    fn for_worker(&self) -> Arc<dyn Storage> {
        let connections = Connections::like(&self.pool);
        Arc::new(Self {
            connections,
            coalescer: Arc::default(),
            sender: Arc::default(),
            heartbeat_unanswered: Arc::default(),
            cursors: Arc::default(),
            plainness: Arc::default(),
            slow_calls: SlowCallGuard::default(),
            locked_rows: LockedRows::default(),
            unfinished_rescues: heartbeat::UnfinishedRescues::default(),
            ..self.clone()
        })
    }

    fn reconnect(&self) -> bool {
        self.connections.renew();
        true
    }

    async fn migrate(&self) -> Result<Migrated> {
        migrate::migrate(self).await
    }

    async fn check(&self) -> Result<i32> {
        self.explained(Need::Read, migrate::check(self).await).await
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        match jobs {
            [job] if self.coalescer.may_coalesce(job) => Ok(vec![self.add_coalesced(job).await?]),
            _ => {
                let stored = self.add_all(jobs).await?;
                if let [job] = jobs {
                    self.coalescer.learn(&job.task);
                }
                Ok(stored)
            }
        }
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.claim_jobs(request).await
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        match self.settle_batch(worker, settled).await {
            Err(error) if encoding::is_for_a_character(&error) => match self.storable_results(settled).await? {
                Some(storable) => self.settle_batch(worker, &storable).await,
                None => Err(error),
            },
            written => written,
        }
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.freed(self.retrying(|| self.release_untracked_jobs(worker, holds)).await)
    }

    async fn release_stale(&self) -> Result<u64> {
        self.freed(self.retrying(|| self.release_stale_locks()).await)
    }

    async fn register_with(&self, registration: &Registration<'_>) -> Result<bool> {
        self.retrying(|| async {
            self.refuse_hidden(Need::Work).await?;
            self.register_worker(registration).await
        })
        .await
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.serve_tasks(worker, tasks).await
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.retrying(|| self.write_heartbeat(worker)).await
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.retrying(|| self.remove_registration(worker)).await
    }

    async fn rescue_with(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let rescued = self.retrying(|| self.rescue_workers(watch)).await?;
        if !rescued.is_empty() {
            self.cursors.forget();
        }
        Ok(rescued)
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        listen::wakeups(self.clone(), Offering::none())
    }

    fn wakeups_and_handoffs(&self, offers: watch::Receiver<Option<Offer>>) -> BoxStream<'static, Wakeup> {
        listen::wakeups(self.clone(), Offering::new(offers))
    }

    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        self.explained(Need::Read, self.read_known_crontabs().await).await
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.retrying(|| self.insert_known_crontabs(identifiers, since)).await
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        self.retrying(|| self.add_due_jobs(moment, due)).await
    }

    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        self.retrying(|| self.remove_job(key)).await
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.retrying(|| self.complete_jobs(ids)).await
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let discard = |reason: String| async move { self.retrying(|| self.discard_jobs(ids, &reason)).await };
        self.with_storable(super::clean_error(reason), discard).await
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        self.freed(self.retrying(|| self.reschedule_jobs(ids, change)).await)
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        self.freed(self.retrying(|| self.unlock_workers(workers)).await)
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        self.retrying(|| self.clean(what)).await
    }

    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        self.retrying(|| self.reserve_jobs(transfer_id, after, limit, max_bytes)).await
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        self.retrying(|| self.delete_reserved_jobs(transfer_id, ids)).await
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        match self.retrying(|| self.import_jobs(run, transfer_id, jobs)).await {
            Err(error) if encoding::is_for_a_character(&error) => match self.storable_jobs(jobs).await? {
                Some(storable) => self.retrying(|| self.import_jobs(run, transfer_id, &storable)).await,
                None => Err(error),
            },
            imported => imported,
        }
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        self.explained(Need::Work, self.forget_imported(transfer_id).await).await
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.explained(Need::Read, self.existing_jobs(ids).await).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.explained(Need::Read, self.read_job(id).await).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.explained(Need::Read, self.list_jobs(filter).await).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.explained(Need::Read, self.count_jobs().await).await
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.explained(Need::Read, self.list_queues().await).await
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        self.explained(Need::Read, self.list_tasks().await).await
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        self.explained(Need::Read, self.read_task_names().await).await
    }

    async fn time(&self) -> Result<DateTime<Utc>> {
        sqlx::query_scalar!(r#"select clock_timestamp() as "now!: row::Timestamp""#)
            .fetch_one(self.schema.on(&self.db()))
            .await
            .map(|now| now.0)
            .map_err(|e| self.error("read the clock", e))
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        self.explained(Need::Read, self.read_last_id().await).await.map(Some)
    }

    async fn diagnose(&self) -> Vec<Check> {
        self.look_at_everything().await
    }

    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        self.list_serving().await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.explained(Need::Read, self.list_workers().await).await
    }
}

/// A delay in microseconds, bounded so that adding it to a time cannot overflow.
fn micros(delay: Duration) -> i64 {
    i64::try_from(delay.min(MAX_DELAY).as_micros()).unwrap_or(i64::MAX)
}
