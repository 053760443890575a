//! What is answered to who says it wrong, or asks for what does not work.

use serde_json::Value;

use crate::common::Scene;

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_said_right_is_answered_with_status_2_and_what_to_do() {
    let scene = Scene::new().await;
    scene.run(&["add", "send_invoice", "--queue", "invoices"]).await.ok();
    let long = "x".repeat(129);
    for (args, says) in [
        (&["jbos"][..], "similar subcommands exist: 'job', 'jobs'"),
        (&["jobs", "--stat", "ready"], "--stat"),
        (&["jobs", "--state", "redy"], "similar value exists: 'ready'"),
        (&["add"], "required"),
        (&["add", "t", "{name: 1}"], "the payload is no JSON"),
        (&["add", "t", "--run-at", "tomorrow"], "is no time; it looks like"),
        (&["add", "t", "--in", "60"], "needs a unit, such as 60s or 60ms"),
        (&["add", "t", "--in", "1h", "--run-at", "2026-11-21T10:00:00Z"], "cannot be used with"),
        (&["add", "t", "--key-mode", "replace"], "--key"),
        (&["add", "t", "--key", "k", "--key-mode", "replce"], "did you mean \"replace\"?"),
        (&["add", "t", "--max-attempts", "0"], "max_attempts \"0\" must be from 1 to 32767"),
        (&["add", "t", "--priority", "40000"], "40000"),
        (&["add", &long], "has 129 characters; at most 128"),
        (&["add", "t", "--from", "x"], "cannot be used with"),
        (&["complete"], "required"),
        (&["complete", "x"], "invalid digit"),
        (&["reschedule", "1"], "required"),
        (&["cleanup"], "required"),
        (&["cleanup", "--queues", "--keep-task", "t"], "--tasks"),
        (&["stats", "--watch", "1ms"], "at least 100ms"),
        (&["worker", "--concurrency", "0"], "must be a number from 1 to 1000000"),
        (&["worker", "--poll-interval", "2000"], "2000ms"),
        (&["worker", "--prefetch-ttl", "1m"], "--prefetch"),
        (&["worker", "--retry", "often"], "exponential:1s:2:1h"),
        (&["worker", "--task-concurrency", "3"], "TASK=3"),
        (&["worker", "--task-concurrency", "helo=3"], "no task is called \"helo\"; did you mean \"hello\"?"),
        (&["worker", "--timeout", "helo=3s"], "did you mean \"hello\"?"),
        (&["--schema", "pg_x", "jobs"], "starts with pg_"),
        (&["--database-url", "nonsense", "jobs"], "the database URL has no scheme"),
        (&["--database-url", "postgres://h:port/d", "jobs"], "the database URL cannot be read"),
        (&["--log-format", "xml", "jobs"], "xml"),
        (&["completions", "tcsh"], "tcsh"),
    ] {
        scene.task("hello", "#!/bin/sh\n");
        let ran = scene.run(args).await;
        assert_eq!(ran.status, Some(2), "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_work_is_answered_with_status_1_and_what_to_do() {
    let scene = Scene::new().await;
    scene.run(&["add", "send_invoice", "--queue", "invoices", "--key", "invoice-18"]).await.ok();
    scene.write("bad-crontab", "* * * *\n61 * * * * t");
    for (args, says) in [
        (&["job", "77"][..], "there is no job 77; done jobs are deleted"),
        (&["jobs", "--task", "snd_invoice"], "no task is called \"snd_invoice\"; did you mean \"send_invoice\"?"),
        (&["jobs", "--queue", "invoice"], "no queue is called \"invoice\"; did you mean \"invoices\"?"),
        (&["remove", "nokey"], "no job has the key \"nokey\""),
        (&["remove", "invoice-81"], "no job has the key \"invoice-81\"; did you mean \"invoice-18\"?"),
        (&["cleanup", "--tasks", "--keep-task", "send_invoic"], "did you mean \"send_invoice\"?"),
        (&["unlock", "pool-x"], "no worker is called \"pool-x\""),
        (&["--schema", "elsewhere", "jobs"], "run `backfill migrate`"),
        (&["--schema", "elsewhere", "worker", "--no-migrate", "--crontab", "good-crontab"], "run `backfill migrate`"),
        (&["--schema", "elsewhere", "add", "t", "--no-migrate"], "run `backfill migrate`"),
        (&["--database-url", "postgres://127.0.0.1:9/x", "jobs"], "the database cannot be reached"),
        (&["worker"], "there is no directory tasks with tasks in it"),
        (&["worker", "--tasks", "empty"], "there are no tasks in empty"),
        (&["worker", "--crontab", "nofile"], "could not read the crontab nofile"),
        (&["worker", "--crontab", "bad-crontab"], "line 2, column 1: \"61\" is too large"),
        (&["crontab", "check", "nofile"], "could not read nofile"),
        (&["add", "--from", "nofile"], "could not read nofile"),
    ] {
        scene.write("empty/readme.txt", "not executable");
        scene.write("good-crontab", "* * * * * t");
        let ran = scene.run(args).await;
        assert_eq!(ran.status, Some(1), "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    let none = scene.run(&["jobs", "--key", "invoice-81"]).await;
    assert!(none.err.contains("did you mean \"invoice-18\"?"), "{}", none.err);
    assert_eq!(none.ok(), "no jobs\n", "it may be done");
    let machine = scene.run(&["job", "77", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&machine.err).expect("JSON")["error"],
        "there is no job 77; done jobs are deleted"
    );
}
