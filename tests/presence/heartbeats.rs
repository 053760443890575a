//! Heartbeats that are not answered, and those that have to get through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::storage::Watch;
use backfill::testing::{Faults, FaultyStorage};
use backfill::worker::Event;
use backfill::{BackfillClient, JobContext, JobSpec, Summary, Worker, task_fn};
use tokio::sync::Semaphore;

use crate::support::running::{Running, empty};
use crate::support::{self, ask, client, soon, until};

#[tokio::test]
async fn a_worker_whose_heartbeats_are_not_answered_claims_nothing_until_they_are() {
    let (inner, ..) = client().await;
    let faults = Arc::new(Faults::default());
    let faulty = Arc::new(FaultyStorage::new(inner.storage().clone(), Arc::clone(&faults)));
    let task = task_fn("t", |_: u32, _: JobContext| async {});
    let builder = Worker::builder(BackfillClient::with_storage(faulty))
        .task(task)
        .heartbeat_every(Duration::from_millis(100))
        .dead_after(Duration::from_secs(1))
        .poll_interval(Duration::from_millis(10));
    // Others see it alive: its heartbeats arrive, and only their answers are lost.
    let running = Running::start(builder);
    inner.add(JobSpec::new("t", 1)).await.expect("add");
    empty(&inner).await;
    faults.lose_heartbeats(true);
    let claims = || faults.claims();
    // It stops to ask when its lease is over: no claim for as long as it would have polled thirty times.
    let mut quiet = (claims(), std::time::Instant::now());
    until("it claims no more", || {
        if claims() != quiet.0 {
            quiet = (claims(), std::time::Instant::now());
        }
        let quiet_for = quiet.1.elapsed();
        async move { quiet_for > Duration::from_millis(300) }
    })
    .await;
    inner.add_many((0..50).map(|n| JobSpec::new("t", n))).await.expect("add");
    faults.lose_heartbeats(false);
    empty(&inner).await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.released), (51, 0), "nothing was claimed to be released");
}

/// A run that ends when idle, whose first job ends only when its heartbeats have not been answered for longer than its lease, with
/// what became of it and how many claims it made since.
async fn run_without_heartbeats(answered_again: bool) -> (backfill::Result<Summary>, usize, BackfillClient) {
    let (inner, ..) = client().await;
    let faults = Arc::new(Faults::default());
    faults.lose_heartbeats(true);
    let faulty = Arc::new(FaultyStorage::new(inner.storage().clone(), Arc::clone(&faults)));
    inner.add_many((0..30).map(|n| JobSpec::new("t", n))).await.expect("add");
    let (over, before) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let task = {
        let (over, before, faults) = (over.clone(), before.clone(), faults.clone());
        task_fn("t", move |n: u32, _: JobContext| {
            let (over, before, faults) = (over.clone(), before.clone(), faults.clone());
            async move {
                if n == 0 {
                    over.acquire().await.expect("open").forget();
                    before.store(faults.claims(), Ordering::SeqCst);
                }
            }
        })
    };
    let builder = Worker::builder(BackfillClient::with_storage(faulty)).task(task).concurrency(1);
    let builder =
        builder.heartbeat_every(Duration::from_millis(100)).dead_after(Duration::from_secs(1)).handle_signals(false);
    let worker = builder.build().expect("a worker");
    let mut events = worker.events();
    let run = tokio::spawn(async move { worker.run_until_idle().await });
    let mut failures = 0;
    while failures < 15 {
        let event = soon("its heartbeats fail", events.next()).await.expect("it runs");
        failures += usize::from(matches!(event, Event::HeartbeatFailed { .. }));
    }
    over.add_permits(1);
    if answered_again {
        let mut more = 0;
        while more < 3 {
            let event = soon("its heartbeats fail again", events.next()).await.expect("it runs");
            more += usize::from(matches!(event, Event::HeartbeatFailed { .. }));
        }
        faults.lose_heartbeats(false);
    }
    let ended = soon("the run ends", run).await.expect("no panic");
    (ended, faults.claims() - before.load(Ordering::SeqCst), inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_fails_when_its_heartbeats_are_not_answered_and_claims_nothing_meanwhile() {
    let (ended, claims, client) = run_without_heartbeats(false).await;
    let error = ended.expect_err("it fails").to_string();
    assert!(error.contains("this worker's heartbeats: there was no answer"), "{error}");
    assert_eq!(claims, 0, "nothing was claimed to be released");
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (counts.total(), 0), "nothing stays locked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_goes_on_when_its_heartbeats_are_answered_again() {
    let (ended, _, client) = run_without_heartbeats(true).await;
    assert_eq!(ended.expect("it ends").completed, 30);
    assert_eq!(client.counts().await.expect("counts").total(), 0);
}

#[tokio::test]
async fn jobs_that_hold_every_connection_of_the_pool_do_not_starve_the_worker() {
    let (url, schema) = (support::server_url(), support::unique("s"));
    let app = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    let client = BackfillClient::with_pool_and_schema(app.clone(), &schema).await.expect("migrate");
    let jobs: Vec<JobSpec> = (0..3).map(|n| JobSpec::new("t", n)).collect();
    client.add_many(jobs).await.expect("add");
    let heartbeats = Arc::new(Semaphore::new(0));
    let starts = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (app, heartbeats, starts) = (app.clone(), heartbeats.clone(), starts.clone());
        task_fn("t", move |_: u8, _: JobContext| {
            let (app, heartbeats, starts) = (app.clone(), heartbeats.clone(), starts.clone());
            async move {
                // The pool's only connection, until the test has seen heartbeats for longer than the deadline.
                let held = app.acquire().await?;
                starts.fetch_add(1, Ordering::SeqCst);
                heartbeats.acquire().await.expect("open").forget();
                drop(held);
                Ok::<_, sqlx::Error>(())
            }
        })
    };
    let builder = Worker::builder(client)
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(Duration::from_secs(2))
        .concurrency(3);
    let running = Running::start(builder);
    let pool = support::pool().await;
    let other = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("connect");
    until("a job holds the connection", || async { starts.load(Ordering::SeqCst) == 1 }).await;
    until("it has been seen alive for longer than the deadline", || async {
        other.storage().consumer().rescue(&Watch::new(Duration::from_secs(2))).await.expect("rescue");
        ask(
            &pool,
            &schema,
            "select coalesce(max(seen_at - started_at), '0') > interval '3 seconds' from S.backfill_pools",
        )
        .await
            == "true"
    })
    .await;
    heartbeats.add_permits(3);
    until("all are done", || async { other.counts().await.expect("counts").total() == 0 }).await;
    assert_eq!(running.end().await, {
        let mut all = Summary::default();
        all.completed = 3;
        all
    });
    assert_eq!(starts.load(Ordering::SeqCst), 3);
}
