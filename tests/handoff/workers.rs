//! What a worker does with a job that is handed off to it: it runs it once, or gives it back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backfill::worker::Event;
use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::support::running::{Running, empty};
use crate::support::{ask, client, database, soon, sql, until};
use crate::{add_until_handed, counting, listening};

/// A worker whose jobs wait for a permit each, and tell that they run.
fn held(client: &BackfillClient, concurrency: usize) -> (Worker, Arc<Semaphore>, Arc<Semaphore>) {
    let (runs, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
        task_fn("t", move |(): (), _: JobContext| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.add_permits(1);
                go.acquire().await.expect("open").forget();
            }
        })
    };
    let builder = Worker::builder(client.clone()).task(handler).concurrency(concurrency);
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), runs, go)
}

#[tokio::test]
async fn a_single_job_is_stored_as_claimed_by_an_idle_worker_and_runs_once() {
    let (client, pool, schema) = client().await;
    let (worker, starts) = counting(&client);
    let (running, mut events) = listening(worker).await;
    let added = add_until_handed(&client).await;
    assert_eq!((added.attempts, added.locked_at), (1, Some(added.created_at)));
    let id = ask(&pool, &schema, "select id from S.backfill_pools").await;
    assert_eq!(added.locked_by, Some(id));
    soon("it is told, starts and is written, and never claimed", async {
        let mut told = Vec::new();
        loop {
            match events.next().await.expect("it runs") {
                Event::HandedOff { job } if job.id == added.id => told.push("handed off"),
                Event::JobStarted { job } if job.id == added.id => {
                    assert_eq!((job.attempts, job.locked_at), (1, added.locked_at));
                    told.push("started");
                }
                Event::JobSucceeded { job, .. } if job.id == added.id => break,
                Event::Claimed { .. } if told == ["handed off"] => panic!("a claim came between"),
                _ => {}
            }
        }
        assert_eq!(told, ["handed off", "started"]);
    })
    .await;
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!(summary.completed, u64::try_from(starts.load(Ordering::SeqCst)).expect("few"));
    assert_eq!((summary.released, summary.stale), (0, 0));
}

#[tokio::test]
async fn a_worker_that_is_full_or_was_told_not_to_is_handed_nothing() {
    let (client, _, _) = client().await;
    let (worker, runs, go) = held(&client, 1);
    let (running, _events) = listening(worker).await;
    // More than are added until the client has looked for workers, which may take seconds.
    go.add_permits(1_000_000);
    add_until_handed(&client).await;
    empty(&client).await;
    go.forget_permits(1_000_000);
    runs.forget_permits(1_000_000);
    // It is claimed, so that the last one which was handed off from here is done, and does not keep others from being.
    client.add_many([JobSpec::new("t", ())]).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    until("its offer ends", || async { client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_none() })
        .await;
    for rest in [15, 30, 60] {
        // Longer than one that did not take a job is left alone, so that it is asked again.
        tokio::time::sleep(Duration::from_millis(rest)).await;
        assert_eq!(client.add(JobSpec::new("t", ())).await.expect("add").locked_by, None, "while it is full");
    }
    go.add_permits(1_000);
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.stale), (0, 0));

    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(handler).accept_handoffs(false).handle_signals(false).build();
    let worker = worker.expect("a worker");
    let (running, _events) = listening(worker).await;
    for _ in 0..50 {
        assert_eq!(client.add(JobSpec::new("t", ())).await.expect("add").locked_by, None);
    }
    empty(&client).await;
    running.end().await;
}

#[tokio::test]
async fn a_job_that_comes_when_it_cannot_start_is_released_and_runs_elsewhere() {
    let (client, pool, schema) = client().await;
    let (worker, runs, go) = held(&client, 1);
    let (running, mut events) = listening(worker).await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    // As a client does whose transaction began while there was an offer.
    let hand_off = "
        with job as (
          insert into S._private_jobs (task_id, attempts, locked_at, locked_by)
          select task.id, 1, now(), pool.id from S._private_tasks task, S.backfill_pools pool where pool.handover is not null
          returning id
        )
        select pg_notify(pool.handover, job.id::text) from job, S.backfill_pools pool where pool.handover is not null";
    until("it tells where it hears", || async {
        ask(&pool, &schema, "select handover is not null from S.backfill_pools").await == "true"
    })
    .await;
    // Another one, that has looked already, does not receive it, and would look again in an hour.
    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    let other = builder.accept_handoffs(false).handle_signals(false).build().expect("a worker");
    let (other, mut others) = listening(other).await;
    soon("it looks", async { while !matches!(others.next().await, Some(Event::Claimed { .. })) {} }).await;
    sql(&pool, &schema, hand_off).await;
    soon("it is released", async {
        while !matches!(events.next().await.expect("it runs"), Event::Released { jobs: 1 }) {}
    })
    .await;
    soon("it runs elsewhere", async {
        loop {
            if let Event::JobSucceeded { job, .. } = others.next().await.expect("it runs") {
                assert_eq!(job.attempts, 1, "it has its attempt back");
                break;
            }
        }
    })
    .await;
    go.add_permits(1);
    empty(&client).await;
    other.end().await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.released), (1, 1));
}

#[tokio::test]
async fn a_notification_of_a_job_that_runs_already_starts_nothing() {
    let (client, pool, schema) = client().await;
    let (worker, runs, go) = held(&client, 10);
    let (running, _events) = listening(worker).await;
    let job = client.add(JobSpec::new("t", ())).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    until("it offers", || async {
        ask(&pool, &schema, "select handover is not null from S.backfill_pools").await == "true"
    })
    .await;
    let forged = format!("select pg_notify(handover, '{}') from S.backfill_pools", job.id);
    for _ in 0..3 {
        ask(&pool, &schema, &forged).await;
    }
    // What was notified before is heard before.
    client.add_many([JobSpec::new("t", ())]).await.expect("add");
    soon("the next one runs", runs.acquire()).await.expect("open").forget();
    assert_eq!(runs.available_permits(), 0, "nothing else does");
    go.add_permits(2);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_from_many_clients_while_workers_come_and_go_all_run_once() {
    const EACH: usize = 150;
    let (pool, url) = database().await;
    let ground = BackfillClient::new(&url).await.expect("migrate");
    sql(&pool, "graphile_worker", "create table public.starts (id bigint not null)").await;
    let worker = || {
        let starts = pool.clone();
        let handler = task_fn("t", move |(): (), ctx: JobContext| {
            let starts = starts.clone();
            async move {
                sqlx::query("insert into public.starts values ($1)")
                    .bind(ctx.job().id.number())
                    .execute(&starts)
                    .await?;
                Ok::<_, sqlx::Error>(())
            }
        });
        Running::start(Worker::builder(ground.clone()).task(handler).concurrency(4))
    };
    let mut clients = Vec::new();
    let first = worker();
    until("it offers", || async {
        ask(&pool, "graphile_worker", "select count(handover) from S.backfill_pools").await == "1"
    })
    .await;
    for _ in 0..4 {
        let client = BackfillClient::new(&url).await.expect("connect");
        add_until_handed(&client).await;
        clients.push(client);
    }
    empty(&ground).await;
    sql(&pool, "graphile_worker", "truncate public.starts").await;
    let adding = futures::future::join_all(clients.iter().map(|client| async move {
        let mut handed_off = 0;
        for _ in 0..EACH {
            handed_off += usize::from(client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_some());
        }
        handed_off
    }));
    let coming_and_going = async {
        // The one that the clients know stays for half of the time; of the others they may or may not hear.
        let mut first = Some(first);
        for round in 0..6 {
            if round == 3
                && let Some(first) = first.take()
            {
                first.end().await;
            }
            let (one, two) = (worker(), worker());
            tokio::time::sleep(Duration::from_millis(150)).await;
            one.end().await;
            two.end().await;
        }
    };
    let (handed_off, ()) = tokio::join!(adding, coming_and_going);
    let last = worker();
    empty(&ground).await;
    last.end().await;
    let counts = ask(&pool, "x", "select count(*) || ' ' || count(distinct id) from public.starts").await;
    assert_eq!(counts, format!("{0} {0}", 4 * EACH));
    assert!(handed_off.iter().sum::<usize>() > 0, "some were handed off");
}
