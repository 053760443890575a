//! Where jobs are kept: a URL decides.

mod common;

use common::support::soon;
use common::{Ran, binary};
use tokio::process::Command;

/// The binary in a directory of its own, with no database named.
struct Alone {
    directory: tempfile::TempDir,
}

impl Alone {
    fn new() -> Self {
        Self { directory: tempfile::TempDir::new().expect("a directory") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(self.directory.path());
        command.args(args);
        command
    }

    async fn run(&self, args: &[&str]) -> Ran {
        soon("the binary ends", self.command(args).output()).await.expect("it runs").into()
    }

    fn task(&self, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join("tasks").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, "#!/bin/sh\ncat\n").expect("write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_database_named_jobs_are_in_the_users_own_file() {
    let alone = Alone::new();
    let none = alone.run(&["jobs"]).await;
    assert_eq!(none.status, Some(1), "{}", none.err);
    assert!(none.err.contains("has no job queue in it; run `backfill migrate`, or add a job"), "{}", none.err);
    let added = alone.run(&["add", "hello", "{}"]).await;
    let file = alone.directory.path().join("data/backfill/jobs.db");
    assert!(added.err.contains(&format!("the SQLite file {}", file.display())), "{}", added.err);
    assert!(
        added.err.contains("DATABASE_URL=postgres://") && added.err.contains("backfill copy --to"),
        "{}",
        added.err
    );
    assert_eq!(added.ok(), "added job 1\n");
    assert!(file.exists());
    alone.task("hello");
    assert_eq!(alone.run(&["worker", "--once"]).await.ok(), "1 job done, 0 attempts failed\n");
    assert_eq!(alone.run(&["--json", "stats"]).await.json()["jobs"]["ready"], 0);
    let checked = alone.run(&["doctor"]).await.ok();
    assert!(checked.contains("fine     integrity: the file is whole"), "{checked}");
    assert!(alone.run(&["migrate"]).await.ok().contains("jobs.db is at version 1 already"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_on_a_file() {
    let alone = Alone::new();
    let run = |args: &'static str| {
        let mut command = alone.command(&args.split(' ').collect::<Vec<_>>());
        command.env("DATABASE_URL", "sqlite://jobs.db");
        async move { Ran::from(soon("it ends", command.output()).await.expect("it runs")) }
    };
    assert_eq!(run("add mail --queue q --key k").await.ok(), "added job 1\n");
    assert_eq!(run("add mail --in 1h").await.ok(), "added job 2\n");
    assert_eq!(run("fail 1 --reason no").await.ok(), "failed 1\n");
    assert_eq!(run("run-now 1").await.ok(), "rescheduled 1\n");
    assert_eq!(run("reschedule 2 --priority 7").await.ok(), "rescheduled 2\n");
    assert!(run("job 2").await.ok().contains("priority    7"));
    assert_eq!(run("jobs --json --queue q").await.json()[0]["id"], 1);
    assert_eq!(run("queues --json").await.json()[0]["name"], "q");
    assert_eq!(run("tasks --json").await.json()[0]["name"], "mail");
    run("workers").await.ok();
    run("crontabs").await.ok();
    run("remove k").await.ok();
    assert_eq!(run("complete 2").await.ok(), "completed 2\n");
    assert_eq!(run("--json cleanup --dead --tasks --queues").await.json()["queues"], 1);
    let refused = run("jobs --schema s").await;
    assert_eq!(refused.status, Some(2));
    assert!(refused.err.contains("only PostgreSQL has schemas"), "{}", refused.err);
}
