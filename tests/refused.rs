//! What the database refuses, by whatever code, harms nothing but itself.

mod support;

use std::sync::Arc;

use backfill::{BackfillClient, JobContext, JobFilter, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use support::running::{Running, empty};
use support::{client, soon, sql, until};
use tokio::sync::{Semaphore, mpsc};

/// Codes that a trigger may raise: one that nobody knows, and those of causes that pass by themselves, or have a remedy of their own.
const CODES: [&str; 8] = ["AB001", "42501", "42P01", "55000", "40001", "XX000", "53100", "57P01"];

/// A trigger that refuses rows of priority 7.
async fn refuse(pool: &PgPool, schema: &str, event: &str, code: &str) {
    let row = if event == "insert" { "new" } else { "old" };
    let text = format!(
        "create or replace function S.refuse() returns trigger language plpgsql as $$ begin
           raise exception 'not this one' using errcode = '{code}'; end $$;
         drop trigger if exists refuse on S._private_jobs;
         create trigger refuse before {event} on S._private_jobs for each row when ({row}.priority = 7)
           execute function S.refuse()"
    );
    sql(pool, schema, &text).await;
}

/// A worker whose jobs have all ended at the same moment, so that their results are written together.
async fn all_at_once(client: &BackfillClient, jobs: usize) -> Running {
    let (gate, (started_tx, mut started)) = (Arc::new(Semaphore::new(0)), mpsc::unbounded_channel());
    let handler = {
        let gate = gate.clone();
        task_fn("t", move |_: usize, _: JobContext| {
            let (gate, started) = (gate.clone(), started_tx.clone());
            async move {
                started.send(()).expect("open");
                gate.acquire().await.expect("open").forget();
            }
        })
    };
    let specs = (0..jobs).map(|n| JobSpec::new("t", n).priority(if n == 3 { 7 } else { 0 }));
    client.add_many(specs).await.expect("add");
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(jobs));
    for _ in 0..jobs {
        soon("all of them start", started.recv()).await.expect("a start");
    }
    gate.add_permits(jobs);
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_refused_by_any_code_holds_up_no_other() {
    let (client, pool, schema) = client().await;
    for code in CODES {
        refuse(&pool, &schema, "delete", code).await;
        let running = all_at_once(&client, 28).await;
        until(code, || async { client.counts().await.expect("counts").total() == 1 }).await;
        assert_eq!(client.counts().await.expect("counts").running, 1, "{code}");
        sql(&pool, &schema, "drop trigger refuse on S._private_jobs").await;
        empty(&client).await;
        assert_eq!(running.end().await.completed, 28, "{code}: the refusal has passed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_done_job_that_is_refused_alone_is_kept_as_dead_at_the_end() {
    let (client, pool, schema) = client().await;
    for code in ["AB001", "42501"] {
        refuse(&pool, &schema, "delete", code).await;
        let running = all_at_once(&client, 28).await;
        until(code, || async { client.counts().await.expect("counts").total() == 1 }).await;
        let summary = running.end().await;
        assert_eq!((summary.completed, summary.dead), (27, 1), "{code}");
        let left = client.jobs(&JobFilter::new()).await.expect("jobs").remove(0);
        assert_eq!((left.attempts, left.locked_by), (left.max_attempts, None), "{code}");
        assert!(left.last_error.is_some_and(|error| error.contains("the job is done")), "{code}");
        sql(&pool, &schema, "drop trigger refuse on S._private_jobs").await;
        client.complete(&[left.id]).await.expect("complete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_is_refused_by_any_code_harms_none_of_those_it_is_stored_with() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 0)).await.expect("its name is known");
    for code in CODES {
        refuse(&pool, &schema, "insert", code).await;
        let adding = (0..60).map(|n| {
            let client = client.clone();
            let priority = if n % 30 == 11 { 7 } else { 0 };
            tokio::spawn(async move { (priority, client.add(JobSpec::new("t", n).priority(priority)).await) })
        });
        for added in adding.collect::<Vec<_>>() {
            let (priority, added) = added.await.expect("no panic");
            assert_eq!(added.is_err(), priority == 7, "{code}: {added:?}");
        }
    }
}
