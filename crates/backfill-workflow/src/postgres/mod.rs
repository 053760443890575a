//! Workflows in PostgreSQL, in the schema that DBOS's libraries share.
//!
//! Statements are written with the schema `dbos` and are checked at compile time; the configured schema is put in at run time.
//!
//! | file | what it does |
//! | --- | --- |
//! | `migrate` | the schema: from nothing, or from what DBOS's libraries have made |
//! | `create` | storing new workflows, and forks |
//! | `claim` | taking work |
//! | `checkpoint` | recording steps, with what goes with them |
//! | `finish` | ending workflows |
//! | `kept` | connections that are kept for writing |
//! | `lease` | executors that live, and those that do not |
//! | `transition` | changing many rows at once |
//! | `read` | looking |
//! | `delete` | deleting, and storing exports again |
//! | `settings` | queues, schedules, versions |
//! | `listen` | news through `LISTEN` |
//! | `row` | a workflow's row |

mod checkpoint;
mod claim;
mod create;
mod delete;
mod finish;
mod kept;
mod lease;
mod listen;
mod migrate;
mod read;
mod row;
mod settings;
mod transition;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backfill::BackfillClient;
use backfill::client::Within;
use backfill::postgres::{Schema, address, failure_kind};
use futures::stream::BoxStream;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgPool};

use crate::error::{Error, Result};
use crate::store::{
    Beat, Change, Checkpoint, Checkpointed, Claim, Claimed, Count, Created, Encoded, EventRow, Expired, Export, Filter,
    Finish, Fork, Held, MessageRow, Moved, Ms, NewMessage, NewRun, QueueRow, Run, ScheduleChange, ScheduleRow, StepRow,
    Store, StoreTransaction, StreamRow, Transition, VersionRow,
};

use self::kept::Kept;
pub use self::migrate::VERSION;

/// The name that statements are written with.
const TEMPLATE: &str = "dbos";
/// How many connections a pool of this crate's own has.
const CONNECTIONS: u32 = 10;
/// How long one waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(30);

/// Workflows in PostgreSQL. Clones are the same storage.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: PgPool,
    schema: Arc<Schema>,
    /// The channel of this library's own news.
    channel: Arc<str>,
    /// Connections for what is written all the time.
    kept: Arc<Kept>,
}

impl PostgresStore {
    /// Workflows in this schema of a pool's database. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the server would not take the schema's name.
    pub fn new(pool: PgPool, schema: &str) -> Result<Self> {
        let schema = Schema::of_template(TEMPLATE, schema, true)?;
        // The server takes 63 bytes. Two schemas that begin alike wake each other, which harms nobody.
        let mut end = schema.name().len().min(44);
        while !schema.name().is_char_boundary(end) {
            end -= 1;
        }
        let channel = format!("backfill_workflow:{}", &schema.name()[..end]);
        Ok(Self { pool, schema: Arc::new(schema), channel: channel.into(), kept: Arc::default() })
    }

    /// Workflows in this schema of the database that the URL means.
    ///
    /// # Errors
    /// When the URL or the schema's name is wrong, or the server cannot be reached.
    pub async fn connect(url: &str, schema: &str) -> Result<Self> {
        let options = address(Some(url))?;
        let pool =
            PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE).connect_lazy_with(options);
        let store = Self::new(pool, schema)?;
        let mut connection = store.pool.acquire().await.map_err(|error| failed("connect to PostgreSQL", error))?;
        connection.ping().await.map_err(|error| failed("connect to PostgreSQL", error))?;
        Ok(store)
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// This library's own news, in messages of a size that the server takes.
    fn news(kind: char, names: &[&str]) -> Vec<String> {
        let mut messages: Vec<String> = Vec::new();
        for name in names {
            // Whoever hears the star looks at everything.
            if name.len() > 7000 || name.contains('\n') {
                return vec!["*".to_owned()];
            }
            match messages.last_mut() {
                Some(last) if last.len() + name.len() < 7500 => {
                    last.push('\n');
                    last.push_str(name);
                }
                _ => messages.push(format!("{kind}{name}")),
            }
        }
        messages
    }
}

/// What the driver's error means.
fn failed(action: &'static str, error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    match code.as_deref() {
        Some("42P01" | "3F000" | "42703") => Error::NotReady {
            problem: format!("{action}: the tables are not there, or are older than version {VERSION}: {error}"),
            remedy: "Launch an engine that may migrate, or run `backfill workflow migrate`".to_owned(),
        },
        _ => Error::Storage { action, kind: failure_kind(&error), source: Arc::new(error) },
    }
}

/// Whether a statement met others that it does not wait for.
fn is_contended(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03"))
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    async fn migrate(&self) -> Result<()> {
        migrate::migrate(self).await
    }

    async fn now(&self) -> Result<Ms> {
        let row = sqlx::query_scalar!(r#"select (extract(epoch from clock_timestamp()) * 1000)::bigint as "now!""#);
        row.fetch_one(&self.pool).await.map_err(|error| failed("ask what time it is", error))
    }

    async fn create(&self, runs: &[NewRun]) -> Result<Vec<Created>> {
        create::create(self, runs).await
    }

    async fn create_within(&self, mut within: Within<'_>, run: &NewRun) -> Result<Created> {
        match within.postgres() {
            Some(connection) => create::create_one(self, connection, run).await,
            None => Err(Error::Unsupported { storage: "PostgreSQL", what: "transactions of another database" }),
        }
    }

    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
        claim::claim(self, claim).await
    }

    async fn partitions(&self, queue: &str) -> Result<Vec<String>> {
        claim::partitions(self, queue).await
    }

    async fn checkpoint(&self, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>> {
        checkpoint::checkpoint(self, checkpoints).await
    }

    async fn begin(&self) -> Result<Box<dyn StoreTransaction>> {
        checkpoint::begin(self).await
    }

    async fn is_database_of(&self, client: &BackfillClient) -> Result<bool> {
        read::is_database_of(self, client).await
    }

    async fn finish(&self, finishes: &[Finish]) -> Result<Vec<bool>> {
        finish::finish(self, finishes).await
    }

    async fn beat(&self, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat> {
        lease::beat(self, executor, lease, live).await
    }

    async fn retire(&self, executor: &str) -> Result<()> {
        lease::retire(self, executor).await
    }

    async fn transition(&self, transition: &Transition) -> Result<Vec<Moved>> {
        transition::transition(self, transition).await
    }

    async fn fork(&self, fork: &Fork) -> Result<bool> {
        create::fork(self, fork).await
    }

    async fn send(&self, message: &NewMessage) -> Result<bool> {
        let mut connection = self.pool.acquire().await.map_err(|error| failed("send a message", error))?;
        checkpoint::send(self, &mut connection, message).await
    }

    async fn delete(&self, ids: &[String]) -> Result<Vec<String>> {
        delete::delete(self, ids).await
    }

    async fn delete_expired(&self, expired: &Expired) -> Result<u64> {
        delete::delete_expired(self, expired).await
    }

    async fn import(&self, exports: &[Export]) -> Result<Vec<String>> {
        delete::import(self, exports).await
    }

    async fn runs(&self, filter: &Filter) -> Result<Vec<Run>> {
        read::runs(self, filter).await
    }

    async fn counts(&self, filter: &Filter) -> Result<Vec<Count>> {
        read::counts(self, filter).await
    }

    async fn has_message(&self, run: &str, topic: &str) -> Result<bool> {
        read::has_message(self, run, topic).await
    }

    async fn steps(&self, run: &str) -> Result<Vec<StepRow>> {
        read::steps(self, run).await
    }

    async fn messages(&self, run: &str) -> Result<Vec<MessageRow>> {
        read::messages(self, run).await
    }

    async fn event(&self, run: &str, key: &str) -> Result<Option<Encoded>> {
        read::event(self, run, key).await
    }

    async fn events(&self, run: &str) -> Result<Vec<EventRow>> {
        read::events(self, run).await
    }

    async fn stream(&self, run: &str, key: Option<&str>, from: i32) -> Result<Vec<StreamRow>> {
        read::stream(self, run, key, from).await
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        listen::changes(self.clone())
    }

    async fn queues(&self) -> Result<Vec<QueueRow>> {
        settings::queues(self).await
    }

    async fn put_queue(&self, queue: &QueueRow, only_new: bool) -> Result<()> {
        settings::put_queue(self, queue, only_new).await
    }

    async fn delete_queue(&self, name: &str) -> Result<bool> {
        settings::delete_queue(self, name).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        settings::schedules(self).await
    }

    async fn put_schedule(&self, schedule: &ScheduleRow) -> Result<()> {
        settings::put_schedule(self, schedule).await
    }

    async fn change_schedule(&self, name: &str, change: &ScheduleChange) -> Result<bool> {
        settings::change_schedule(self, name, change).await
    }

    async fn versions(&self) -> Result<Vec<VersionRow>> {
        settings::versions(self).await
    }

    async fn put_version(&self, name: &str, application: Option<&str>, latest: bool) -> Result<()> {
        settings::put_version(self, name, application, latest).await
    }
}
