//! Jobs that are fetched before they can start.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::{Event, JobSpec, Prefetch, Worker, task_fn};
use tokio::sync::Semaphore;

use crate::event;
use crate::support::running::{Running, empty};
use crate::support::{client, until};

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetched_jobs_start_in_priority_order_and_are_released_at_the_end() {
    let (client, _, _) = client().await;
    let order: Arc<Mutex<Vec<i64>>> = Arc::default();
    let gate = Arc::new(Semaphore::new(0));
    let (seen, wait) = (Arc::clone(&order), Arc::clone(&gate));
    let task = task_fn("t", move |n: i64, _| {
        seen.lock().expect("lock").push(n);
        let wait = Arc::clone(&wait);
        async move { wait.acquire().await.expect("open").forget() }
    });
    client.add_many((1..=20).map(|n| JobSpec::new("t", n).priority(10))).await.expect("add");
    let worker = Running::start(
        Worker::builder(client.clone())
            .task(task)
            .concurrency(1)
            .prefetch(Prefetch::new(50))
            .cancel_after(Duration::ZERO),
    );
    until("they are prefetched", || async { client.counts().await.expect("counts").running == 20 }).await;
    // More urgent, and less than half of the room is taken.
    client.add_many([JobSpec::new("t", 100).priority(0), JobSpec::new("t", 101).priority(-1)]).await.expect("add");
    until("these too", || async { client.counts().await.expect("counts").running == 22 }).await;
    gate.add_permits(3);
    until("some ran", || async { order.lock().expect("lock").len() == 4 }).await;
    assert_eq!(*order.lock().expect("lock"), [1, 101, 100, 2]);
    worker.handle.shutdown();
    until("the others are released", || async { client.counts().await.expect("counts").ready == 18 }).await;
    gate.add_permits(1);
    let summary = worker.end().await;
    assert_eq!((summary.completed, summary.released), (4, 18));
    let jobs = client.jobs(&backfill::JobFilter::new()).await.expect("jobs");
    assert!(jobs.iter().all(|job| job.attempts == 0 && job.locked_by.is_none()), "with their attempt");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetched_jobs_that_wait_for_too_long_are_released_for_others() {
    let (client, _, _) = client().await;
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let task = task_fn("t", move |_: i64, _| {
        let wait = Arc::clone(&wait);
        async move { wait.acquire().await.expect("open").forget() }
    });
    client.add_many((1..=10).map(|n| JobSpec::new("t", n))).await.expect("add");
    let prefetch = Prefetch::new(50).ttl(Duration::from_millis(100));
    let worker = Worker::builder(client.clone()).task(task).concurrency(1).prefetch(prefetch).handle_signals(false);
    let worker = worker.poll_interval(Duration::from_millis(10)).build().expect("worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    event(&mut events, "they are released", |event| matches!(event, Event::Released { jobs: 9 })).await;
    // The first takes them again and again, for a moment each time.
    let others = AtomicUsize::new(0);
    until("another has run them", || async {
        let other = Worker::builder(client.clone()).task(task_fn("t", |_: i64, _| async {})).build().expect("worker");
        let completed = usize::try_from(other.run_until_idle().await.expect("run").completed).expect("few");
        others.fetch_add(completed, Ordering::SeqCst) + completed == 9
    })
    .await;
    gate.add_permits(1);
    empty(&client).await;
    running.end().await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_found_little_is_followed_by_a_pause_that_many_new_jobs_end() {
    let (client, _, _) = client().await;
    let prefetch = Prefetch::new(10).refetch_delay(Duration::from_secs(50), 3).refetch_abort_at(5);
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |_: i64, _| async {}))
        .concurrency(1)
        .prefetch(prefetch)
        .poll_interval(Duration::from_secs(60))
        .handle_signals(false)
        .build()
        .expect("worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    event(&mut events, "it listens", |event| matches!(event, Event::Listening)).await;
    let delayed = event(&mut events, "it pauses", |event| matches!(event, Event::RefetchDelayed { .. })).await;
    assert!(matches!(delayed, Event::RefetchDelayed { found: 0, delay } if delay >= Duration::from_secs(25)));
    client.add_many((1..=10).map(|n| JobSpec::new("t", n))).await.expect("add");
    event(&mut events, "the pause ends", |event| matches!(event, Event::RefetchDelayAborted { .. })).await;
    empty(&client).await;
    running.end().await;

    let build =
        |prefetch| Worker::builder(client.clone()).task(task_fn("t", |_: i64, _| async {})).prefetch(prefetch).build();
    let error = build(Prefetch::new(10).refetch_delay(Duration::from_secs(3), 0)).unwrap_err().to_string();
    assert!(error.contains("refetch delay is 3s, longer than the poll interval of 2s"), "{error}");
    assert!(build(Prefetch::new(0)).unwrap_err().to_string().contains("prefetch is 0"));
}
