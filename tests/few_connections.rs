//! Workers whose role has few connections.

mod support;

use std::sync::Arc;
use std::time::Duration;

use backfill::{BackfillClient, Event, JobContext, JobSpec, Worker, task_fn};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use support::{ask, database, soon, sql, unique, until};
use tokio::sync::Semaphore;

/// The superuser's pool on a database of its own, the role that owns it, and its URL.
async fn role(limit: i32) -> (sqlx::PgPool, String, String) {
    let (pool, url) = database().await;
    let role = unique("few");
    sql(&pool, "x", &format!("create role {role} login connection limit {limit}")).await;
    let name = ask(&pool, "x", "select current_database()").await;
    sql(&pool, "x", &format!("alter database {name} owner to {role}")).await;
    let url = url.replacen("postgres@", &format!("{role}@"), 1);
    (pool, role, url)
}

async fn connections(pool: &sqlx::PgPool, role: &str) -> usize {
    ask(pool, "x", &format!("select count(*) from pg_stat_activity where usename = '{role}'"))
        .await
        .parse()
        .expect("a number")
}

/// Node's worker needs two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_runs_its_jobs_with_as_few_connections_as_nodes() {
    for limit in [2, 3, 6] {
        let (pool, _, url) = role(limit).await;
        let client = BackfillClient::new(&url).await.expect("migrate");
        // Adding in an own connection, and looking, which leave idle ones behind.
        client.add_many((0..20).map(|n| JobSpec::new("t", n).serial_queue((n % 3).to_string()))).await.expect("add");
        let work = task_fn("t", |_: u32, _: JobContext| async { tokio::time::sleep(Duration::from_millis(20)).await });
        let builder = Worker::builder(client).task(work).handle_signals(false);
        let worker = builder
            .heartbeat_every(Duration::from_millis(500))
            .dead_after(Duration::from_millis(1500))
            .build()
            .expect("worker");
        let (handle, mut events) = (worker.shutdown_handle(), worker.events());
        let running = tokio::spawn(async move { worker.run().await });
        until("all are done", || async {
            ask(&pool, "graphile_worker", "select count(*) from S._private_jobs").await == "0"
        })
        .await;
        handle.shutdown();
        let summary = soon("it ends", running).await.expect("no panic").expect("run");
        assert_eq!((summary.completed, summary.failed), (20, 0), "{limit}");
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::HeartbeatFailed { .. } | Event::Evicted { .. }), "{limit}: {event:?}");
        }
    }
}

/// Whatever takes the connections: the worker has its heartbeat's already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_keeps_its_heartbeat_when_others_take_every_connection() {
    let (pool, role, url) = role(6).await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add_many((0..40).map(|_| JobSpec::new("t", ()))).await.expect("add");
    let gate = Arc::new(Semaphore::new(0));
    let work = {
        let gate = gate.clone();
        task_fn("t", move |(): (), _: JobContext| {
            let gate = gate.clone();
            async move { gate.acquire().await.expect("open").forget() }
        })
    };
    let every = Duration::from_millis(500);
    let builder = Worker::builder(client).task(work).concurrency(40).handle_signals(false);
    let worker = builder.heartbeat_every(every).dead_after(every * 3).build().expect("worker");
    let handle = worker.shutdown_handle();
    let mut events = worker.events();
    let running = tokio::spawn(async move { worker.run().await });
    until("all run", || async {
        ask(&pool, "graphile_worker", "select count(*) from S._private_jobs where locked_at is not null").await == "40"
    })
    .await;
    let mut taken = Vec::new();
    let refused = loop {
        match PgConnection::connect(&url).await {
            Ok(connection) => taken.push(connection),
            // A connection that was closed is not gone at once.
            Err(_) if connections(&pool, &role).await < 6 => {}
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("too many connections"), "{refused}");
    // Several leases long.
    let seen = "select seen_at from S.backfill_pools";
    for _ in 0..8 {
        let before = ask(&pool, "graphile_worker", seen).await;
        until("another heartbeat", || async { ask(&pool, "graphile_worker", seen).await != before }).await;
    }
    // What it has is enough to write results, and to claim.
    gate.add_permits(40);
    until("all are done", || async {
        ask(&pool, "graphile_worker", "select count(*) from S._private_jobs").await == "0"
    })
    .await;
    handle.shutdown();
    assert_eq!(soon("it ends", running).await.expect("no panic").expect("run").completed, 40);
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::HeartbeatFailed { .. } | Event::Evicted { .. }), "{event:?}");
    }
}

/// So that others can have them: other workers, behind a pooler or under one role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_idle_connections_are_closed_within_seconds() {
    let (pool, role, url) = role(-1).await;
    // The client's own are the user's.
    let users = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(Duration::from_secs(1))
        .connect(&url)
        .await
        .expect("connect");
    let client = BackfillClient::with_pool(users).await.expect("migrate");
    let work = task_fn("t", |(): (), _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(work).handle_signals(false).build().expect("worker");
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    until("it has grown to more than it needs when idle", || async {
        client.add_many((0..50).map(|_| JobSpec::new("t", ()))).await.expect("add");
        connections(&pool, &role).await > 4
    })
    .await;
    // To listen, for the heartbeats, and for all else.
    until("it needs few when idle", || async { connections(&pool, &role).await <= 3 }).await;
    handle.shutdown();
    soon("it ends", running).await.expect("no panic").expect("run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_there_is_no_connection_is_told_with_the_servers_reason() {
    let (pool, role, url) = role(-1).await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add(JobSpec::new("t", ())).await.expect("add");
    sql(&pool, "x", &format!("alter role {role} connection limit 1")).await;
    let work = task_fn("t", |(): (), _: JobContext| async {});
    let worker = Worker::builder(client).task(work).handle_signals(false).build().expect("worker");
    let error = soon("it ends", worker.run_until_idle()).await.expect_err("one is too few");
    assert!(format!("{error:?} {error}").contains(&format!("too many connections for role \"{role}\"")), "{error}");
}
