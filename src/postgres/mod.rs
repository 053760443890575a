//! Jobs in PostgreSQL, in the schema shared with Node's graphile-worker.
//!
//! Three floors, of which each knows those below it only (a test reads the imports):
//!
//! 1. `state` is what is remembered between statements, without SQL.
//! 2. `connection` is the way to the database: URLs, connections, transactions, the schema's name, the server's errors.
//! 3. The verbs, one file each:
//!
//! | file | what it does |
//! | --- | --- |
//! | `migrate` | from nothing, or from any revision since 10, to revision 20 |
//! | `reach` | waiting for a server that is away, and the first look at the schema |
//! | `add` | storing jobs |
//! | `add_plain` | storing jobs without keys |
//! | `add_one` | storing one job with neither key nor queue |
//! | `add_guarded` | storing jobs where a trigger may change rows or leave them out |
//! | `coalesce` | storing single jobs together that are added at the same time |
//! | `handoff` | direct handoff: a new job goes to a worker that waits for one |
//! | `claim` | taking jobs |
//! | `settle` | writing how jobs ended |
//! | `consumer` | what a worker needs, in one list |
//! | `cron` | the gate through which crontabs add their jobs |
//! | `listen` | wakeups through `LISTEN` |
//! | `heartbeat` | heartbeats, claims whose answer was lost |
//! | `rescue` | freeing what dead workers hold |
//! | `manage` | the administrative verbs |
//! | `forget` | forgetting names that no job has |
//! | `transfer` | moving jobs from and to other storages |
//! | `messages` | lines, leases, units, documents and events |
//! | `jobs` | reading jobs |
//! | `search` | finding jobs among any number of rows |
//! | `indexes` | indexes for those who look |
//! | `tally` | how many jobs there are, exactly or within a bound |
//! | `inspect` | what an administrator sees of queues, tasks and workers |
//! | `doctor` | a check-up: what is wrong, and what to do about it |
//! | `testing` | what the test kit needs (feature `testing`) |

mod add;
mod add_guarded;
mod add_one;
mod add_plain;
mod claim;
mod coalesce;
mod connection;
mod consumer;
mod cron;
mod doctor;
mod forget;
mod handoff;
mod heartbeat;
mod indexes;
mod inspect;
mod jobs;
mod listen;
mod manage;
mod messages;
mod migrate;
mod reach;
mod rescue;
mod search;
mod settle;
mod state;
mod tally;
#[cfg(feature = "testing")]
mod testing;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

pub use connection::address::address;
pub(crate) use connection::connections::ConnectionHealth;
pub use connection::failure::kind as failure_kind;
pub use connection::schema::{Schema, Scoped};
pub use indexes::ListIndex;
pub use migrate::{FIRST_WITH_PRIVATE_TABLES, REVISION};

use crate::error::Result;
use crate::job::limits::MAX_DELAY;
use crate::job::{Job, NewJob};
use crate::storage::messages::Messages;
use crate::storage::{
    Admin, Capabilities, Consumer, Doctor, Inspect, LeftOut, Migrated, Schedules, Settled, Settlement, Storage,
    Transfer, WorkerId,
};
use coalesce::Coalescer;
use connection::rights::Need;
use connection::slow_calls::LockedRows;
use connection::{Database, row, schema};
use handoff::HandoffSender;
use state::{Cursors, Plainness};

/// PostgreSQL holds values up to 1 GiB, and a statement needs room for two.
const MAX_PAYLOAD_BYTES: u64 = 512 * 1024 * 1024;

/// The name of the schema when nobody names one: Graphile's.
pub const DEFAULT_SCHEMA: &str = schema::TEMPLATE;

/// Jobs in a PostgreSQL schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostgresStorage {
    database: Database,
    /// When it was last told that claims are left out.
    left_out: Arc<LeftOut>,
    /// Whose rows were locked when their results were to be written.
    locked_rows: LockedRows,
    /// When those were tried last whom somebody's lock keeps from being rescued wholly.
    unfinished_rescues: rescue::UnfinishedRescues,
    /// Where claims begin.
    cursors: Arc<Cursors>,
    /// Which kind of claim to try.
    plainness: Arc<Plainness>,
    /// Single adds under way.
    coalescer: Arc<Coalescer>,
    /// The workers to which they may be handed off.
    sender: Arc<HandoffSender>,
    /// Whether the last heartbeat has not been answered.
    heartbeat_unanswered: Arc<AtomicBool>,
    /// Whether the schema is to have what messages need.
    has_messages: bool,
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
        Ok(Self {
            database: Database::new(pool, schema, prepared, health)?,
            left_out: Arc::default(),
            locked_rows: LockedRows::default(),
            unfinished_rescues: rescue::UnfinishedRescues::default(),
            coalescer: Arc::default(),
            sender: Arc::default(),
            heartbeat_unanswered: Arc::default(),
            cursors: Arc::default(),
            plainness: Arc::default(),
            has_messages: false,
        })
    }

    /// The same storage with lines, leases, units, documents and events. `migrate` adds what the schema needs for them: tables and indexes of
    /// our own beside Graphile's.
    #[must_use]
    pub fn with_messages(mut self) -> Self {
        self.has_messages = true;
        self
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// The schema's name, unquoted.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.database.schema.name()
    }

    async fn settle_batch(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let call = self.database.slow_calls.begin();
        let written = if let Some(applied) = call.answered(self.settle_all(worker, settled).await)? {
            Settled::applied(applied)
        } else {
            // In pieces, each by itself: so it is not tried again as a whole, which would find the first ones gone.
            let call = self.database.slow_calls.begin();
            let written = call.answered(self.settle_the_free(worker, settled).await)?;
            self.locked_rows.learn(settled, &written.busy);
            written
        };
        // (What is busy holds its queue. It is hardly ever anything.)
        let free = settled.iter().filter(|settlement| !written.busy.contains(&settlement.claim.id));
        let freed = free.filter_map(|settlement| settlement.claim.queue.as_deref());
        let freed_queues = freed.clone().count();
        if freed_queues > 0 {
            self.cursors.queues_were_freed(freed, Instant::now());
        }
        if settled.iter().any(|settlement| settlement.outcome.releases()) {
            self.cursors.forget_soon();
        }
        Ok(written.freed_queues(freed_queues))
    }

    /// Passes on an answer after which jobs may be ready that claims have passed by. (Other processes are notified of it.)
    fn freed<T>(&self, answer: Result<T>) -> Result<T> {
        self.cursors.forget();
        answer
    }

    async fn read_task_names(&self) -> Result<Vec<String>> {
        Ok(self.task_ids().await?.into_iter().map(|(_, name)| name).collect())
    }

    /// Stores jobs, all or none.
    async fn add_all(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        self.database
            .retrying_for(Need::Add, || async {
                // One job is one statement, which is all or nothing by itself.
                let mut work = if jobs.len() > 1 {
                    self.database.transaction().await?.into()
                } else {
                    self.database.work().await?
                };
                let added = self.add_chunks(&mut work, jobs).await?;
                self.database.done(work).await?;
                Ok(added)
            })
            .await
    }
}

#[async_trait]
impl Storage for PostgresStorage {
    fn name(&self) -> String {
        format!("PostgreSQL, schema {:?}", self.database.schema.name())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(MAX_PAYLOAD_BYTES).transactional_add().handoff().several_processes().durable()
    }

    async fn migrate(&self) -> Result<Migrated> {
        migrate::migrate(self).await
    }

    async fn version(&self) -> Result<i32> {
        let need = if self.has_messages { Need::Messages } else { Need::Read };
        self.database.explained(need, migrate::check(self).await).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        sqlx::query_scalar!(r#"select clock_timestamp() as "now!: row::Timestamp""#)
            .fetch_one(self.database.schema.on(&self.database.db()))
            .await
            .map(|now| now.0)
            .map_err(|e| self.database.error("read the clock", e))
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

    fn consumer(&self) -> Arc<dyn Consumer> {
        Arc::new(Self {
            database: self.database.for_worker(),
            coalescer: Arc::default(),
            sender: Arc::default(),
            heartbeat_unanswered: Arc::default(),
            cursors: Arc::default(),
            plainness: Arc::default(),
            locked_rows: LockedRows::default(),
            unfinished_rescues: rescue::UnfinishedRescues::default(),
            ..self.clone()
        })
    }

    fn schedules(&self) -> Option<&dyn Schedules> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn messages(&self) -> Option<&dyn Messages> {
        self.has_messages.then_some(self as &dyn Messages)
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        Some(self)
    }
}

/// A delay in microseconds, bounded so that adding it to a time cannot overflow.
fn micros(delay: Duration) -> i64 {
    i64::try_from(delay.min(MAX_DELAY).as_micros()).unwrap_or(i64::MAX)
}
