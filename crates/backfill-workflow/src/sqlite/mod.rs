//! Workflows in an SQLite file: durable, with nothing to install and nothing to run.
//!
//! SQLite has one writer at a time. All writes of a process go through one connection, in transactions that begin `immediate`; what has gathered is written by one
//! of them. Reads have connections of their own. Other processes may have the file open, too: what they write is noticed within a tenth of a second.
//!
//! | file | what it does |
//! | --- | --- |
//! | `create` | storing new workflows, and forks |
//! | `claim` | taking work |
//! | `checkpoint` | recording steps, with what goes with them |
//! | `transition` | ending workflows, changing many at once, executors that live |
//! | `read` | looking |
//! | `delete` | deleting, and storing exports again |
//! | `settings` | queues, schedules, versions |

mod checkpoint;
mod claim;
mod create;
mod delete;
mod read;
mod settings;
mod transition;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backfill::client::Within;
use backfill::sqlite::failure_kind;
use chrono::Utc;
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Sqlite, SqlitePool, Transaction};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::store::{
    Beat, Change, Checkpoint, Checkpointed, Claim, Claimed, Count, Created, Encoded, EventRow, Expired, Export, Filter,
    Finish, Fork, Held, MessageRow, Moved, Ms, NewMessage, NewRun, QueueRow, Run, ScheduleChange, ScheduleRow, StepRow,
    Store, StoreTransaction, StreamRow, Transition, VersionRow,
};

const SCHEMA: &str = include_str!("../../sql/sqlite/schema.sql");
/// How long one waits for another process that writes.
const BUSY: Duration = Duration::from_secs(30);
/// How many connections read.
const READERS: u32 = 4;
/// How often what other processes have written is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Workflows in an SQLite file. Clones are the same storage.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    /// A pool of one: whoever has its connection writes.
    writer: SqlitePool,
    news: broadcast::Sender<Change>,
}

impl SqliteStore {
    /// Workflows in the file that the URL means: `sqlite://orders.db`. The file is made if it is not there.
    ///
    /// # Errors
    /// When the URL is wrong or the file cannot be opened.
    pub async fn open(url: &str) -> Result<Self> {
        let options: SqliteConnectOptions =
            url.parse().map_err(|error: sqlx::Error| Error::invalid("the URL", url, error.to_string()))?;
        Self::with_options(options.create_if_missing(true)).await
    }

    /// Workflows in the file of this pool, through connections of its own.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn new(pool: SqlitePool) -> Result<Self> {
        Self::with_options((*pool.connect_options()).clone()).await
    }

    async fn with_options(options: SqliteConnectOptions) -> Result<Self> {
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            // Every commit is on the disk when it is answered.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let open = |error| failed("open the file", error);
        let writer = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let writer = writer.connect_with(options.clone()).await.map_err(open)?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(open)?;
        Ok(Self { readers, writer, news: broadcast::channel(4096).0 })
    }

    /// Begins to write: nobody else does until it ends.
    async fn write(&self, action: &'static str) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("begin immediate").await.map_err(|error| failed(action, error))
    }

    fn tell(&self, change: Change) {
        // Nobody may be listening.
        let _ = self.news.send(change);
    }
}

fn now() -> Ms {
    Utc::now().timestamp_millis()
}

/// A list as a statement takes it.
fn list<T: serde::Serialize>(items: &[T]) -> String {
    // Names and numbers can always be written.
    serde_json::to_string(items).unwrap_or_default()
}

/// What the driver's error means.
fn failed(action: &'static str, error: sqlx::Error) -> Error {
    let kind = failure_kind(&error);
    if error.as_database_error().is_some_and(|error| error.message().starts_with("no such table")) {
        return Error::NotReady {
            problem: format!("{action}: the tables are not there: {error}"),
            remedy: "Launch an engine that may migrate, or run `backfill workflow migrate`".to_owned(),
        };
    }
    Error::Storage { action, kind, source: Arc::new(error) }
}

/// What other processes have written, and what this one has.
fn changes(store: SqliteStore) -> BoxStream<'static, Change> {
    let news = store.news.subscribe();
    let own = futures::stream::unfold(news, |mut news| async move {
        match news.recv().await {
            Ok(change) => Some((change, news)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Anything, news)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    });
    // In a task of its own: a stream that nobody asks for its next item would keep the connection that it is asking.
    let (tell, others) = mpsc::channel(1);
    let writer = store.writer;
    let looking = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut known = None;
        loop {
            tokio::time::sleep(LOOK).await;
            // Dynamic because pragmas cannot be described. On the writer's own connection it counts what others commit, and nothing else.
            let version = sqlx::query_scalar::<_, i64>("pragma data_version").fetch_one(&writer).await;
            let Ok(version) = version else { continue };
            // The first look tells of what was written before it. One that is not read yet says as much as two.
            if known.replace(version) != Some(version)
                && matches!(tell.try_send(Change::Anything), Err(mpsc::error::TrySendError::Closed(_)))
            {
                return;
            }
        }
    }));
    let others = futures::stream::unfold((others, looking), |(mut others, looking)| async move {
        Some((others.recv().await?, (others, looking)))
    });
    futures::stream::select(own.boxed(), others.boxed()).boxed()
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    async fn migrate(&self) -> Result<()> {
        let mut tx = self.write("make the tables of workflows").await?;
        let made = sqlx::raw_sql(SCHEMA).execute(&mut *tx).await;
        made.map_err(|error| failed("make the tables of workflows", error))?;
        tx.commit().await.map_err(|error| failed("make the tables of workflows", error))
    }

    async fn now(&self) -> Result<Ms> {
        Ok(now())
    }

    fn clock(&self) -> Option<Ms> {
        Some(now())
    }

    async fn create(&self, runs: &[NewRun]) -> Result<Vec<Created>> {
        create::create(self, runs).await
    }

    async fn create_within(&self, mut within: Within<'_>, run: &NewRun) -> Result<Created> {
        match within.sqlite() {
            Some(connection) => {
                let created = create::create_one(connection, run).await;
                created.map_err(|error| failed("store a workflow", error))
            }
            None => Err(Error::Unsupported { storage: "SQLite", what: "transactions of another database" }),
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

    async fn finish(&self, finishes: &[Finish]) -> Result<Vec<bool>> {
        transition::finish(self, finishes).await
    }

    async fn beat(&self, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat> {
        transition::beat(self, executor, lease, live).await
    }

    async fn retire(&self, executor: &str) -> Result<()> {
        transition::retire(self, executor).await
    }

    async fn transition(&self, transition: &Transition) -> Result<Vec<Moved>> {
        transition::transition(self, transition).await
    }

    async fn fork(&self, fork: &Fork) -> Result<bool> {
        create::fork(self, fork).await
    }

    async fn send(&self, message: &NewMessage) -> Result<bool> {
        let wrong = |error| failed("send a message", error);
        let mut tx = self.write("send a message").await?;
        let sent = checkpoint::send(&mut tx, message).await.map_err(wrong)?;
        tx.commit().await.map_err(wrong)?;
        if sent {
            self.tell(Change::Message(format!("{}::{}", message.destination, message.topic)));
        }
        Ok(sent)
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
        changes(self.clone())
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
