//! Looking at queues, tasks, workers and counts.

use backfill::storage::{ClaimRequest, Registration, WorkerId};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::common::support::{soon, until};
use crate::common::{Ran, Scene};

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
