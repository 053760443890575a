//! A file that is removed or replaced under whoever has it open.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use backfill_core::job::JobSpec;
use backfill_core::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use backfill_core::storage::{CheckStatus, Consumer, Doctor, Inspect, Storage, WorkerId};
use backfill_core::{Error, Result};
use backfill_sqlite::SqliteStorage;
use tempfile::TempDir;

struct Scene {
    directory: TempDir,
    jobs: SqliteStorage,
}

async fn migrated(path: &Path) -> SqliteStorage {
    let jobs = SqliteStorage::open(&format!("sqlite://{}", path.display())).expect("open");
    jobs.migrate().await.expect("migrate");
    jobs
}

async fn add(jobs: &SqliteStorage) -> Result<()> {
    let job = JobSpec::new("t", 1).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a job");
    jobs.add(&[job]).await.map(drop)
}

impl Scene {
    /// A file that has been written to and read from.
    async fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let jobs = migrated(&directory.path().join("jobs.db")).await;
        add(&jobs).await.expect("add");
        assert_eq!(jobs.counts().await.expect("counts").ready, 1);
        Self { directory, jobs }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Neither reads nor writes anything, and says why.
    async fn is_gone(&self, why: &str) {
        let calls = [
            add(&self.jobs).await,
            self.jobs.heartbeat(&WorkerId::random()).await.map(drop),
            self.jobs.counts().await.map(drop),
            self.jobs.migrate().await.map(drop),
        ];
        for called in calls {
            let error = called.expect_err("the file is gone");
            assert!(matches!(error, Error::StorageGone { .. }) && !error.is_transient(), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        let found = self.jobs.diagnose(backfill_core::storage::Effort::Exact).await;
        assert!(
            found
                .iter()
                .any(|found| matches!(&found.status, CheckStatus::Found { problem, .. } if problem.contains(why))),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_removed_is_neither_read_nor_written_nor_made_anew() {
    let scene = Scene::new().await;
    fs::remove_file(scene.path("jobs.db")).expect("remove");
    scene.is_gone("jobs.db was removed").await;
    assert!(!scene.path("jobs.db").exists());
}

#[tokio::test]
async fn a_directory_that_is_removed_takes_the_file_with_it() {
    let scene = Scene::new().await;
    fs::remove_dir_all(scene.directory.path()).expect("remove");
    scene.is_gone("jobs.db was removed").await;
}

#[tokio::test]
async fn a_file_that_takes_the_name_is_left_alone() {
    let scene = Scene::new().await;
    let other = migrated(&scene.path("backup.db")).await;
    fs::rename(scene.path("backup.db"), scene.path("jobs.db")).expect("rename");
    scene.is_gone("jobs.db was replaced by another file").await;
    drop(other);
}

#[tokio::test]
async fn a_file_that_is_removed_and_made_anew_by_somebody_else_is_another_one() {
    let scene = Scene::new().await;
    for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        fs::remove_file(scene.path(name)).expect("remove");
    }
    let anew = migrated(&scene.path("jobs.db")).await;
    scene.is_gone("jobs.db was replaced by another file").await;
    assert_eq!(anew.counts().await.expect("counts").total(), 0);
}

#[tokio::test]
async fn a_file_is_followed_where_a_link_leads() {
    let mut scene = Scene::new().await;
    symlink("jobs.db", scene.path("link.db")).expect("link");
    scene.jobs = migrated(&scene.path("link.db")).await;
    add(&scene.jobs).await.expect("add");
    assert_eq!(scene.jobs.counts().await.expect("counts").ready, 2);
    let other = migrated(&scene.path("other.db")).await;
    fs::remove_file(scene.path("link.db")).expect("remove");
    symlink("other.db", scene.path("link.db")).expect("link");
    scene.is_gone("link.db was replaced by another file").await;
    assert_eq!(other.counts().await.expect("counts").total(), 0);
}

#[tokio::test]
async fn a_file_that_comes_back_is_used_again() {
    let scene = Scene::new().await;
    fs::rename(scene.path("jobs.db"), scene.path("away.db")).expect("rename");
    scene.is_gone("jobs.db was removed").await;
    fs::rename(scene.path("away.db"), scene.path("jobs.db")).expect("rename");
    add(&scene.jobs).await.expect("add");
    assert_eq!(scene.jobs.counts().await.expect("counts").ready, 2);
}

#[tokio::test]
async fn a_log_that_is_removed_takes_no_more_jobs() {
    let scene = Scene::new().await;
    fs::remove_file(scene.path("jobs.db-wal")).expect("remove");
    let error = add(&scene.jobs).await.expect_err("others would not see it");
    assert!(error.to_string().contains("jobs.db-wal was removed"), "{error}");
    let Scene { directory, jobs } = scene;
    drop(jobs);
    drop(directory);
}
