//! What an orderly end leaves of a file: the file alone.

use std::path::Path;
use std::time::{Duration, Instant};

use backfill_core::job::JobSpec;
use backfill_core::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use backfill_core::storage::{Doctor, Inspect, JobFilter, Storage, Wakeup};
use backfill_sqlite::SqliteStorage;
use futures::StreamExt;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}

fn url(directory: &TempDir) -> String {
    format!("sqlite://{}", directory.path().join("jobs.db").display())
}

/// A file with so many jobs, which was read too.
async fn used(directory: &TempDir, jobs: usize) -> SqliteStorage {
    let storage = SqliteStorage::open(&url(directory)).expect("open");
    storage.migrate().await.expect("migrate");
    let job = JobSpec::new("t", 1).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a job");
    storage.add(&vec![job; jobs]).await.expect("add");
    assert_eq!(storage.counts().await.expect("counts").ready, jobs as u64);
    storage
}

async fn counted(directory: &TempDir) -> u64 {
    SqliteStorage::open(&url(directory)).expect("open").counts().await.expect("counts").ready
}

#[tokio::test]
async fn the_last_handle_leaves_the_file_alone() {
    let directory = TempDir::new().expect("a directory");
    let storage = used(&directory, 1).await;
    let clone = storage.clone();
    drop(storage);
    assert_eq!(names(directory.path()), ["jobs.db", "jobs.db-shm", "jobs.db-wal"], "it is not the last one");
    drop(clone);
    assert_eq!(names(directory.path()), ["jobs.db"]);
    assert_eq!(counted(&directory).await, 1);
    assert_eq!(names(directory.path()), ["jobs.db"], "a handle that only reads leaves nothing either");
    drop(SqliteStorage::open(&url(&directory)).expect("open"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_listeners_leave_the_file_alone() {
    let directory = TempDir::new().expect("a directory");
    let storage = used(&directory, 1_000).await;
    let mut wakeups = storage.consumer().wakeups(None);
    assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
    let filter = JobFilter::new().limit(1_000);
    let reads = (0..20).map(|_| storage.jobs(&filter));
    assert!(futures::future::join_all(reads).await.into_iter().all(|jobs| jobs.expect("jobs").len() == 1_000));
    for _ in 0..20 {
        // It is abandoned while it reads.
        let _ = tokio::time::timeout(Duration::from_micros(200), storage.jobs(&filter)).await;
    }
    assert!(storage.diagnose(backfill_core::storage::Effort::Exact).await.len() > 3);
    drop(storage);
    drop(wakeups);
    assert_eq!(names(directory.path()), ["jobs.db"]);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_is_ended_first() {
    let directory = TempDir::new().expect("a directory");
    let storage = used(&directory, 1).await;
    let job = JobSpec::new("t", 1).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a job");
    let jobs = vec![job; 1_000];
    let _ = tokio::time::timeout(Duration::from_micros(500), storage.add(&jobs)).await;
    drop(storage);
    assert_eq!(names(directory.path()), ["jobs.db"]);
    let ready = counted(&directory).await;
    assert!(ready == 1 || ready == 1_001, "all or none: {ready}");
}

#[tokio::test]
async fn where_another_has_it_open_the_last_handle_does_not_wait() {
    let directory = TempDir::new().expect("a directory");
    let storage = used(&directory, 1).await;
    let mut other = SqliteConnection::connect(&url(&directory)).await.expect("open");
    for holds in ["select 1", "begin immediate"] {
        sqlx::raw_sql("select count(*) from backfill_jobs").execute(&mut other).await.expect("read");
        sqlx::raw_sql(holds).execute(&mut other).await.expect("hold");
        let mine = SqliteStorage::open(&url(&directory)).expect("open");
        assert_eq!(mine.counts().await.expect("counts").ready, 1);
        let begun = Instant::now();
        drop(mine);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    let begun = Instant::now();
    drop(storage);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(names(directory.path()), ["jobs.db", "jobs.db-shm", "jobs.db-wal"]);
    sqlx::raw_sql("commit").execute(&mut other).await.expect("commit");
    other.close().await.expect("close");
    assert_eq!(names(directory.path()), ["jobs.db"], "the last one tidies");
    assert_eq!(counted(&directory).await, 1);
}

#[test]
fn the_end_of_the_runtime_may_come_first() {
    let directory = TempDir::new().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let storage = runtime.block_on(used(&directory, 10));
    drop(runtime);
    drop(storage);
    assert_eq!(names(directory.path()), ["jobs.db"]);
}
