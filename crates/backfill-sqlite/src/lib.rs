//! Jobs of the queue `backfill` in an SQLite file: durable, with nothing to install and nothing to run.
//!
//! Programs reach it through the library's feature `sqlite`, by a URL such as `sqlite://jobs.db`. The tables have the prefix `backfill_`, so
//! they can be in the file of a program's own tables, and a job can be added in the program's own transaction on it
//! (`client.add(…).within(&mut tx)`).
//!
//! # How it works
//!
//! SQLite has one writer at a time, and a commit waits for the disk. So all writes of a process go through one *writer*, a
//! thread with a connection of its own, which stores whatever has gathered meanwhile in one transaction: a *group commit*. Nobody
//! is answered before it is on the disk, and a job that blocks the program's threads cannot hold the file's lock.
//!
//! | file | what it does |
//! | --- | --- |
//! | `file` | which file is meant, and how it is opened |
//! | `place` | whether the file at the path is still the one that is open |
//! | `writer` | the thread that writes |
//! | `migrate` | the file's version |
//! | `add` | storing jobs |
//! | `claim` | taking jobs |
//! | `settle` | writing how jobs ended |
//! | `heartbeat` | heartbeats, rescue, locks that are released |
//! | `cron` | the gate through which crontabs add their jobs |
//! | `manage` | the administrative verbs |
//! | `transfer` | moving jobs from and to other storages |
//! | `search` | finding jobs |
//! | `inspect` | what an administrator sees |
//! | `doctor` | looking for what is wrong |
//! | `messages` | lines, leases, units, documents and events |
//! | `wakeups` | noticing what this process and others add |
//! | `testing` | what the test kit needs (feature `testing`) |
//! | `row` | reading rows |
//! | `errors` | what the driver said |

mod add;
mod claim;
mod cron;
mod doctor;
mod errors;
mod file;
mod heartbeat;
mod inspect;
mod manage;
mod messages;
mod migrate;
mod place;
mod row;
mod search;
mod settle;
#[cfg(feature = "testing")]
mod testing;
mod transfer;
mod wakeups;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId, NewJob};
use backfill_core::storage::messages::{Messages, settle_units, split_settled};
use backfill_core::storage::{
    Admin, Capabilities, ClaimRequest, Claimed, Consumer, Cursor, Doctor, Inspect, LeftOut, Migrated, Offers,
    Registration, Rescued, Schedules, Settled, Settlement, Storage, Transfer, Wakeup, Watch, WorkerId, WorkerStatus,
};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use sqlx::SqliteConnection;

pub use errors::kind as failure_kind;
pub use file::{default_path, default_url};
pub use migrate::VERSION;

use file::File;

/// The most that SQLite holds in one value, as it is built.
const MAX_PAYLOAD_BYTES: u64 = 1_000_000_000;

/// Jobs in an SQLite file. Cheap to clone; clones share the writer.
#[derive(Clone, Debug)]
pub struct SqliteStorage {
    file: Arc<File>,
    /// Where claims begin.
    cursor: Arc<Cursor>,
    /// When it was last told that claims are left out.
    left_out: Arc<LeftOut>,
    /// Whether messages are wanted.
    messages: bool,
    /// How many rows one part of a claim's walk looks at.
    part: u32,
    /// After how long a walk is broken off.
    walk: Duration,
}

impl SqliteStorage {
    /// The storage in this file, such as `sqlite://jobs.db`, `sqlite:///var/lib/app/jobs.db` or `sqlite:jobs.db?mode=rwc`.
    /// Opens nothing yet; `migrate` makes the file if it is not there.
    ///
    /// # Errors
    /// [`Error::InvalidClient`](backfill_core::Error::InvalidClient) for a URL that cannot be read, for a database in memory, and for one that may only be read.
    pub fn open(url: &str) -> Result<Self> {
        Ok(Self {
            file: Arc::new(File::new(url)?),
            cursor: Arc::default(),
            left_out: Arc::default(),
            messages: false,
            part: claim::PART,
            walk: claim::WALK,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.file.path()
    }

    /// Adds jobs on the caller's own connection to this file, or in the caller's transaction on it, which then should begin
    /// with `begin immediate`: one that has read before it writes is refused by SQLite (`SQLITE_BUSY`) when somebody else
    /// wrote in between. Workers see the jobs when it commits; those of this process within
    /// about 20 milliseconds, as those of others. All or none is added.
    ///
    /// # Errors
    /// When two have the same key, or SQLite fails.
    pub async fn add_within(&self, connection: &mut SqliteConnection, jobs: Vec<NewJob>) -> Result<Vec<Job>> {
        add::add_in(&self.file, connection, jobs).await
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    fn name(&self) -> String {
        format!("SQLite, file {}", self.file.path().display())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(MAX_PAYLOAD_BYTES).transactional_add().several_processes().durable()
    }

    async fn migrate(&self) -> Result<Migrated> {
        migrate::migrate(&self.file, self.messages).await
    }

    async fn version(&self) -> Result<i32> {
        migrate::check(&self.file, self.messages).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(Utc::now())
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        self.add_jobs(jobs.to_vec()).await
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        // The user's code never gets hold of the writer, so a worker needs none of its own.
        Arc::new(Self { cursor: Arc::default(), ..self.clone() })
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
        self.messages.then_some(self as &dyn Messages)
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        Some(self)
    }
}

/// What a worker needs; each verb is in the file of its statements.
#[async_trait]
impl Consumer for SqliteStorage {
    fn reconnect(&self) -> bool {
        false
    }

    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        self.register_worker(registration).await
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.serve_tasks(worker, tasks).await
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.write_heartbeat(worker).await
    }

    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.write_status(worker, status).await
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.remove_registration(worker).await
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.claim_jobs(request).await
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        if settled.iter().any(|settlement| settlement.then.needs_messages()) {
            let (with_messages, plain) = split_settled(settled);
            let written = settle_units(self, worker, &with_messages).await?;
            return Ok(written.and(self.settle_jobs(worker, &plain).await?));
        }
        self.settle_jobs(worker, settled).await
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.existing_jobs(ids).await
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.release_untracked_jobs(worker, holds).await
    }

    async fn release_stale(&self) -> Result<u64> {
        self.release_stale_locks().await
    }

    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.rescue_workers(watch).await
    }

    fn wakeups(&self, _offers: Offers) -> BoxStream<'static, Wakeup> {
        wakeups::of(Arc::clone(&self.file), Arc::clone(&self.cursor))
    }
}

/// A list as SQLite takes it: JSON, read by `json_each`.
fn json<T>(list: T) -> String
where
    serde_json::Value: From<T>,
{
    serde_json::Value::from(list).to_string()
}
