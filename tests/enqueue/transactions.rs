//! Adding within a transaction, the caller's or our own, and what is left of one that is given up.

use std::time::Duration;

use backfill::{BackfillClient, Error, JobContext, JobKeyMode, JobSpec, TaskPayload, Worker, task_fn};
use futures::StreamExt;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;

use crate::support::{ask, client, database, pool, soon, sql, until};

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct SendInvoice {
    order: u64,
}

async fn send_invoice(invoice: SendInvoice) -> Result<(), String> {
    if invoice.order == 18 { Ok(()) } else { Err(format!("order {}", invoice.order)) }
}

#[tokio::test]
async fn a_job_added_in_a_transaction_exists_when_it_commits_and_never_when_it_rolls_back() {
    // A database of its own, in which nobody else notifies.
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let mut wakeups = client.storage().consumer().wakeups(None);
    soon("listening", wakeups.next()).await;

    let mut tx = pool.begin().await.expect("begin");
    let lost = client.add(SendInvoice { order: 17 }).within(&mut tx).await.expect("add");
    let also = client.add_many([JobSpec::new("a", 1), JobSpec::new("b", 2)]).within(&mut tx).await.expect("add");
    assert_eq!(also.len(), 2);
    assert!(client.job(lost.id).await.expect("read").is_none(), "others do not see it yet");
    tx.rollback().await.expect("rollback");
    assert_eq!(client.counts().await.expect("counts").total(), 0);

    let mut tx = pool.begin().await.expect("begin");
    let kept = client.add(SendInvoice { order: 18 }).within(&mut tx).await.expect("add");
    assert!(futures::poll!(wakeups.next()).is_pending(), "nobody is woken before the commit");
    tx.commit().await.expect("commit");
    assert_eq!(soon("a wakeup", wakeups.next()).await, Some(backfill::storage::Wakeup::JobsAdded(1)));
    assert_eq!(client.job(kept.id).await.expect("read"), Some(kept));
    let worker = Worker::builder(client).task(send_invoice).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
}

#[tokio::test]
async fn jobs_are_added_on_any_connection_or_transaction_of_the_callers() {
    let (client, pool, _) = client().await;
    let two = || [JobSpec::new("a", 1).key("x"), JobSpec::new("b", 2).key_mode(JobKeyMode::UnsafeDedupe)];
    let mut conn = pool.acquire().await.expect("acquire");
    client.add(JobSpec::new("t", 1)).within(&mut *conn).await.expect("a connection");
    client.add_many(two()).within(&mut *conn).await.expect("a connection");
    client.add_many(two()).within(&mut conn).await.expect("a pool's connection");
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let mut tx = pool.begin().await.expect("begin");
        sqlx::query(AssertSqlSafe(format!("set transaction isolation level {isolation}")))
            .execute(&mut *tx)
            .await
            .expect("set");
        client.add_many(two()).within(&mut tx).await.expect(isolation);
        client.add(JobSpec::new("new task", 1).serial_queue("new queue")).within(&mut tx).await.expect(isolation);
        tx.commit().await.expect("commit");
    }
    // Each batch stores "b" anew and updates "a".
    assert_eq!(client.counts().await.expect("counts").total(), 1 + 3 + 1 + 5);
}

#[tokio::test]
async fn memory_has_no_transactions_and_says_so() {
    let mut conn = pool().await.acquire().await.expect("acquire");
    let error = BackfillClient::in_memory().add(JobSpec::new("t", 1)).within(&mut conn).await.expect_err("memory");
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("memory"), "{error}");
}

#[tokio::test]
async fn a_schema_behind_a_serializable_default_works() {
    let (pool, url) = database().await;
    let name = url.rsplit('/').next().expect("a name");
    sql(&pool, "", &format!("alter database {name} set default_transaction_isolation = 'serializable'")).await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let adds = (0..20).map(|n| client.add(JobSpec::new("t", n)).into_future());
    // Serializable transactions may fail and be tried again by their owner: that is the contract of the level.
    let added = futures::future::join_all(adds).await;
    let failures: Vec<_> = added.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failures.iter().all(|error| error.is_transient()), "{failures:?}");
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |_: i32, _: JobContext| async {}))
        .poll_interval(Duration::from_millis(20))
        .handle_signals(false)
        .build()
        .expect("worker");
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    until("all jobs are done", || async { client.counts().await.is_ok_and(|counts| counts.total() == 0) }).await;
    handle.shutdown();
    soon("the worker ends", running).await.expect("no panic").expect("run");
}

/// Compiles only if adding in a transaction can be part of a future that a web server runs on any thread.
#[tokio::test]
async fn adding_in_a_transaction_is_send() {
    fn spawnable<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
        future
    }
    let (client, pool, _) = client().await;
    let added = spawnable(async move {
        let mut tx = pool.begin().await.expect("begin");
        client.add(JobSpec::new("t", 1)).within(&mut tx).await.expect("add");
        client.add_many([JobSpec::new("t", 2)]).within(&mut tx).await.expect("add");
        tx.commit().await.expect("commit");
        client.counts().await.expect("counts").total()
    });
    assert_eq!(added.await, 2);
}

/// The driver's own `begin`, dropped half-way, leaves its connection in the pool with the transaction open; what is done there
/// later seems to succeed and is never committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_dropped_at_any_moment_leave_no_transaction_open() {
    let (_, url) = database().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "s").await.expect("migrate");
    let other = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    for polls in 0..200 {
        // Dropped after so many looks at it, wherever it is then.
        let mut adding = client.add_many([JobSpec::new("t", ()), JobSpec::new("t", ())]).into_future();
        for _ in 0..polls {
            if futures::poll!(&mut adding).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(adding);
        let accepted = client.add(JobSpec::new("accepted", ())).await.expect("add").id;
        let seen = ask(&other, "s", &format!("select count(*) from S._private_jobs where id = {accepted}")).await;
        assert_eq!(seen, "1", "what was accepted is there, for everybody (dropped after {polls} looks)");
    }
    let odd = "select count(*) from S._private_jobs j join S._private_tasks t on t.id = task_id where identifier = 't'";
    let odd: i64 = ask(&other, "s", odd).await.parse().expect("a number");
    assert_eq!(odd % 2, 0, "a batch is stored whole or not at all");
}
