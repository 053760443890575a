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
//! | `inspect` | what an administrator sees |
//! | `doctor` | looking for what is wrong |
//! | `wakeups` | noticing what this process and others add |
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
mod migrate;
mod place;
mod row;
mod settle;
mod transfer;
mod wakeups;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId, NewJob};
use backfill_core::storage::{
    Check, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, Cursor, DueJob, JobFilter, KnownCrontab, Migrated,
    QueueInfo, Registration, Reschedule, Rescued, Settled, Settlement, Storage, TaskInfo, Wakeup, Watch, WorkerId,
    WorkerInfo,
};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use sqlx::SqliteConnection;

pub use file::{default_path, default_url};
pub use migrate::VERSION;

use file::File;

/// Jobs in an SQLite file. Cheap to clone; clones share the writer.
#[derive(Clone, Debug)]
pub struct SqliteStorage {
    file: Arc<File>,
    /// Where claims begin.
    cursor: Arc<Cursor>,
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
        Ok(Self { file: Arc::new(File::new(url)?), cursor: Arc::default(), part: claim::PART, walk: claim::WALK })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.file.path()
    }

    /// The SQLite storage behind any storage, if it is one.
    #[must_use]
    pub fn of(storage: &dyn Storage) -> Option<&Self> {
        let any: &dyn std::any::Any = storage;
        any.downcast_ref()
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

    fn for_worker(&self) -> Arc<dyn Storage> {
        // The user's code never gets hold of the writer, so a worker needs none of its own.
        Arc::new(Self { file: Arc::clone(&self.file), cursor: Arc::default(), part: self.part, walk: self.walk })
    }

    async fn migrate(&self) -> Result<Migrated> {
        migrate::migrate(&self.file).await
    }

    async fn check(&self) -> Result<i32> {
        migrate::check(&self.file).await
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        self.add_jobs(jobs.to_vec()).await
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.claim_jobs(request).await
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        self.settle_jobs(worker, settled.to_vec()).await.map(Settled::applied)
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.release_untracked_jobs(worker, holds).await
    }

    async fn release_stale(&self) -> Result<u64> {
        self.release_stale_locks().await
    }

    async fn register_with(&self, registration: &Registration<'_>) -> Result<bool> {
        self.register_worker(registration).await
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.serve_tasks(worker, tasks).await
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.write_heartbeat(worker).await
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.remove_registration(worker).await
    }

    async fn rescue_with(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.rescue_workers(watch).await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        wakeups::of(Arc::clone(&self.file), Arc::clone(&self.cursor))
    }

    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        self.read_known_crontabs().await
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.insert_known_crontabs(identifiers, since).await
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        self.add_due_jobs(moment, due.to_vec()).await
    }

    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        self.remove_job(key.to_owned()).await
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.complete_jobs(ids).await
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        self.discard_jobs(ids, reason).await
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        self.reschedule_jobs(ids, change.clone()).await
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        self.unlock_workers(workers).await
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        self.clean(what).await
    }

    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        self.reserve_jobs(transfer_id.to_owned(), after, limit, max_bytes).await
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        self.delete_reserved_jobs(transfer_id.to_owned(), ids).await
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        self.import_jobs(run, transfer_id.to_owned(), jobs.to_vec()).await
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        self.forget_imported(transfer_id.to_owned()).await
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        self.existing_jobs(ids).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.read_job(id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.list_jobs(filter).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.count_jobs().await
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.list_queues().await
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        self.list_tasks().await
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        self.list_task_names().await
    }

    async fn diagnose(&self) -> Vec<Check> {
        self.look_at_everything().await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.list_workers().await
    }
}

/// A list as SQLite takes it: JSON, read by `json_each`.
fn json<T>(list: T) -> String
where
    serde_json::Value: From<T>,
{
    serde_json::Value::from(list).to_string()
}
