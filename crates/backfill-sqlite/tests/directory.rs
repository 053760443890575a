//! A program that changes its directory. (By itself: the directory is the whole process's.)

use backfill_core::storage::{Inspect, Storage};
use backfill_sqlite::SqliteStorage;

#[tokio::test]
async fn a_relative_path_means_one_file_wherever_the_program_goes() {
    let (here, there) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::env::set_current_dir(here.path()).expect("go");
    let jobs = SqliteStorage::open("sqlite://jobs.db").expect("open");
    std::env::set_current_dir(there.path()).expect("go");
    jobs.migrate().await.expect("migrate");
    assert_eq!(jobs.counts().await.expect("counts").total(), 0);
    assert!(here.path().join("jobs.db").exists() && !there.path().join("jobs.db").exists());
    assert_eq!(jobs.path().to_str(), Some("jobs.db"), "it is told as it was named");
}
