//! What other transactions keep locked, on PostgreSQL: it is answered as busy and tried again, and nothing is lost or done twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::messages::{Handle, Queue};
use backfill::storage::messages::{
    Applied, DocumentChange, DocumentKey, Expect, Holder, NewEvent, Refusal, Take, Unit,
};
use backfill::storage::{Registration, WorkerId};
use backfill::{BackfillClient, JobContext, JobSpec, Payload, task_fn};
use sqlx::PgPool;

use crate::{LONG, claim, support};

async fn scene() -> (PgPool, Queue) {
    let (pool, url) = support::database().await;
    let queue = Queue::builder().database_url(&url).namespace("a case").build().await.unwrap();
    (pool, queue)
}

/// The lock under which events get their positions, until this transaction ends.
async fn lock_events(pool: &PgPool, schema: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended('events', ($1 || '._private_jobs')::regclass::oid::bigint))",
    )
    .bind(schema)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx
}

/// Until so many transactions have been seen to wait for a lock.
async fn until_have_waited(pool: &PgPool, most: usize) {
    let waiting = async {
        let mut seen = HashSet::<String>::new();
        while seen.len() < most {
            let waiting = sqlx::query_scalar("select virtualtransaction from pg_locks where not granted");
            seen.extend(waiting.fetch_all(pool).await.unwrap());
        }
    };
    support::soon("transactions wait", waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_whose_events_cannot_be_appended_now_is_busy() {
    let (pool, queue) = scene().await;
    queue.enqueue("q", &1).await.unwrap();
    let message = claim(&queue, "q").await;
    let held = lock_events(&pool, "backfill_messages").await;
    let hold = backfill::storage::messages::Hold::Lease { receipt: message.handle().receipt(), late: false };
    let event = || NewEvent::new("s", Payload::new("s", &1).unwrap());
    let units =
        [Unit::new().settle(hold, backfill::storage::Outcome::completed()).event(event()), Unit::new().event(event())];
    let apply = async || queue.storage().require_messages().unwrap().apply(&units).await.unwrap();
    let busy = apply().await;
    assert_eq!(busy[0], Applied::Refused(Refusal::Busy { id: Some(message.handle().receipt().id) }));
    assert_eq!(busy[1], Applied::Refused(Refusal::Busy { id: None }));
    held.commit().await.unwrap();
    assert!(apply().await.iter().all(Applied::is_done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_event_had_to_wait_is_not_run_again() {
    let (pool, url) = support::database().await;
    let client = BackfillClient::builder().database_url(&url).messages(true).build().await.unwrap();
    client.add(JobSpec::new("work", 1)).await.unwrap();
    let held = lock_events(&pool, "graphile_worker").await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let task = task_fn("work", move |_: i32, ctx: JobContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { ctx.append_when_done("s", &1) }
    });
    let worker = client.worker().task(task).handle_signals(false).build().unwrap();
    let running = tokio::spawn(async move { worker.run_until_idle().await });
    // Two tries of the first write, and the first of the next.
    until_have_waited(&pool, 3).await;
    held.commit().await.unwrap();
    let summary = support::soon("it ends", running).await.unwrap().unwrap();
    assert_eq!((summary.completed, summary.failed, summary.stale), (1, 0, 0), "{summary:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let events = client.storage().require_messages().unwrap().events("s", 0, 9).await.unwrap();
    assert_eq!(events.len(), 1);
}

/// Somebody keeps the row locked for longer than the lease lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ended_while_a_renewal_waited_is_not_renewed() {
    let (pool, queue) = scene().await;
    queue.enqueue("q", &1).await.unwrap();
    let message = queue.claim("q", "w").lease(LONG).one().await.unwrap().expect("ready");
    assert!(queue.renew(&message, Duration::from_millis(500)).await.unwrap());
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from backfill_messages._private_jobs for update").execute(&mut *tx).await.unwrap();
    let renewal = tokio::spawn({
        let (queue, handle): (Queue, Handle) = (queue.clone(), message.handle().clone());
        async move { queue.renew(&handle, LONG).await }
    });
    // (One that begins after the lease has ended waits for nobody.)
    let waits = "select count(*) > 0 from pg_locks where not granted";
    while !renewal.is_finished() && !sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.unwrap() {}
    support::until("the lease ends", async || {
        let ended = "select clock_timestamp() > locked_at from backfill_messages._private_jobs";
        sqlx::query_scalar(ended).fetch_one(&pool).await.unwrap()
    })
    .await;
    tx.commit().await.unwrap();
    let renewed = support::soon("it is answered", renewal).await.unwrap();
    assert!(!matches!(renewed, Ok(true)), "{renewed:?}");
}

/// More documents than the server has room for locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_may_have_any_number_of_documents() {
    let (_, queue) = scene().await;
    let messages = queue.storage().require_messages().unwrap();
    let key = |n: u32| DocumentKey::new("many", n.to_string());
    let one = |n| DocumentChange::put(key(n), Payload::new("d", &n).unwrap());
    let many = (0..60_000).fold(Unit::new(), |unit, n| unit.expect(Expect::absent(key(n))).change(one(n)));
    let mut few = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (queue, unit) = (queue.clone(), Unit::new().expect(Expect::absent(key(n))).change(one(n)));
        few.spawn(async move { queue.storage().require_messages().unwrap().apply(&[unit]).await });
    }
    // Whoever is first: each document is stored once.
    let applied = messages.apply(std::slice::from_ref(&many)).await.unwrap().remove(0);
    let first = few.join_all().await.into_iter().filter(|answer| matches!(answer, Ok(answer) if answer[0].is_done()));
    let first = first.count();
    assert!(if applied.is_done() { first == 0 } else { first > 0 }, "{first} came first");
    let stored = messages.documents("many", "", None, 100_000).await.unwrap();
    assert_eq!(stored.len(), if applied.is_done() { 60_000 } else { first });
}

/// A take that had to wait before it looked, while the line, its group and the message came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_is_answered_also_if_its_line_is_younger_than_the_call() {
    let (pool, url) = support::database().await;
    let client = BackfillClient::builder().database_url(&url).messages(true).build().await.unwrap();
    let storage = client.storage().clone();
    let worker = WorkerId::random();
    assert!(storage.consumer().register(&Registration::new(&worker, &[])).await.unwrap());
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from graphile_worker.backfill_pools for update").execute(&mut *tx).await.unwrap();
    let taking = tokio::spawn(async move {
        let lines = [("line".to_owned(), 9)];
        storage.require_messages().unwrap().take(&Take::new(Holder::Worker(&worker), &lines)).await
    });
    until_have_waited(&pool, 1).await;
    let past = |spec: JobSpec| spec.run_at(chrono::Utc::now() - chrono::TimeDelta::hours(1));
    client
        .add_many([past(JobSpec::new("line", 1)), past(JobSpec::new("line", 2).serial_queue("group"))])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let taken = support::soon("it is answered", taking).await.unwrap().unwrap().jobs;
    let names: Vec<_> = taken.iter().map(|job| (job.task.as_str(), job.queue.as_deref())).collect();
    assert_eq!(names, [("line", None), ("line", Some("group"))]);
}
