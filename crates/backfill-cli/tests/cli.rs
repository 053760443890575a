//! The commands that add, look at and manage jobs, as processes.

mod common;

use std::process::Stdio;

use backfill::storage::{ClaimRequest, Registration, WorkerId};
use common::support::{node, soon, until};
use common::{Ran, SCHEMA, Scene, binary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one life of a job")]
async fn a_job_is_added_listed_shown_changed_and_deleted() {
    let scene = Scene::empty().await;
    // The first add creates the schema.
    assert_eq!(scene.run(&["add", "mail", r#"{"to": "ada", "n": 1.0}"#]).await.ok(), "added job 1\n");
    let added = scene
        .run(&[
            "--json",
            "add",
            "mail",
            "[1]",
            "--queue",
            "q",
            "--in",
            "1h",
            "--max-attempts",
            "3",
            "--key",
            "k",
            "--key-mode",
            "preserve_run_at",
            "--priority",
            "-5",
            "--flag",
            "b",
            "--flag",
            "a",
        ])
        .await
        .json();
    for (name, value) in [
        ("id", json!(2)),
        ("task", json!("mail")),
        ("state", json!("scheduled")),
        ("queue", json!("q")),
        ("payload", json!([1])),
        ("max_attempts", json!(3)),
        ("key", json!("k")),
        ("priority", json!(-5)),
        ("flags", json!(["a", "b"])),
        ("attempts", json!(0)),
        ("last_error", Value::Null),
    ] {
        assert_eq!(added[name], value, "{name}");
    }
    assert_eq!(scene.run(&["add", "mail", "[2]", "--key", "k"]).await.ok(), "updated job 2\n");
    let other =
        scene.run(&["--json", "add", "other", "--run-at", "2000-01-01T00:00:00Z"]).await.json()["id"].to_string();

    let listed = scene.run(&["jobs"]).await.ok();
    assert!(listed.starts_with("ID  TASK   STATE"), "{listed}");
    assert_eq!(listed.lines().count(), 4);
    assert_eq!(
        scene.run(&["jobs", "--json", "--task", "mail", "--state", "ready"]).await.json().as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(scene.run(&["jobs", "--json", "--key", "k"]).await.json()[0]["payload"], json!([1, 2]));
    let page = scene.run(&["jobs", "--limit", "1", "--after", "1"]).await;
    assert!(page.err.contains("there are more; go on with --after 2"), "{}", page.err);
    assert_eq!(page.ok().lines().count(), 2);

    let shown = scene.run(&["job", "1"]).await.ok();
    assert!(
        shown.contains("task        mail\n")
            && shown.contains("payload\n  {\n    \"to\": \"ada\",\n    \"n\": 1.0\n  }"),
        "{shown}"
    );

    assert_eq!(scene.run(&["discard", "1", "--reason", "no need"]).await.ok(), "discarded 1\n");
    assert_eq!(scene.run(&["job", "1", "--json"]).await.json()["last_error"], "no need");
    assert_eq!(scene.run(&["jobs", "--json", "--state", "dead"]).await.json()[0]["id"], 1);
    assert_eq!(scene.run(&["run-now", "1"]).await.ok(), "rescheduled 1\n");
    let revived = scene.run(&["job", "1", "--json"]).await.json();
    assert_eq!((&revived["attempts"], &revived["max_attempts"]), (&json!(0), &json!(25)));
    assert_eq!(
        scene
            .run(&[
                "reschedule",
                "1",
                &other,
                "--in",
                "2h",
                "--priority",
                "0",
                "--attempts",
                "2",
                "--max-attempts",
                "9"
            ])
            .await
            .ok(),
        format!("rescheduled 1, {other}\n")
    );
    let changed = scene.run(&["job", &other, "--json"]).await.json();
    assert_eq!(
        (&changed["state"], &changed["attempts"], &changed["max_attempts"]),
        (&json!("scheduled"), &json!(2), &json!(9))
    );
    assert_eq!(scene.run(&["remove", "k"]).await.ok(), "removed job 2\n");
    let completed = scene.run(&["complete", "1", "77"]).await;
    assert_eq!(
        (completed.status, completed.out.as_str()),
        (Some(1), "completed 1\nleft 77 alone: there is no such job\n")
    );
    let rest = scene.run(&["complete", &other, "--json"]).await.json();
    assert_eq!((&rest["changed"][0]["id"].to_string(), &rest["unchanged"]), (&other, &json!([])));
    assert_eq!(scene.run(&["jobs"]).await.ok(), "no jobs\n");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_tasks_workers_and_stats_are_told_and_dead_workers_unlocked() {
    let scene = Scene::new().await;
    for empty in
        [["queues", "no queues"], ["tasks", "no tasks"], ["workers", "no workers"], ["crontabs", "no crontab entries"]]
    {
        assert_eq!(scene.run(&[empty[0]]).await.ok().trim(), empty[1]);
    }
    scene.run(&["add", "mail", "--queue", "q"]).await.ok();
    scene.run(&["add", "mail", "--queue", "q"]).await.ok();
    // A worker that claims and then says nothing more.
    let client = scene.client().await;
    let worker = WorkerId::random();
    client.storage().consumer().register(&Registration::new(&worker, &[])).await.expect("register");
    let tasks = ["mail".to_owned()];
    client.storage().consumer().claim(&ClaimRequest::new(&worker, &tasks, 5)).await.expect("claim");

    let queues = scene.run(&["queues", "--json"]).await.json();
    assert_eq!(
        (&queues[0]["locked_by"], &queues[0]["jobs"]["running"], &queues[0]["jobs"]["ready"]),
        (&json!(worker.as_str()), &json!(1), &json!(1))
    );
    let tasks = scene.run(&["tasks", "--json"]).await.json();
    assert_eq!((&tasks[0]["name"], &tasks[0]["jobs"]["running"]), (&json!("mail"), &json!(1)));
    let workers = scene.run(&["workers", "--json"]).await.json();
    assert_eq!(
        (&workers[0]["id"], &workers[0]["jobs"], &workers[0]["queues"]),
        (&json!(worker.as_str()), &json!(1), &json!(1))
    );
    assert!(workers[0]["last_seen_ago_seconds"].as_f64().is_some());
    for (command, says) in
        [("queues", "QUEUE"), ("tasks", "mail"), ("workers", worker.as_str()), ("stats", "1 worker holds 1 job")]
    {
        let told = scene.run(&[command]).await.ok();
        assert!(told.contains(says), "{told}");
    }
    let held = scene.run(&["discard", "1"]).await;
    assert_eq!((held.status, held.out.as_str()), (Some(1), "left 1 alone: a worker holds it\n"));
    let mistyped = format!("{}x", worker.as_str());
    let unknown = scene.run(&["unlock", &mistyped]).await;
    assert_eq!(unknown.status, Some(1));
    assert!(unknown.err.contains(&format!("did you mean {:?}?", worker.as_str())), "{}", unknown.err);
    assert_eq!(scene.run(&["unlock", worker.as_str()]).await.ok(), "released 1 job\n");
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n", "who is unlocked counts as dead");
    assert_eq!(scene.run(&["stats", "--json"]).await.json()["jobs"]["ready"], 2);

    scene.run(&["discard", "1"]).await.ok();
    scene.run(&["complete", "2"]).await.ok();
    assert_eq!(
        scene.run(&["cleanup", "--dead", "--tasks", "--queues", "--keep-task", "mail"]).await.ok(),
        "deleted 1 dead jobs, 0 task names, 1 queues\n"
    );
    assert_eq!(scene.run(&["cleanup", "--tasks", "--json"]).await.json()["tasks"], 1);
}

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

#[cfg(target_os = "linux")]
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_adding_a_file_shows_how_far_it_is() {
    let scene = Scene::new().await;
    scene.write("jobs", &"{\"task\": \"t\", \"payload\": [1, 2, 3]}\n".repeat(30_000));
    let shown = scene.run_on_a_terminal("add --from jobs").await.ok();
    assert!(shown.contains("checking ") && shown.contains("% of ") && shown.contains(" jobs, "), "{shown}");
    assert!(shown.contains("added 30000 jobs"), "{shown}");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_jobs_is_looked_at_before_anything_is_added() {
    let scene = Scene::new().await;
    let good = r#"{"task":"t","payload":{"n":1},"key":"a"}
{"identifier":"t","runAt":"2030-01-01T00:00:00Z","maxAttempts":3,"queueName":"q"}

{"task":"t","key":"a","payload":{"n":2}}"#;
    scene.write("good", good);
    assert_eq!(scene.run(&["add", "--from", "good"]).await.ok(), "added 3 jobs\n");
    let jobs = scene.run(&["jobs", "--json"]).await.json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(2), "the second job of a key takes the first one's place");
    assert_eq!(
        (&jobs[0]["payload"]["n"], &jobs[1]["queue"], &jobs[1]["max_attempts"]),
        (&json!(2), &json!("q"), &json!(3))
    );

    let many: String = "{\"task\":\"t\",\"payload\":1}\n".repeat(5_000);
    for (line, says) in [
        (
            "{\"task\":\"t\",\"prioritty\":3}",
            "line 5001 has an unknown field \"prioritty\"; did you mean \"priority\"?",
        ),
        ("{\"task\":\"\"}", "line 5001: task name \"\" must not be empty"),
        ("{\"task\":\"t\",\"run_at\":\"soon\"}", "line 5001 run_at \"soon\" is no time"),
        ("hello", "line 5001 is no job: expected value at column 1"),
    ] {
        scene.write("bad", &format!("{many}{line}\n"));
        let ran = scene.run(&["add", "--from", "bad"]).await;
        assert_eq!(ran.status, Some(1));
        assert!(ran.err.contains(says), "{}", ran.err);
        assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "2", "nothing was added");
        // A stream cannot be looked at twice, so what was good is in, and it is said how far.
        let ran = scene.run_with(&["add", "--from", "-"], format!("{many}{line}\n").as_bytes()).await;
        assert_eq!(ran.status, Some(1));
        assert!(ran.err.contains(says), "{}", ran.err);
        assert!(ran.err.contains(" jobs were added, those up to line "), "{}", ran.err);
        let rest = scene.ask("select count(*) >= 5002 from S._private_jobs").await;
        assert_eq!(rest, "true", "{}", ran.err);
        scene
            .sql("delete from S._private_jobs where task_id is not null and key is null and run_at < '2029-01-01'")
            .await;
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_of_jobs_is_added_in_constant_memory() {
    let scene = Scene::new().await;
    let mut child = scene.command(&["add", "--from", "-", "--json"]).stdin(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("stdin");
    // 60 MB.
    let payload = "x".repeat(1_000);
    for n in 0..60_000 {
        stdin
            .write_all(format!("{{\"task\":\"t\",\"payload\":[{n},\"{payload}\"]}}\n").as_bytes())
            .await
            .expect("write");
    }
    until("nearly all is added", || async {
        scene.ask("select count(*) >= 50000 from S._private_jobs").await == "true"
    })
    .await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().expect("it runs"))).expect("read");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    drop(stdin);
    let output = soon("it ends", child.wait_with_output()).await.expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"added\":60000}\n");
    assert!(peak < 60_000, "{peak} kB at the peak");
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "60000");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pipe_ends_it_quietly() {
    let scene = Scene::new().await;
    for n in 0..30 {
        scene.run(&["add", "t", &format!("{{\"n\":{n}}}")]).await.ok();
    }
    for args in
        [&["jobs"][..], &["jobs", "--json"], &["stats", "--watch", "100ms"], &["--help"], &["completions", "bash"]]
    {
        let mut child = scene.command(args).spawn().expect("it runs");
        drop(child.stdout.take());
        let output = soon("it ends", child.wait_with_output()).await.expect("it runs");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_neither_in_the_process_list_nor_in_output_or_log() {
    let scene = Scene::new().await;
    let url = scene.url.replacen("postgres@", "postgres:sekret%21@", 1);
    assert!(url.contains("sekret"), "{url}");
    for args in [
        vec!["--database-url".to_owned(), url.clone()],
        vec![format!("--database-url={url}")],
        vec!["-c".to_owned(), url.clone()],
        vec!["--connection".to_owned(), url.clone()],
    ] {
        let mut child = binary(scene.directory.path())
            .args(["stats", "--watch", "100ms", "-vvv", "--json"])
            .args(&args)
            .spawn()
            .expect("it runs");
        let pid = child.id().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut told = String::new();
        for _ in 0..2 {
            told += &soon("it tells", lines.next_line()).await.expect("read").expect("a line");
        }
        let listed = std::fs::read(format!("/proc/{pid}/cmdline")).expect("read");
        let listed = String::from_utf8_lossy(&listed).replace('\0', " ");
        assert!(listed.contains("stats --watch 100ms") && !listed.contains("sekret"), "{listed}");
        child.start_kill().expect("kill");
        let mut log = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut log).await.expect("read");
        assert!(!log.is_empty() && !log.contains("sekret") && !told.contains("sekret"), "{log}");
    }
    for args in [
        ["--database-url", "postgres://u:sekret@127.0.0.1:9/x", "jobs"],
        ["--database-url", "postgres://u:sekret@[nonsense/x", "jobs"],
        ["--database-url", "mysql://u:sekret@127.0.0.1/x", "jobs"],
    ] {
        let ran = scene.run(&args).await;
        assert!(ran.status != Some(0) && !ran.err.contains("sekret"), "{}", ran.err);
    }
    // Nor where no URL is wanted, or behind letters of other options.
    let ran = scene.run(&["jobs", &url]).await;
    assert!(ran.status == Some(2) && !ran.err.contains("sekret"), "{}", ran.err);
    let ran: Ran = binary(scene.directory.path()).args(["jobs", "-vc", &url]).output().await.expect("it runs").into();
    assert_eq!(ran.ok(), "no jobs\n");
    // A key is what it is, whatever it looks like.
    scene.run(&["add", "t", "--key", &url]).await.ok();
    assert_eq!(scene.ask("select key from S._private_jobs").await, url);
    // Nor does --help show what the environment says.
    let mut command = scene.command(&["worker", "--help"]);
    let help = command.env("DATABASE_URL", &url).output().await.expect("it runs");
    assert!(!String::from_utf8_lossy(&help.stdout).contains("sekret"));
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_and_schema_come_from_arguments_or_the_environment() {
    let scene = Scene::empty().await;
    let list = |variables: Vec<(&'static str, String)>, args: Vec<&'static str>| {
        let mut command = binary(scene.directory.path());
        command.args(["migrate", "--json"]).args(args).envs(variables);
        async move {
            let output = command.output().await.expect("it runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            (told["schema"].as_str().expect("a schema").to_owned(), told["from"].clone())
        }
    };
    let url = ("DATABASE_URL", scene.url.clone());
    assert_eq!(list(vec![url.clone()], vec![]).await, ("graphile_worker".to_owned(), Value::Null));
    assert_eq!(list(vec![url.clone()], vec![]).await, ("graphile_worker".to_owned(), json!(20)));
    let graphile = ("GRAPHILE_WORKER_SCHEMA", "a".to_owned());
    let ours = ("BACKFILL_SCHEMA", "b".to_owned());
    assert_eq!(list(vec![url.clone(), graphile.clone()], vec![]).await.0, "a");
    assert_eq!(list(vec![url.clone(), graphile.clone(), ours.clone()], vec![]).await.0, "b");
    assert_eq!(list(vec![url.clone(), graphile, ours], vec!["--schema", "Weird \"c\""]).await.0, "Weird \"c\"");
    // As psql finds it.
    let (host, database) = scene.url.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL");
    let (host, port) = host.split_once(':').expect("a port");
    let variables = [("PGHOST", host), ("PGPORT", port), ("PGUSER", "postgres"), ("PGDATABASE", database)];
    let variables: Vec<(&'static str, String)> = variables.map(|(name, value)| (name, value.to_owned())).into();
    assert_eq!(list(variables, vec![]).await, ("graphile_worker".to_owned(), json!(20)));
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_to_a_schema_that_only_node_has_used() {
    let scene = Scene::empty().await;
    node::migrate("graphile-worker", &scene.url, SCHEMA).await;
    scene.run(&["add", "hello"]).await.ok();
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "1");
    let created = scene.run(&["-s", "mistyped", "add", "hello"]).await;
    assert!(created.err.contains("created the schema \"mistyped\""), "{}", created.err);
    assert!(created.err.contains("has one)"), "and that there is another: {}", created.err);
    for (command, status) in [("stats", 1), ("doctor", 1)] {
        let unknown = scene.run(&["-s", "mistypd", command]).await;
        assert_eq!(unknown.status, Some(status));
        let told = unknown.err + &unknown.out;
        assert!(told.contains("did you mean \"mistyped\""), "{command}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_database_is_told_at_once_with_its_reason() {
    let directory = TempDir::new().expect("a directory");
    let begun = std::time::Instant::now();
    let ran: Ran = binary(directory.path())
        .args(["-c", "postgres://127.0.0.1:1/x", "jobs"])
        .output()
        .await
        .expect("it runs")
        .into();
    assert_eq!(ran.status, Some(1));
    assert!(ran.err.contains("Connection refused"), "{}", ran.err);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "nobody waits for what does not come");
}

/// Migrating is often the first thing that is tried.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_let_in_is_told_the_remedy_whatever_the_command() {
    let scene = Scene::empty().await;
    let role = scene.url.replacen("postgres@", "nobody_of_that_name@", 1);
    let (server, _) = scene.url.rsplit_once('/').expect("a URL with a database");
    let database = format!("{server}/no_database_of_that_name");
    let encryption = format!("{}?sslmode=require", scene.url);
    for command in [&["migrate"][..], &["stats"], &["add", "t"], &["doctor"]] {
        for (url, remedy) in [
            (&role, "let it log in (create role, pg_hba.conf), or name another"),
            (&database, "create it (createdb \"no_database_of_that_name\"), or name another"),
            (&encryption, "switch TLS on at the server (ssl = on)"),
        ] {
            let ran = scene.run(&[&["-c", url.as_str()], command].concat()).await;
            assert_eq!(ran.status, Some(1), "{command:?}");
            let told = ran.out + &ran.err;
            assert!(told.contains(remedy), "{command:?}: {told}");
        }
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_are_told_again_and_again() {
    let scene = Scene::new().await;
    let mut child = scene.command(&["stats", "--watch", "100ms", "--json"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut next = async || {
        let line = soon("it tells", lines.next_line()).await.expect("read").expect("a line");
        serde_json::from_str::<Value>(&line).expect("JSON")["jobs"]["ready"].clone()
    };
    assert_eq!(next().await, 0);
    scene.run(&["add", "t"]).await.ok();
    while next().await != 1 {}
    let text = {
        let mut child = scene.command(&["stats", "--watch=100ms"]).spawn().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut text = String::new();
        for _ in 0..12 {
            text += &soon("it tells", lines.next_line()).await.expect("read").expect("a line");
            text.push('\n');
        }
        text
    };
    assert!(
        text.matches("READY").count() >= 2 && !text.contains('\x1b'),
        "no colours and no cursor off a terminal: {text}"
    );
}

#[tokio::test]
async fn crontabs_are_checked_without_a_database() {
    let directory = TempDir::new().expect("a directory");
    let check = |text: &'static str, args: &'static [&'static str]| {
        let file = directory.path().join("crontab");
        std::fs::write(&file, text).expect("write");
        let mut command = binary(directory.path());
        command.args(["crontab", "check", "crontab"]).args(args);
        async move { Ran::from(command.output().await.expect("it runs")) }
    };
    let good = "# dialect: extended\n0 4 * * MON report ?fill=1d&tz=Europe/Berlin\n# dialect: graphile\n*/15 * * * * sync ?id=s\n0 0 31 2 * never";
    let told = check(good, &["--next", "2"]).await.ok();
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines[1].starts_with("report") && lines[1].contains("0 4 * * 1 Europe/Berlin") && lines[1].contains("Mon 20"),
        "{told}"
    );
    assert!(lines[3].ends_with("never"), "{told}");
    let told = check(good, &["--json", "--next", "5"]).await.json();
    assert_eq!(told["entries"][1]["next"].as_array().map(Vec::len), Some(5));
    assert_eq!((&told["entries"][0]["fill_seconds"], &told["entries"][1]["identifier"]), (&json!(86_400), &json!("s")));
    assert_eq!(check("# nothing", &[]).await.ok(), "no entries\n");

    let bad = check("60 * * * * a\n* * * * * b ?max=0 {]}", &[]).await;
    assert_eq!(bad.status, Some(1));
    assert!(
        bad.out.starts_with("crontab: line 1, column 1: \"60\" is too large") && bad.out.lines().count() == 3,
        "{}",
        bad.out
    );
    let bad = check("60 * * * * a", &["--json"]).await;
    assert_eq!(bad.status, Some(1));
    let told: Value = serde_json::from_str(&bad.out).expect("JSON");
    assert_eq!((&told["problems"][0]["line"], &told["problems"][0]["text"]), (&json!(1), &json!("60")));
}

#[tokio::test]
async fn help_and_completions_are_there_for_everything() {
    let directory = TempDir::new().expect("a directory");
    let run = |args: Vec<String>| {
        let mut command = binary(directory.path());
        command.args(args);
        async move { Ran::from(command.output().await.expect("it runs")).ok() }
    };
    let help = run(vec!["--help".to_owned()]).await;
    assert!(help.contains("Exit status: 0 success, 1 failure, 2 usage error, 57"), "{help}");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<String> =
        commands.map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect();
    assert_eq!(commands.len(), 22, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        let told = run(vec![command.clone(), "--help".to_owned()]).await;
        assert!(told.contains("Usage: backfill"), "{told}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(vec!["completions".to_owned(), shell.to_owned()]).await.contains("crontabs"), "{shell}");
    }
    assert!(run(vec!["--version".to_owned()]).await.starts_with("backfill 4."));
    let page = run(vec!["man".to_owned()]).await;
    for command in &commands {
        let listed = page.contains(&format!("backfill\\-{}(1)", command.replace('-', "\\-")));
        assert_eq!(listed, command != "help", "{command}: {page}");
    }
    assert!(page.contains("Exit status: 0 success"), "{page}");
    assert!(run(vec!["man".to_owned(), "worker".to_owned()]).await.contains("fter how long without a heartbeat"));
    run(vec!["man".to_owned(), "--all".to_owned(), ".".to_owned()]).await;
    for command in commands.iter().filter(|command| *command != "help") {
        assert!(directory.path().join(format!("backfill-{command}.1")).exists(), "{command}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_no_job_may_have_are_refused() {
    let scene = Scene::new().await;
    scene.run(&["add", "t"]).await.ok();
    for args in ["--attempts=-5", "--attempts=-32768", "--max-attempts=0", "--max-attempts=-1", "--attempts=32768"] {
        let refused = scene.run(&["reschedule", "1", args]).await;
        assert_eq!(refused.status, Some(2), "{args}: {}", refused.err);
    }
    let refused = scene.run(&["reschedule", "1", "--in", "200years"]).await;
    assert!(refused.status == Some(2) && refused.err.contains("hundred years"), "{}", refused.err);
    scene.run(&["reschedule", "1", "--attempts", "0", "--max-attempts", "1"]).await.ok();
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_is_not_printed_to_who_waits_for_its_answer() {
    let scene = Scene::new().await;
    scene.run(&["add", "t"]).await.ok();
    // Whoever reads jobs now waits for this lock, for longer than the driver calls slow.
    let mut tx = scene.pool.begin().await.expect("begin");
    sqlx::raw_sql("lock table graphile_worker._private_jobs").execute(&mut *tx).await.expect("lock");
    let stats = scene.command(&["stats"]).spawn().expect("it runs");
    until("it waits", || async {
        scene.ask("select 1 from pg_locks where not granted and locktype = 'relation' and database = (select oid from pg_database where datname = current_database())").await == "1"
    })
    .await;
    sqlx::raw_sql("select pg_sleep(1.2)").execute(&mut *tx).await.expect("time passes");
    tx.rollback().await.expect("rollback");
    let ran: Ran = soon("it ends", stats.wait_with_output()).await.expect("it ends").into();
    assert_eq!(ran.err, "", "only what was asked for");
    ran.ok();
}
