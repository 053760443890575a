//! What a worker meets as a process among others: its file that is taken away.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::support::soon;
use common::{Ran, Running, binary};
use tempfile::TempDir;

/// A directory with a file of jobs, and a program as a task.
async fn scene(task: &str) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    fs::create_dir(directory.path().join("tasks")).expect("a directory");
    let path = directory.path().join("tasks/t");
    fs::write(&path, task).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
    run(&directory, &["add", "t"]).await.ok();
    directory
}

async fn run(directory: &TempDir, args: &[&str]) -> Ran {
    let mut command = binary(directory.path());
    command.args(args).env("DATABASE_URL", "sqlite:jobs.db");
    soon("the binary ends", command.output()).await.expect("it runs").into()
}

fn worker(directory: &TempDir) -> tokio::process::Command {
    let mut command = binary(directory.path());
    command.args(["worker", "--sign-of-life", "100ms", "--dead-after", "1h", "--poll-interval", "1h"]);
    command.env("DATABASE_URL", "sqlite:jobs.db");
    command
}

#[tokio::test]
async fn a_worker_whose_file_is_removed_or_replaced_ends_with_an_error() {
    for replaced in [false, true] {
        let directory = scene("#!/bin/sh\necho running > running\nexec sleep 3600\n").await;
        let file = |name: &str| directory.path().join(name);
        let mut worker = Running::start(worker(&directory));
        worker.logs("serving").await;
        common::support::until("the job runs", || async { file("running").exists() }).await;
        let why = if replaced {
            let mut other = binary(directory.path());
            other.args(["migrate"]).env("DATABASE_URL", "sqlite:backup.db");
            Ran::from(soon("it ends", other.output()).await.expect("it runs")).ok();
            fs::rename(file("backup.db"), file("jobs.db")).expect("rename");
            "jobs.db was replaced by another file while this program had it open"
        } else {
            fs::remove_file(file("jobs.db")).expect("remove");
            "jobs.db was removed while this program had it open"
        };
        assert_eq!(worker.ended().await, Some(1), "{}", worker.log);
        let told = worker.log.lines().find(|line| line.starts_with("error: ")).expect("it says why");
        assert!(told.contains(why) && told.contains("start them again"), "{told}");
    }
}
