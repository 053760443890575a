//! Workers that no longer own what they run: declared dead while they live, or unlocked by force.

use std::sync::Arc;
use std::time::Duration;

use backfill::storage::Watch;
use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};

use crate::support::running::{Running, empty};
use crate::support::{ask, client, soon, sql, until};

/// What another worker does when one has sent no heartbeat for too long.
async fn declare_dead(client: &BackfillClient, pool: &PgPool, schema: &str) {
    until("it is declared dead", || async {
        // Its next heartbeat may come between these two.
        let long_ago = "update S.backfill_pools set seen_at = seen_at - interval '2 hours', dead_after = null";
        sql(pool, schema, long_ago).await;
        !client.storage().consumer().rescue(&Watch::new(Duration::from_secs(1))).await.expect("rescue").is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_was_declared_dead_settles_nothing_and_goes_on_as_somebody_else() {
    let (client, pool, schema) = client().await;
    let job = client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let handler = task_fn("t", move |(): (), ctx: JobContext| {
        let started = started_tx.clone();
        async move {
            started.send(ctx.job().clone()).expect("open");
            if ctx.job().attempts == 1 {
                ctx.cancelled().await;
            }
        }
    });
    let builder = Worker::builder(client.clone())
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(Duration::from_hours(1))
        .poll_interval(Duration::from_millis(20));
    let running = Running::start(builder);
    let first = soon("the first start", started.recv()).await.expect("a start");
    declare_dead(&client, &pool, &schema).await;
    let second = soon("the second start", started.recv()).await.expect("a start");
    assert_eq!((second.id, second.attempts), (job.id, 2));
    assert_ne!(first.locked_by, second.locked_by);
    assert!(second.last_error.is_some_and(|text| text.contains("heartbeats")));
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.stale), (1, 1), "the first start's result came too late");
}

#[tokio::test]
async fn a_worker_that_is_declared_dead_while_it_ends_asks_its_jobs_to_end_at_once() {
    let (client, pool, schema) = client().await;
    let job = client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let handler = task_fn("t", move |(): (), ctx: JobContext| {
        let started = started_tx.clone();
        async move {
            started.send(()).expect("open");
            ctx.cancelled().await;
        }
    });
    // Nothing else would end the job before the test gives up.
    let hour = Duration::from_hours(1);
    let builder = Worker::builder(client.clone())
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(hour)
        .cancel_after(hour)
        .grace(hour);
    let running = Running::start(builder);
    soon("the start", started.recv()).await.expect("a start");
    running.handle.shutdown();
    declare_dead(&client, &pool, &schema).await;
    let summary = soon("its end", running.ended()).await.expect("run");
    assert_eq!((summary.completed, summary.stale), (0, 1), "it settles nothing that it no longer owns");
    let free = client.job(job.id).await.expect("read").expect("it is kept");
    assert_eq!((free.attempts, free.locked_by), (1, None), "others may run it");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_by is not null").await,
        "0"
    );
}

#[tokio::test]
async fn a_worker_whose_claim_was_broken_by_force_cannot_settle_what_another_now_runs() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let gates = Arc::new([Semaphore::new(0), Semaphore::new(0)]);
    let worker = |who: usize| {
        let (started, gates) = (started_tx.clone(), gates.clone());
        let handler = task_fn("t", move |(): (), ctx: JobContext| {
            let (started, gates) = (started.clone(), gates.clone());
            async move {
                started.send((who, ctx.job().clone())).expect("open");
                gates[who].acquire().await.expect("open").forget();
            }
        });
        Running::start(Worker::builder(client.clone()).task(handler))
    };
    let one = worker(0);
    let (_, first) = soon("the first start", started.recv()).await.expect("a start");
    one.handle.shutdown();
    let other = worker(1);
    assert_eq!(client.unlock(first.locked_by.clone()).await.expect("unlock"), 1);
    let (who, second) = soon("the second start", started.recv()).await.expect("a start");
    assert_eq!((who, second.id, second.attempts), (1, first.id, 2));

    gates[0].add_permits(1);
    let summary = one.ended().await.expect("run");
    assert_eq!((summary.completed, summary.stale), (0, 1));
    assert_eq!(client.job(second.id).await.expect("read").expect("still there"), second, "untouched");
    let queue = "select locked_by from S._private_job_queues";
    assert_eq!(Some(ask(&pool, &schema, queue).await), second.locked_by);
    gates[1].add_permits(1);
    empty(&client).await;
    assert_eq!(other.end().await.completed, 1);
}
