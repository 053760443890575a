//! How a worker ends: by signals, without a reader of its log, and by a breaking migration.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::support::{soon, until};
use crate::common::{Running, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_says_what_it_serves_and_ends_in_an_orderly_way() {
    let scene = Scene::empty().await;
    scene.task("wait", "#!/bin/sh\ntouch \"$OUT\"; sleep 1; exit 0\n");
    scene.task("b", "#!/bin/sh\n");
    scene.write("crontab", "0 0 1 1 * b ?id=x\n0 0 1 1 * b");
    let mut command = scene.command(&["worker", "-j", "3", "--prefetch", "10", "--forbidden-flags", "no,never"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    let says = worker.logs("serving").await;
    for part in [
        "storage=PostgreSQL, schema \"graphile_worker\"",
        "revision=20",
        "tasks=\"b wait\"",
        "crontab_entries=2",
        "concurrency=3",
        "wakeups=\"listen and poll\"",
    ] {
        assert!(says.contains(part), "{part} in {says}");
    }
    assert!(!says.contains('\x1b'), "no colours off a terminal");
    scene.run(&["add", "b", "--flag", "never"]).await.ok();
    scene.run(&["add", "wait"]).await.ok();
    until("the job has begun", || async { scene.path("begun").exists() }).await;
    assert_eq!(scene.run(&["workers", "--json"]).await.json()[0]["jobs"], 1);
    // As from a terminal: the programs are not in its process group, and go on.
    worker.signal("INT").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert!(worker.log.contains("the job is done"), "{}", worker.log);
    let jobs = scene.run(&["jobs", "--json"]).await.json();
    assert_eq!((jobs.as_array().map(Vec::len), &jobs[0]["flags"][0]), (Some(1), &Value::from("never")));
    let known = scene.run(&["crontabs", "--json"]).await.json();
    assert_eq!((&known[0]["identifier"], &known[1]["identifier"]), (&Value::from("b"), &Value::from("x")));
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_run_at_the_end_are_asked_and_then_killed() {
    let scene = Scene::new().await;
    scene.task(
        "polite",
        "#!/bin/sh\ntrap 'echo asked >&2; exit 4' TERM\ntouch \"$OUT.polite\"\nwhile :; do sleep 0.05; done\n",
    );
    scene.task("stubborn", "#!/bin/sh\ntrap '' TERM\ntouch \"$OUT.stubborn\"\nwhile :; do sleep 0.05; done\n");
    scene.run(&["add", "polite"]).await.ok();
    scene.run(&["add", "stubborn"]).await.ok();
    let mut command =
        scene.command(&["worker", "--cancel-after", "100ms", "--grace", "1m", "--second-signal-after", "0s"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    until("both have begun", || async { scene.path("begun.polite").exists() && scene.path("begun.stubborn").exists() })
        .await;
    let begin = Instant::now();
    worker.signal("TERM").await;
    worker.logs("exit status: 4").await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert!(begin.elapsed() < Duration::from_secs(30), "a second signal forces the end");
    let errors = scene.ask("select last_error from S._private_jobs order by id").await;
    assert!(
        errors.starts_with("the worker shut down before the job ended: exit status: 4: ")
            && errors.ends_with("asked;the worker shut down before the job ended"),
        "{errors}"
    );
    let left = std::process::Command::new("pgrep")
        .args(["-f", scene.directory.path().to_str().expect("UTF-8")])
        .output()
        .expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "nothing is left running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_run_that_would_end_when_idle_and_its_programs() {
    let scene = Scene::new().await;
    scene.task("slow", "#!/bin/sh\ntouch \"$OUT\"\nsleep 3600\n");
    scene.run(&["add", "slow"]).await.ok();
    let mut command = scene.command(&["worker", "--once", "--cancel-after", "100ms"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    until("it has begun", || async { scene.path("begun").exists() }).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert_eq!(scene.ask("select locked_by is null and attempts = 0 from S._private_jobs").await, "true");
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_log_nobody_reads_any_more_ends() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let mut worker = scene.command(&["worker"]).spawn().expect("it runs");
    drop(worker.stderr.take());
    scene.run(&["add", "hello"]).await.ok();
    soon("it ends", worker.wait()).await.expect("wait");
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n", "in an orderly way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaking_migration_ends_a_running_worker_with_status_57() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\n");
    let mut worker = Running::start(scene.command(&["worker", "-v"]));
    worker.logs("listening for wakeups").await;
    scene.sql("insert into S.migrations (id, breaking) values (999, true)").await;
    scene.sql("select pg_notify('worker:migrate', '{\"migrationNumber\":999,\"breaking\":true}')").await;
    assert_eq!(worker.ended().await, Some(57), "{}", worker.log);
    assert!(
        worker.log.contains("error: the storage (PostgreSQL, schema") && worker.log.contains("breaking revision 999"),
        "{}",
        worker.log
    );
    // One that starts afterwards was never running.
    let late = scene.run(&["worker"]).await;
    assert_eq!(late.status, Some(1), "{}", late.err);
    assert!(late.err.contains("revision 999"), "{}", late.err);
}
