//! The example `toy_storage`: a storage without the optional traits passes the contract, and its jobs survive a restart.

#[path = "../examples/toy_storage/storage.rs"]
mod storage;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::storage::contract::Subject;
use backfill::storage::{ClaimRequest, Consumer, Registration, Watch, WorkerId};
use backfill::{BackfillClient, JobSpec, Worker, task_fn};
use storage::ToyStorage;
use tempfile::TempDir;

thread_local! {
    /// Where the files of this thread's test are, until it ends.
    static DIRECTORIES: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

async fn toy() -> Subject {
    let directory = tempfile::tempdir().expect("a directory");
    let storage = ToyStorage::open(directory.path().join("jobs.json")).expect("open");
    DIRECTORIES.with_borrow_mut(|directories| directories.push(directory));
    Arc::new(storage)
}

backfill::storage_contract_tests!(toy:);

#[tokio::test]
async fn jobs_that_were_added_or_claimed_before_a_restart_run_after_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("jobs.json");
    {
        let storage = ToyStorage::open(&path).expect("open");
        let jobs = BackfillClient::with_storage(Arc::new(storage.clone()));
        jobs.add(JobSpec::new("count", ())).await.expect("add");
        jobs.add(JobSpec::new("count", ())).await.expect("add");
        // A worker takes one of them, and is gone with its process.
        let worker = WorkerId::random();
        storage.register(&Registration::new(&worker, &[])).await.expect("register");
        let claimed = storage.claim(&ClaimRequest::new(&worker, &["count".to_owned()], 1)).await.expect("claim");
        assert_eq!(claimed.jobs.len(), 1);
        assert!(ToyStorage::open(&path).is_err(), "one process has it open");
    }
    let storage = ToyStorage::open(&path).expect("open again");
    let jobs = BackfillClient::with_storage(Arc::new(storage.clone()));
    assert_eq!(jobs.counts().await.expect("counts").running, 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue").len(), 1);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = {
        let runs = Arc::clone(&runs);
        task_fn("count", move |(), _| {
            runs.fetch_add(1, Ordering::Relaxed);
            async {}
        })
    };
    let worker = Worker::builder(jobs.clone()).task(count).handle_signals(false).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 2);
    assert_eq!((runs.load(Ordering::Relaxed), jobs.counts().await.expect("counts").total()), (2, 0));
}

#[tokio::test]
async fn what_the_storage_has_no_trait_for_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let storage = ToyStorage::open(directory.path().join("jobs.json")).expect("open");
    let jobs = BackfillClient::with_storage(Arc::new(storage));
    let crontab = "* * * * * count".parse().expect("a crontab");
    let worker = Worker::builder(jobs.clone()).task(task_fn("count", |(), _| async {})).crontab(crontab);
    let error = worker.build().expect_err("it has no gate of crontabs").to_string();
    assert!(error.starts_with("crontabs cannot be used"), "{error}");
    let error = jobs.remove("key").await.expect_err("it has no Admin").to_string();
    assert!(error.starts_with("managing jobs cannot be used"), "{error}");
}

/// As docs/comparison.md counts: without comments, empty lines and imports.
#[test]
fn the_toy_has_at_most_300_lines_of_code() {
    let toy = include_str!("../examples/toy_storage/storage.rs");
    let (_imports, rest) = toy.split_at(toy.rfind("\nuse ").expect("imports"));
    let lines = rest.lines().skip(2).map(str::trim);
    let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!(code <= 300, "{code}");
}
