//! How many jobs are claimed and run at once, and from where on they are looked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backfill::{Event, JobContext, JobSpec, Worker, task_fn};
use tokio::sync::{Semaphore, mpsc};

use crate::support::running::{Running, empty};
use crate::support::{client, soon, sql, until};

#[tokio::test]
async fn what_is_claimed_ahead_is_bounded_by_bytes() {
    let (client, ..) = client().await;
    // Fast jobs first, after which thousands are claimed ahead.
    client.add_many((0..3_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let megabyte = "x".repeat(1024 * 1024);
    client.add_many((0..120).map(|_| JobSpec::new("t", &megabyte).priority(1))).await.expect("add");
    let task = task_fn("t", |_: serde::de::IgnoredAny, _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(task).event_capacity(100_000).build().expect("worker");
    let mut events = worker.events();
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 3_120);
    drop(worker);
    let (mut claims, mut small) = (Vec::new(), 3_000);
    while let Some(event) = events.next().await {
        if let Event::Claimed { jobs } = event {
            let large = jobs.saturating_sub(small);
            small -= jobs - large;
            claims.push(large);
        }
    }
    assert_eq!(claims.iter().sum::<usize>(), 120);
    assert!(claims.iter().all(|large| *large <= 32), "32 MiB at once: {claims:?}");
}

#[tokio::test]
async fn never_more_jobs_run_than_the_concurrency_allows_and_all_of_it_is_used() {
    let (client, ..) = client().await;
    client.add_many((0..60).map(|_| JobSpec::new("t", ()))).await.expect("add");
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let (now, most, gate) = (now.clone(), most.clone(), gate.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (now, most, gate) = (now.clone(), most.clone(), gate.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(7));
    until("seven jobs run", || async { now.load(Ordering::SeqCst) == 7 }).await;
    assert_eq!(client.counts().await.expect("counts").running, 7, "no job waits, locked, behind a slow one");
    gate.add_permits(60);
    empty(&client).await;
    assert_eq!(most.load(Ordering::SeqCst), 7);
    assert_eq!(running.end().await.completed, 60);
}

/// Jobs of a held queue before all others, so many that walking over them takes long.
const STUCK: &str = "
insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody');
insert into S._private_jobs (task_id, payload, priority, job_queue_id)
select task.id, '7', -1, queue.id
from S._private_tasks task, S._private_job_queues queue, generate_series(1, 40000)
where queue.queue_name = 'held' and task.identifier = 't'";

#[tokio::test]
async fn what_becomes_ready_before_the_place_where_claims_begin_is_found_too() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 0)).await.expect("add");
    sql(&pool, &schema, STUCK).await;
    let (ran_tx, mut ran) = mpsc::unbounded_channel();
    let task = task_fn("t", move |n: u32, _: JobContext| {
        ran_tx.send(n).expect("open");
        async {}
    });
    let running = Running::start(Worker::builder(client.clone()).task(task).concurrency(1));
    assert_eq!(soon("the free one runs", ran.recv()).await, Some(0));
    for n in 1..=5 {
        client.add(JobSpec::new("t", n).priority(-5)).await.expect("add");
        assert_eq!(soon("the urgent one runs", ran.recv()).await, Some(n));
        client.add(JobSpec::new("t", n + 100)).await.expect("add");
        assert_eq!(soon("the ordinary one runs", ran.recv()).await, Some(n + 100));
    }
    sql(&pool, &schema, "update S._private_job_queues set locked_at = null, locked_by = null").await;
    assert_eq!(soon("a job of the queue runs", ran.recv()).await, Some(7));
    running.end().await;
}

#[tokio::test]
async fn a_run_that_ends_when_idle_passes_nothing_by() {
    let (client, pool, schema) = client().await;
    client.add_many((0..60).map(|n| JobSpec::new("t", n))).await.expect("add");
    sql(&pool, &schema, STUCK).await;
    let adder = client.clone();
    let task = task_fn("t", move |n: u32, _: JobContext| {
        let adder = adder.clone();
        async move {
            if n < 60 {
                adder.add(JobSpec::new("t", 100).priority(-5)).await.expect("add");
            }
        }
    });
    let worker = Worker::builder(client.clone()).task(task).concurrency(3).build().expect("a worker");
    assert_eq!(soon("it ends", worker.run_until_idle()).await.expect("run").completed, 120);
}
