//! What fails beneath a worker: connections that are lost, and deadlocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};

use crate::support::running::{Running, empty};
use crate::support::{self, ask, client, sql, until};

#[tokio::test]
async fn results_survive_the_loss_of_every_connection() {
    let (pool, url) = support::database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add_many((0..1_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = starts.clone();
    let handler = task_fn("t", move |_: u32, _: JobContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2))
    });
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(4));
    let kill = "with gone as (select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()) select count(*) from gone";
    let own = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    drop(pool);
    while starts.load(Ordering::SeqCst) < 800 {
        ask(&own, "x", kill).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("all are done", || async { client.counts().await.is_ok_and(|counts| counts.total() == 0) }).await;
    let summary = running.end().await;
    // Each is done exactly once by what was written. A start may be repeated only where the claim's connection was lost.
    assert_eq!((summary.completed, summary.failed, summary.stale), (1_000, 0, 0), "{summary:?}");
    assert_eq!(starts.load(Ordering::SeqCst), 1_000);
}

/// A trigger says what the server says of a deadlock: once of an insert, once of an update, once of a delete.
#[tokio::test]
async fn a_deadlock_is_tried_again_whatever_it_hits() {
    let (client, pool, schema) = client().await;
    let trigger = "create sequence S.once_insert; create sequence S.once_update; create sequence S.once_delete;
        create function S.strike() returns trigger language plpgsql as $$ begin
          -- What a sequence gives stays given when the transaction is rolled back.
          if nextval(format('%I.%I', tg_table_schema, 'once_' || lower(tg_op))) = 1 then
            raise exception 'deadlock detected' using errcode = '40P01';
          end if;
          return coalesce(new, old);
        end $$;
        create trigger strike before insert or update or delete on S._private_jobs for each row execute function S.strike()";
    sql(&pool, &schema, trigger).await;
    let job = client.add(JobSpec::new("t", 1)).await.expect("an add is tried again");
    let starts = Arc::new(AtomicUsize::new(0));
    let handler = {
        let starts = starts.clone();
        task_fn("t", move |_: u8, _: JobContext| {
            starts.fetch_add(1, Ordering::SeqCst);
            async {}
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler));
    empty(&client).await;
    assert_eq!((running.end().await.completed, starts.load(Ordering::SeqCst)), (1, 1), "{job:?}");
    for operation in ["insert", "update", "delete"] {
        let again = format!("select last_value > 1 from S.once_{operation}");
        assert_eq!(ask(&pool, &schema, &again).await, "true", "{operation} was struck, and tried again");
    }
}
