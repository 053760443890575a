//! Whom the notifications of messages wake, on PostgreSQL.

use std::time::Duration;

use backfill::messages::Queue;
use backfill::{BackfillClient, JobContext, JobSpec, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgListener;

use crate::{LONG, claim, support};

/// Graphile's channel serves all schemas of a database, so what is told there wakes every worker of Node's: messages have one of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wake_nobody_who_waits_for_jobs_of_another_schema() {
    let (pool, url) = support::database().await;
    let queue = Queue::builder().database_url(&url).namespace("a case").build().await.unwrap();
    let channel: String = sqlx::query_scalar("select 'backfill:' || 'backfill_messages._private_jobs'::regclass::oid")
        .fetch_one(&pool)
        .await
        .unwrap();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen_all(["jobs:insert", &channel]).await.unwrap();
    // One; several; with an id, a group, a delay.
    queue.enqueue("q", &1).await.unwrap();
    queue.enqueue("q", &1).id("m").group("g").await.unwrap();
    let many = (0..5).map(|n| backfill::messages::NewMessage::new(&n)).collect();
    queue.enqueue_all("q", many).await.unwrap();
    let message = claim(&queue, "q").await;
    queue.requeue(&message, Duration::ZERO).await.unwrap();
    let message = claim(&queue, "q").await;
    queue.renew(&message, Duration::ZERO).await.unwrap();
    queue.complete(&claim(&queue, "q").await).await.unwrap();
    // What is told by others still is; it is heard after all that was told before it.
    let client = BackfillClient::builder().pool(pool.clone()).schema("backfill_messages").build().await.unwrap();
    client.add(JobSpec::new("job", 1)).await.unwrap();
    let mut heard = Vec::new();
    loop {
        let notification = listener.recv().await.unwrap();
        heard.push(notification.channel().to_owned());
        if notification.channel() == "jobs:insert" {
            break;
        }
    }
    assert!(heard.len() >= 4, "{heard:?}");
    assert_eq!(heard.iter().filter(|channel| *channel == "jobs:insert").count(), 1, "{heard:?}");
    in_one_transaction(&pool, &url, &mut listener).await;
}

/// Adding jobs in a transaction after a unit of messages in it is told as ever.
async fn in_one_transaction(pool: &PgPool, url: &str, listener: &mut PgListener) {
    let jobs = BackfillClient::builder().database_url(url).schema("both").messages(true).build().await.unwrap();
    jobs.add(JobSpec::new("work", 1)).await.unwrap();
    let (adds, pool) = (jobs.clone(), pool.clone());
    let task = task_fn("work", move |_: i32, ctx: JobContext| {
        let (adds, pool) = (adds.clone(), pool.clone());
        async move {
            ctx.append_when_done("s", &1)?;
            ctx.add_when_done(JobSpec::new("line", 1))?;
            let mut tx = pool.begin().await?;
            ctx.complete_in(&mut tx).await?;
            adds.add(JobSpec::new("later", 1)).within(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        }
    });
    let mut drain =
        async || while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(300), listener.recv()).await {};
    drain().await;
    let summary = jobs.worker().task(task).handle_signals(false).run_until_idle().await.unwrap();
    assert_eq!(summary.completed, 1);
    let told = tokio::time::timeout(Duration::from_secs(30), listener.recv()).await.unwrap().unwrap();
    assert_eq!(told.channel(), "jobs:insert");
}

/// A worker that serves a line hears of its messages at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_serves_a_line_is_woken_by_its_messages() {
    let (_, url) = support::database().await;
    let queue = Queue::builder().database_url(&url).namespace("a case").build().await.unwrap();
    queue.enqueue("q", &0).await.unwrap();
    let line = queue.storage().require_inspect().unwrap().task_names().await.unwrap().pop().unwrap();
    let client = BackfillClient::builder().database_url(&url).schema("backfill_messages").build().await.unwrap();
    let (told, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let task = task_fn(line, move |_: serde_json::Value, _: JobContext| {
        let _ = told.send(());
        async {}
    });
    // It would not look by itself before the test has given up.
    let worker = client.worker().task(task).poll_interval(LONG).handle_signals(false).build().unwrap();
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    ran.recv().await.unwrap();
    for n in 0..5 {
        queue.enqueue("q", &n).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), ran.recv()).await.expect("it is woken").unwrap();
    }
    handle.shutdown();
    running.await.unwrap().unwrap();
}
