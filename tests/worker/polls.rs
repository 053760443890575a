//! What a worker finds by a poll, and what it does not have to wait for one for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{BackfillClient, Event, JobContext, JobSpec, RetryPolicy, TaskError, Worker, task_fn};
use chrono::Utc;
use tokio::sync::mpsc;

use crate::support::running::{Running, empty};
use crate::support::{self, LISTENS, ask, client, soon, until};

#[tokio::test]
async fn jobs_of_a_serial_queue_follow_each_other_without_waiting_for_a_poll() {
    let (client, ..) = client().await;
    client.add_many((0..8).map(|n| JobSpec::new("t", n).serial_queue("q"))).await.expect("add");
    let (order_tx, mut order) = mpsc::unbounded_channel();
    let now = Arc::new(AtomicUsize::new(0));
    let handler = task_fn("t", move |n: u32, _: JobContext| {
        let (order, now) = (order_tx.clone(), now.clone());
        async move {
            assert_eq!(now.fetch_add(1, Ordering::SeqCst), 0, "alone");
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            order.send(n).expect("open");
        }
    });
    // With an hour between polls, the test only ends if no job waits for one.
    let hour = Duration::from_hours(1);
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(4).poll_interval(hour));
    for n in 0..8 {
        assert_eq!(soon("the next job", order.recv()).await, Some(n));
    }
    empty(&client).await;
    assert_eq!(running.end().await.completed, 8);
}

#[tokio::test]
async fn a_retry_that_is_soon_does_not_wait_for_a_poll() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let handler =
        task_fn(
            "t",
            |(): (), ctx: JobContext| async move { if ctx.job().attempts < 4 { Err("not yet") } else { Ok(()) } },
        )
        .retry(RetryPolicy::fixed(Duration::from_millis(20)));
    let running = Running::start(Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1)));
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.completed), (3, 1));
}

#[tokio::test]
async fn every_retry_that_is_due_is_remembered_not_only_the_first() {
    let (client, ..) = client().await;
    client.add_many((1..=5_u64).map(|n| JobSpec::new("t", n * 40))).await.expect("add");
    let handler = task_fn("t", |ms: u64, ctx: JobContext| async move {
        if ctx.job().attempts > 1 { Ok(()) } else { Err(TaskError::new("no").retry_in(Duration::from_millis(ms))) }
    });
    let running =
        Running::start(Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_secs(3600)));
    empty(&client).await;
    assert_eq!(running.end().await.completed, 5);
}

#[tokio::test]
async fn scheduled_jobs_run_when_a_poll_finds_them_due() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ()).run_in(Duration::from_millis(300))).await.expect("add");
    let handler = task_fn("t", |(): (), ctx: JobContext| async move { assert!(ctx.job().run_at <= Utc::now()) });
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_millis(50)).listen(false);
    let running = Running::start(builder);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 1);
}

#[tokio::test]
async fn after_every_reconnect_of_the_listener_one_look_catches_up() {
    // A database of its own, so that the listener's connection can be told from others.
    let (pool, url) = support::database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    let running = Running::start(builder);
    let kill = format!(
        "with gone as (select pg_terminate_backend(pid) as ok from pg_stat_activity where {LISTENS})
         select count(*) from gone where ok"
    );
    for _ in 0..3 {
        client.add(JobSpec::new("t", ())).await.expect("add");
        empty(&client).await;
        until("the listener was connected, and is gone", || async { ask(&pool, "x", &kill).await != "0" }).await;
        client.add(JobSpec::new("t", ())).await.expect("add while nobody listens");
        empty(&client).await;
    }
    running.end().await;
}

#[tokio::test]
async fn polls_are_spread_by_a_tenth_around_their_interval() {
    let hour = Duration::from_hours(1);
    let worker = Worker::builder(BackfillClient::in_memory())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .poll_interval(Duration::from_secs(10))
        .listen(false)
        .heartbeat_every(hour)
        .dead_after(hour * 24 * 365)
        .sweep_interval(hour * 24, hour * 48)
        .handle_signals(false)
        .build()
        .expect("a worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    let mut polls = Vec::new();
    while !matches!(events.next().await, Some(Event::Claiming { .. })) {}
    // From now on the clock stands still while anybody works, and leaps to what is waited for otherwise. Not before: the worker is
    // registered by a thread of its own, which such a clock takes for nobody.
    tokio::time::pause();
    while polls.len() < 300 {
        if let Event::Claiming { .. } = events.next().await.expect("it runs") {
            polls.push(tokio::time::Instant::now());
        }
    }
    tokio::time::resume();
    running.end().await;
    // The first looks come of the start.
    let gaps: Vec<f64> = polls.windows(2).skip(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(gaps.iter().all(|gap| (8.99..=11.02).contains(gap)), "{gaps:?}");
    let (least, most) = (gaps.iter().copied().fold(f64::MAX, f64::min), gaps.iter().copied().fold(0.0, f64::max));
    assert!(least < 9.5 && most > 10.5, "spread evenly, so from {least} to {most}");
}
