//! Serial queues as a worker works them off: in order, in runs, and told to others.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::storage::{ClaimRequest, Registration, Wakeup, Watch, WorkerId};
use backfill::{Answer, BackfillClient, Event, JobContext, JobSpec, TaskError, Worker, WorkerBuilder, task_fn};
use futures::StreamExt;
use support::running::{Running, empty};
use support::{ask, client, soon, sql, until};
use tokio::sync::{Semaphore, mpsc};

/// A queue and a place in it.
type Place = (usize, usize);

/// Which jobs have started, in order, by their queues.
#[derive(Clone, Default)]
struct Starts {
    order: Arc<Mutex<HashMap<usize, Vec<usize>>>>,
    /// Of each queue, how many run.
    running: Arc<Mutex<HashMap<usize, usize>>>,
}

impl Starts {
    fn begin(&self, (queue, place): Place) {
        let mut running = self.running.lock().expect("lock");
        let count = running.entry(queue).or_default();
        *count += 1;
        assert_eq!(*count, 1, "two jobs of queue {queue} at a time");
        self.order.lock().expect("lock").entry(queue).or_default().push(place);
    }

    fn end(&self, (queue, _): Place) {
        self.running.lock().expect("lock").entry(queue).and_modify(|count| *count -= 1);
    }

    /// Whether each queue's jobs have started in order, all of them.
    fn assert_in_order(&self, queues: usize, each: usize) {
        let order = self.order.lock().expect("lock");
        for queue in 0..queues {
            assert_eq!(order[&queue], (0..each).collect::<Vec<_>>(), "queue {queue}");
        }
    }

    fn task(&self, builder: WorkerBuilder) -> WorkerBuilder {
        let starts = self.clone();
        builder.task(task_fn("queued", move |place: Place, _: JobContext| {
            let starts = starts.clone();
            async move {
                starts.begin(place);
                tokio::task::yield_now().await;
                starts.end(place);
            }
        }))
    }
}

fn of_queue(task: &str, queue: usize, place: usize) -> JobSpec {
    JobSpec::new(task, (queue, place)).serial_queue(format!("q{queue}"))
}

/// Another worker's client on the same schema.
async fn beside(client: &BackfillClient, schema: &str) -> BackfillClient {
    let pool = client.postgres().expect("PostgreSQL").pool().clone();
    BackfillClient::with_pool_and_schema(pool, schema).await.expect("client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_start_the_jobs_of_each_queue_in_order() {
    const QUEUES: usize = 30;
    const EACH: usize = 40;
    let (client, _, schema) = client().await;
    let mut specs = Vec::new();
    for place in 0..EACH {
        specs.extend((0..QUEUES).map(|queue| of_queue("queued", queue, place)));
        specs.extend((0..50).map(|n| JobSpec::new("plain", n)));
    }
    client.add_many(specs).await.expect("add");
    let starts = Starts::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let builder = Worker::builder(beside(&client, &schema).await)
            .task(task_fn("plain", |_: usize, _: JobContext| async {}))
            .poll_interval(Duration::from_millis(200))
            .concurrency(8);
        workers.push(Running::start(starts.task(builder)));
    }
    empty(&client).await;
    for worker in workers {
        worker.end().await;
    }
    starts.assert_in_order(QUEUES, EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_jobs_of_a_queue_never_overtake_its_backlog() {
    const BACKLOG: usize = 12_000;
    let (client, ..) = client().await;
    client.add_many((0..BACKLOG).map(|place| of_queue("queued", 0, place))).await.expect("add");
    let mut later = Vec::new();
    for n in 0..4_000 {
        later.push(JobSpec::new("plain", n));
        if n % 100 == 0 {
            later.push(of_queue("queued", 0, BACKLOG + n / 100));
        }
    }
    client.add_many(later).await.expect("add");
    let starts = Starts::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let builder = Worker::builder(client.clone()).task(task_fn("plain", move |_: usize, _: JobContext| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { tokio::time::sleep(Duration::from_millis(1)).await }
    }));
    let worker = Running::start(starts.task(builder));
    empty(&client).await;
    worker.end().await;
    starts.assert_in_order(1, BACKLOG + 40);
    assert_eq!(seen.load(Ordering::Relaxed), 4_000);
}

/// Jobs of two tasks in turn, each served by another worker that would poll after an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freed_queue_is_told_to_the_worker_that_serves_its_next_job() {
    let (client, _, schema) = client().await;
    let starts = Starts::default();
    let mut workers = Vec::new();
    let (listening, mut listens) = mpsc::unbounded_channel();
    for task in ["even", "odd"] {
        let starts = starts.clone();
        let worker = Worker::builder(beside(&client, &schema).await)
            .task(task_fn(task, move |place: Place, _: JobContext| {
                let starts = starts.clone();
                async move {
                    starts.begin(place);
                    starts.end(place);
                }
            }))
            .poll_interval(Duration::from_secs(3_600))
            .handle_signals(false)
            .build()
            .expect("worker");
        let (mut events, listening) = (worker.events(), listening.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if matches!(event, Event::Listening) {
                    let _ = listening.send(());
                }
            }
        });
        workers.push(Running::of(worker));
    }
    for _ in 0..2 {
        soon("a worker listens", listens.recv()).await;
    }
    let specs = (0..20).map(|n| of_queue(if n % 2 == 0 { "even" } else { "odd" }, 0, n));
    client.add_many(specs).await.expect("add");
    empty(&client).await;
    for worker in workers {
        worker.end().await;
    }
    starts.assert_in_order(1, 20);
}

/// After the first jobs the worker knows how long one takes, and claims several of a queue together.
#[tokio::test]
async fn fast_jobs_of_a_queue_are_claimed_in_runs_and_a_slow_one_gives_the_rest_back() {
    let (client, pool, schema) = client().await;
    let gate = Arc::new(Semaphore::new(0));
    let passed = Arc::clone(&gate);
    let worker = Worker::builder(client.clone())
        .task(task_fn("queued", move |(_, place): Place, _: JobContext| {
            let gate = Arc::clone(&passed);
            async move {
                if place == 60 {
                    drop(gate.acquire().await);
                }
            }
        }))
        .handle_signals(false)
        .build()
        .expect("worker");
    let mut events = worker.events();
    client.add_many((0..200).map(|place| of_queue("queued", 0, place))).await.expect("add");
    let worker = Running::of(worker);
    let mut largest = 0;
    soon("the rest of a run is released", async {
        while let Some(event) = events.next().await {
            match event {
                Event::Claimed { jobs } => largest = largest.max(jobs),
                Event::Released { .. } => return,
                _ => {}
            }
        }
    })
    .await;
    assert!(largest > 10, "{largest} jobs were claimed together at the most");
    // What was released waits as if it had never been claimed; the queue is held by the job that runs.
    until("only the running job is held", || async {
        ask(&pool, &schema, "select count(*) from S._private_jobs where locked_at is not null").await == "1"
    })
    .await;
    assert_eq!(ask(&pool, &schema, "select max(attempts) from S._private_jobs where locked_at is null").await, "0");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_at is not null").await,
        "1"
    );
    gate.add_permits(1);
    empty(&client).await;
    worker.end().await;
}

/// A job of a run that fails does not end the run: its retry comes when it is due, and the next job goes on.
#[tokio::test]
async fn a_failure_amid_a_run_frees_nothing_and_loses_nothing() {
    let (client, pool, schema) = client().await;
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&order);
    client.add_many((0..100).map(|place| of_queue("queued", 0, place))).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(task_fn("queued", move |(_, place): Place, _: JobContext| {
            seen.lock().expect("lock").push(place);
            async move {
                if place % 10 == 3 {
                    Err(TaskError::new("no").retry_in(Duration::from_secs(3_600)))
                } else {
                    Ok(Answer::Done)
                }
            }
        }))
        .build()
        .expect("worker");
    let summary = soon("the run ends", worker.run_until_idle()).await.expect("run");
    assert_eq!((summary.completed, summary.failed), (90, 10));
    assert_eq!(*order.lock().expect("lock"), (0..100).collect::<Vec<_>>());
    assert_eq!(
        ask(&pool, &schema, "select count(*) || ' ' || max(attempts) from S._private_jobs where locked_at is null")
            .await,
        "10 1"
    );
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_at is not null").await,
        "0"
    );
}

/// Whoever locks the row of a free queue, or of its first job, holds up that queue only.
#[tokio::test]
async fn a_locked_row_of_a_free_queue_holds_up_nothing_else() {
    for locked in [
        "select from S._private_job_queues where queue_name = 'q0' for update",
        "select from S._private_jobs job where job.id = (select min(id) from S._private_jobs) for update",
    ] {
        let (client, pool, schema) = client().await;
        // So many that each claim would see nothing else.
        client.add_many((0..3_000).map(|place| of_queue("queued", 0, place))).await.expect("add");
        client.add_many((1..50).map(|queue| of_queue("queued", queue, 0))).await.expect("add");
        client.add_many((0..50).map(|n| JobSpec::new("plain", n))).await.expect("add");
        let mut tx = pool.begin().await.expect("begin");
        sqlx::raw_sql(sqlx::AssertSqlSafe(locked.replace("S.", &format!("\"{schema}\"."))))
            .execute(&mut *tx)
            .await
            .expect("lock");
        let starts = Starts::default();
        let builder = Worker::builder(client.clone())
            .task(task_fn("plain", |_: usize, _: JobContext| async {}))
            .poll_interval(Duration::from_secs(3_600));
        let worker = Running::start(starts.task(builder));
        until("all but the jobs of the locked queue are done", || async {
            ask(&pool, &schema, "select count(*) from S._private_jobs").await == "3000"
        })
        .await;
        tx.rollback().await.expect("rollback");
        // Nobody is notified that a row is not locked any more.
        sql(&pool, &schema, "select S.add_job('plain', '0')").await;
        empty(&client).await;
        worker.end().await;
        starts.assert_in_order(1, 3_000);
    }
}

/// A run ends before a job that somebody else has locked, whatever stands behind it.
#[tokio::test]
async fn a_run_ends_before_a_row_that_somebody_has_locked() {
    let (client, pool, schema) = client().await;
    let jobs = client.add_many((0..30).map(|n| of_queue("queued", n % 3, n / 3))).await.expect("add");
    let storage = client.storage().consumer();
    let (worker, tasks) = (WorkerId::random(), ["queued".to_owned()]);
    assert!(storage.register(&Registration::new(&worker, &tasks)).await.expect("register"));
    let mut tx = pool.begin().await.expect("begin");
    // The fifth of one queue, the first of another one.
    let lock =
        format!("select from \"{schema}\"._private_jobs where id in ({}, {}) for update", jobs[12].id, jobs[1].id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await.expect("lock");
    let claim = async || {
        let request = ClaimRequest::new(&worker, &tasks, 10).run_length(100);
        let taken = storage.claim(&request).await.expect("claim").jobs;
        let mut taken: Vec<Place> = taken.iter().map(|job| job.payload.decode().expect("a place")).collect();
        taken.sort_unstable();
        taken
    };
    let places = |queue: usize, places: std::ops::Range<usize>| places.map(move |place| (queue, place));
    assert_eq!(claim().await, places(0, 0..4).chain(places(2, 0..10)).collect::<Vec<Place>>());
    tx.rollback().await.expect("rollback");
    assert_eq!(claim().await, places(1, 0..10).collect::<Vec<Place>>(), "queue 0 is held");
}

/// A queue may be held without a job of it: by a worker that is dead, or that nobody knows. Whoever has passed its jobs by hears that it
/// is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_freed_without_a_job_is_told() {
    // In a database of its own: notifications go to all schemas of one.
    let (pool, url) = support::database().await;
    let client = BackfillClient::new(&url).await.expect("a client");
    let (storage, schema) = (client.storage().consumer(), "graphile_worker");
    client.add_many((0..2).map(|n| JobSpec::new("t", n).serial_queue("q"))).await.expect("add");
    for rescues in [true, false] {
        let held = if rescues {
            "insert into S.backfill_pools (id, seen_at) values ('dead', '2020-01-01');
             update S._private_job_queues set locked_at = now(), locked_by = 'dead'"
        } else {
            "update S._private_job_queues set locked_at = now() - interval '5 hours', locked_by = 'nobody'"
        };
        sql(&pool, schema, held).await;
        let mut wakeups = storage.wakeups(None);
        assert_eq!(soon("listening", wakeups.next()).await, Some(Wakeup::Listening));
        if rescues {
            let silence = Duration::from_millis(50);
            let rescued = storage.rescue(&Watch::new(silence).contact(silence)).await.expect("rescue");
            assert_eq!((rescued.len(), rescued[0].jobs), (1, 0));
        } else {
            assert_eq!(storage.release_stale().await.expect("release"), 0);
        }
        assert_eq!(soon("a wakeup", wakeups.next()).await, Some(Wakeup::JobsAdded(1)), "rescues: {rescues}");
        assert_eq!(
            ask(&pool, schema, "select count(*) from S._private_job_queues where locked_at is not null").await,
            "0"
        );
    }
}
