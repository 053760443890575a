//! Jobs that a trigger changes while they are handed off.

use std::sync::Arc;

use backfill::worker::Event;
use backfill::{BackfillClient, Job, JobContext, JobSpec, Worker, task_fn};
use futures::StreamExt;

use crate::support::running::{Running, empty};
use crate::support::{ask, client, soon, sql, until};
use crate::trigger;

/// What each job of the task `t` was given when it started.
fn recording(client: &BackfillClient) -> (Worker, Arc<std::sync::Mutex<Vec<Job>>>) {
    let started = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = Arc::clone(&started);
    let handler = task_fn("t", move |(): (), context: JobContext| {
        record.lock().expect("no panic").push(context.job().clone());
        async {}
    });
    let builder = Worker::builder(client.clone()).task(handler).forbidden_flags(["forbidden"]);
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), started)
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_starts_no_job_that_a_trigger_has_deferred_forbidden_or_put_into_a_queue() {
    for body in [
        "new.run_at := now() + interval '1 hour'; return new;",
        "new.flags := '{\"forbidden\":true}'; return new;",
        "insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody') on conflict do nothing;
         new.job_queue_id := (select id from S._private_job_queues where queue_name = 'held'); return new;",
    ] {
        let (client, pool, schema) = client().await;
        let (worker, started) = recording(&client);
        let mut events = Box::pin(worker.events());
        let running = Running::of(worker);
        soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
        soon("a job is handed off", async {
            while client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_none() {}
        })
        .await;
        empty(&client).await;
        let before = started.lock().expect("no panic").len();
        trigger(&pool, &schema, &body.replace("S.", &format!("\"{schema}\"."))).await;
        for _ in 0..20 {
            let added = client.add(JobSpec::new("t", ())).await.expect("add");
            assert_eq!((added.locked_by, added.attempts), (None, 0), "{body}");
        }
        // What was there first is handed off and run; then the others had their chance.
        sql(&pool, &schema, "drop trigger t on S._private_jobs").await;
        client.add(JobSpec::new("t", ())).await.expect("add");
        until("the last one has run", || async { client.counts().await.expect("counts").total() == 20 }).await;
        assert_eq!(started.lock().expect("no panic").len(), before + 1, "{body}");
        running.end().await;
    }
}

/// Whoever stored it: another version of this crate, or a trigger that came at that moment.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_handed_off_with_a_queue_flags_or_a_time_is_released_and_claimed() {
    let (client, pool, schema) = client().await;
    let (worker, started) = recording(&client);
    let mut events = Box::pin(worker.events());
    let running = Running::of(worker);
    soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
    until("it offers", || async { !ask(&pool, &schema, "select handover from S.backfill_pools").await.is_empty() })
        .await;
    client.add(JobSpec::new("t", ())).await.expect("the task has a name");
    sql(
        &pool,
        &schema,
        "insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody')",
    )
    .await;
    empty(&client).await;
    let before = started.lock().expect("no panic").len();
    for (columns, values) in [
        ("run_at", "now() + interval '1 hour'"),
        ("flags", "'{\"forbidden\":true}'::jsonb"),
        ("job_queue_id", "(select id from S._private_job_queues where queue_name = 'held')"),
    ] {
        let hand = format!(
            "with job as (
               insert into S._private_jobs (task_id, payload, attempts, locked_at, locked_by, {columns})
               select task.id, 'null', 1, now(), pool.id, {values} from S._private_tasks task, S.backfill_pools pool
               returning id
             )
             select pg_notify((select handover from S.backfill_pools), job.id::text) from job"
        );
        sql(&pool, &schema, &hand).await;
        until("it is released", || async {
            ask(&pool, &schema, "select count(*) from S._private_jobs where locked_at is not null").await == "0"
        })
        .await;
        let stored = ask(&pool, &schema, "select attempts from S._private_jobs order by id desc limit 1").await;
        assert_eq!(stored, "0", "{columns}: the attempt is given back too");
    }
    assert_eq!(started.lock().expect("no panic").len(), before);
    running.end().await;
}
