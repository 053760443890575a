//! Where jobs are kept: a URL decides, and jobs can be moved from one place to another.

mod common;

use std::collections::BTreeMap;

use backfill::{BackfillClient, JobFilter, JobSpec};
use common::support::{soon, until};
use common::{Ran, Scene, binary};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_jobs_move_as_they_are_and_their_program_with_them() {
    let scene = Scene::new().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    let old = BackfillClient::new(&file).await.expect("open");
    let spec = || JobSpec::new("t", [1]);
    old.add(spec().key("taken")).await.expect("add");
    let kept = old.add(spec().key("kept").serial_queue("q").priority(-3).max_attempts(5).flag("f")).await.expect("add");
    let later = old.add(spec().run_in(std::time::Duration::from_secs(900))).await.expect("add");
    let dead = old.add(spec()).await.expect("add");
    old.fail(&[dead.id], "no").await.expect("fail");
    old.add_many((0..1500).map(|n| JobSpec::new("many", n))).await.expect("add");
    let client = scene.client().await;
    client.add(spec().key("taken")).await.expect("add");

    let told = scene.run(&["copy", "--from", &file, "--to", &scene.url]).await.ok();
    assert!(told.starts_with("moved 1502 jobs from SQLite, file "), "{told}");
    assert!(told.contains("1 stay, because a job there has their key: 1\n"), "{told}");
    assert!(told.contains("0 running and 1 dead jobs stay"), "{told}");
    assert_eq!(old.counts().await.expect("counts").total(), 2);
    assert_eq!(client.counts().await.expect("counts").total(), 1503);
    let moved = client.jobs(&JobFilter::new().key("kept")).await.expect("list").remove(0);
    assert_eq!((moved.queue, moved.priority, moved.max_attempts), (kept.queue, kept.priority, kept.max_attempts));
    assert_eq!((moved.flags, moved.created_at, moved.attempts), (kept.flags, kept.created_at, 0));
    let scheduled = client.jobs(&JobFilter::new().state(backfill::JobState::Scheduled)).await.expect("list");
    assert_eq!(scheduled.iter().map(|job| job.run_at).collect::<Vec<_>>(), [later.run_at]);
    // And back again.
    let back = scene.run(&["--json", "copy", "--to", &file]).await.json();
    assert_eq!((&back["moved"], &back["key_taken"][0]), (&1502.into(), &1.into()));
    assert_eq!(scene.run(&["copy", "--to", &scene.url]).await.status, Some(2), "to where it is");
    assert_eq!(scene.run(&["copy", "--to", "memory:"]).await.status, Some(2), "to nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_again_and_again_loses_nothing_and_moves_nothing_twice() {
    let scene = Scene::new().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    let old = BackfillClient::new(&file).await.expect("open");
    old.add_many((0..20_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let client = scene.client().await;
    let there = || async { client.counts().await.expect("counts").total() };
    for kill in 1..6 {
        let mut copy = scene.command(&["copy", "--from", &file, "--to", &scene.url]).spawn().expect("it runs");
        until("a part has arrived", || async { there().await >= kill * 2000 }).await;
        copy.kill().await.expect("kill");
    }
    // Some are on their way: nobody may run them.
    assert_eq!(old.counts().await.expect("counts").dead, 0);
    scene.run(&["copy", "--from", &file, "--to", &scene.url]).await.ok();
    assert_eq!(old.counts().await.expect("counts").total(), 0);
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for job in client.jobs(&JobFilter::new().limit(100_000)).await.expect("list") {
        *times.entry(job.payload.to_string()).or_default() += 1;
    }
    assert_eq!(times.len(), 20_000, "none is lost");
    assert!(times.values().all(|times| *times == 1), "none came twice");
    assert_eq!(scene.ask("select count(*) from S.backfill_imports").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_into_a_new_file_behind_a_link_is_found_again() {
    let scene = Scene::new().await;
    std::fs::create_dir(scene.path("real")).expect("a directory");
    std::os::unix::fs::symlink(scene.path("real"), scene.path("link")).expect("a link");
    let client = scene.client().await;
    client.add_many((0..5_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let to = "sqlite://link/../link/new.db";
    let arrived = || async {
        match BackfillClient::builder()
            .database_url(format!("sqlite://{}", scene.path("real/new.db").display()))
            .migrate(false)
            .build()
            .await
        {
            Ok(file) => file.counts().await.map_or(0, |counts| counts.total()),
            Err(_) => 0,
        }
    };
    let mut copy = scene.command(&["copy", "--to", to]).spawn().expect("it runs");
    until("a part has arrived", || async { arrived().await >= 500 }).await;
    copy.kill().await.expect("kill");
    scene.run(&["copy", "--to", to]).await.ok();
    assert_eq!(arrived().await, 5_000);
    assert_eq!(client.counts().await.expect("counts").total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_under_two_names_is_one_place() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let other = scene.url.replace("127.0.0.1", "localhost");
    assert_ne!(other, scene.url);
    let ran = scene.run(&["copy", "--to", &other]).await;
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert!(ran.err.contains("the same place"), "{}", ran.err);
    assert_eq!(client.counts().await.expect("counts").ready, 1);
    assert_eq!(scene.ask("select count(*) from S.backfill_pools").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_of_one_move_one_waits_or_gives_up_and_nothing_is_moved_twice() {
    let scene = Scene::new().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    let old = BackfillClient::new(&file).await.expect("open");
    old.add_many((0..10_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let args = ["copy", "--from", &file, "--to", &scene.url];
    let runs = futures::future::join_all((0..3).map(|_| scene.run(&args))).await;
    for run in runs {
        assert!(run.status == Some(0) || run.err.contains("another run of this move"), "{}", run.err);
    }
    scene.run(&args).await.ok();
    assert_eq!(old.counts().await.expect("counts").total(), 0);
    assert_eq!(
        scene.ask("select count(distinct payload::text) || ' ' || count(*) from S._private_jobs").await,
        "10000 10000"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_passwords_of_both_places_are_not_in_the_process_list() {
    let scene = Scene::new().await;
    // Two servers that never answer.
    let silent = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let ports = silent.each_ref().map(|listener| listener.local_addr().expect("its address").port());
    let [from, to] = ports.map(|port| format!("postgres://u:sekret@127.0.0.1:{port}/d"));
    let mut copy = scene.command(&["copy", "--from", &from, &format!("--to={to}")]).spawn().expect("it runs");
    let pid = copy.id().expect("it runs");
    let line = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its command line");
    until("the passwords are gone", || async { line().contains("hidden-1") }).await;
    assert!(!line().contains("sekret"), "{}", line());
    copy.kill().await.expect("kill");
}
