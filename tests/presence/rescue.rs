//! Freeing what the dead hold: by their heartbeats, and by the age of their locks.

use std::time::Duration;

use backfill::storage::{ClaimRequest, Registration, Watch, WorkerId};
use backfill::{BackfillClient, JobContext, JobSpec, Summary, Worker, task_fn};
use sqlx::PgPool;

use crate::support::running::{Running, empty};
use crate::support::{self, ask, client, soon, sql, until};

#[tokio::test]
async fn the_jobs_of_a_dead_worker_are_run_by_another() {
    let (client, ..) = client().await;
    let dead = WorkerId::random();
    client.storage().consumer().register(&Registration::new(&dead, &["t".to_owned()])).await.expect("register");
    client
        .add_many([JobSpec::new("t", ()).serial_queue("q"), JobSpec::new("t", ()).serial_queue("q")])
        .await
        .expect("add");
    let request = ["t".to_owned()];
    let held = client.storage().consumer().claim(&ClaimRequest::new(&dead, &request, 5)).await.expect("claim").jobs;
    assert_eq!(held.len(), 1);
    let builder = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .heartbeat_every(Duration::from_millis(50))
        .dead_after(Duration::from_millis(200))
        .poll_interval(Duration::from_hours(1));
    let running = Running::start(builder);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 2);
}

/// A job that a worker holds which was last seen two hours ago.
async fn held_by_a_dead_worker(client: &BackfillClient, pool: &PgPool, schema: &str) -> WorkerId {
    let (dead, tasks) = (WorkerId::random(), ["t".to_owned()]);
    client.storage().consumer().register(&Registration::new(&dead, &tasks)).await.expect("register");
    client.add(JobSpec::new("t", ())).await.expect("add");
    assert_eq!(
        client.storage().consumer().claim(&ClaimRequest::new(&dead, &tasks, 1)).await.expect("claim").jobs.len(),
        1
    );
    let old = format!("update S.backfill_pools set seen_at = now() - interval '2 hours' where id = '{dead}'");
    sql(pool, schema, &old).await;
    dead
}

/// A run that ends when idle, whose only job ends when this query answers true.
async fn run_until_idle_or(client: &BackfillClient, schema: &str, dead_after: Duration, query: String) -> Summary {
    client.add(JobSpec::new("wait", ())).await.expect("add");
    let (pool, schema) = (support::pool().await, schema.to_owned());
    let wait = task_fn("wait", move |(): (), _: JobContext| {
        let (pool, schema, query) = (pool.clone(), schema.clone(), query.clone());
        async move { until("what the job waits for", || async { ask(&pool, &schema, &query).await == "true" }).await }
    });
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .task(wait)
        .heartbeat_every(Duration::from_millis(50))
        .dead_after(dead_after)
        .handle_signals(false)
        .build()
        .expect("a worker");
    soon("the run ends", worker.run_until_idle()).await.expect("run")
}

#[tokio::test]
async fn a_run_that_ends_declares_nobody_dead_before_it_would_have_heard_them() {
    let (client, pool, schema) = client().await;
    let dead = held_by_a_dead_worker(&client, &pool, &schema).await;
    // It has looked after others at each of its heartbeats.
    let seen = format!(
        "select coalesce(bool_or(seen_at - started_at > interval '250 ms' and dead_after = interval '15 seconds'), false)
         from S.backfill_pools where id <> '{dead}'"
    );
    let summary = run_until_idle_or(&client, &schema, Duration::from_secs(15), seen).await;
    assert_eq!(summary.completed, 1);
    assert_eq!(ask(&pool, &schema, "select id from S.backfill_pools").await, dead.as_str());
    assert_eq!(client.counts().await.expect("counts").running, 1, "the other may be alive and cut off");
}

#[tokio::test]
async fn a_run_that_outlasts_its_dead_after_frees_the_jobs_of_the_dead() {
    let (client, pool, schema) = client().await;
    let dead = held_by_a_dead_worker(&client, &pool, &schema).await;
    let gone = format!("select not exists (select from S.backfill_pools where id = '{dead}')");
    let summary = run_until_idle_or(&client, &schema, Duration::from_millis(300), gone).await;
    assert_eq!(summary.completed, 2);
}

#[tokio::test]
async fn locks_of_unregistered_workers_are_released_after_four_hours_only() {
    let (client, pool, schema) = client().await;
    client.add_many([JobSpec::new("t", 1).serial_queue("q"), JobSpec::new("t", 2)]).await.expect("add");
    let lock = |hours: &str| {
        format!(
            "update S._private_jobs set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}', attempts = 1;
             update S._private_job_queues set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}'"
        )
    };
    sql(&pool, &schema, &lock("3 hours 59 minutes")).await;
    assert_eq!(client.storage().consumer().release_stale().await.expect("sweep"), 0);
    assert!(client.storage().consumer().rescue(&Watch::new(Duration::from_secs(1))).await.expect("rescue").is_empty());
    sql(&pool, &schema, &lock("4 hours 1 minute")).await;
    assert_eq!(client.storage().consumer().release_stale().await.expect("sweep"), 2);
    let worker =
        Worker::builder(client.clone()).task(task_fn("t", |_: u8, _: JobContext| async {})).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 2);
}

#[tokio::test]
async fn locks_of_registered_workers_are_left_to_their_heartbeats() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 1).serial_queue("q")).await.expect("add");
    let (storage, id) = (client.storage().consumer(), WorkerId::random());
    storage.register(&Registration::new(&id, &[])).await.expect("register");
    let lock = format!("locked_by = '{id}', locked_at = now() - interval '5 hours'");
    sql(&pool, &schema, &format!("update S._private_jobs set {lock}; update S._private_job_queues set {lock}")).await;
    assert_eq!(storage.release_stale().await.expect("sweep"), 0, "a job may run for longer than four hours");
    assert_eq!(client.counts().await.expect("counts").running, 1);
    sql(&pool, &schema, "delete from S.backfill_pools").await;
    assert_eq!(storage.release_stale().await.expect("sweep"), 1);
}

#[tokio::test]
async fn jobs_are_freed_however_little_time_the_role_gives_its_statements() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let short = (*pool.connect_options()).clone().options([("statement_timeout", "200ms")]);
    let short = PgPool::connect_with(short).await.expect("connect");
    let storage = backfill::postgres::PostgresStorage::new(short, &schema).expect("a schema");
    let storage: &dyn backfill::storage::Consumer = &storage;
    let id = WorkerId::random();
    let lock = format!("update S._private_jobs set locked_by = '{id}', locked_at = now(), attempts = 1");
    // As slow as a large table.
    let slow = "create function S.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.6); return new; end $$;
                create trigger slow before update on S._private_jobs for each row when (old.locked_by is not null)
                execute function S.slow()";
    sql(&pool, &schema, slow).await;
    for way in ["rescue", "release_untracked", "deregister", "sweep"] {
        storage.register(&Registration::new(&id, &[])).await.expect("register");
        sql(&pool, &schema, &lock).await;
        match way {
            "rescue" => {
                assert_eq!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue")[0].jobs, 1);
            }
            "release_untracked" => assert_eq!(storage.release_untracked(&id, &[]).await.expect("release"), 1),
            "deregister" => {}
            _ => {
                let old = "delete from S.backfill_pools; alter table S._private_jobs disable trigger slow;
                           update S._private_jobs set locked_at = now() - interval '5 hours';
                           alter table S._private_jobs enable trigger slow";
                sql(&pool, &schema, old).await;
                assert_eq!(storage.release_stale().await.expect("sweep"), 1);
            }
        }
        storage.deregister(&id).await.expect("deregister");
        let counts = client.counts().await.expect("counts");
        assert_eq!((counts.alive(), counts.running), (1, 0), "{way}");
    }
}
