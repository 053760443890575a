//! Running jobs from PostgreSQL.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backfill::{
    Answer, BackfillClient, Error, Handler, Job, JobContext, JobSpec, JobState, RetryPolicy, ShutdownHandle, Summary,
    Task, TaskError, TaskResult, Worker, WorkerBuilder, task_fn,
};
use chrono::{TimeDelta, Utc};
use support::{ask, client, postgres, soon, sql, until};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// A worker that runs in the background until the test ends it.
struct Running {
    handle: ShutdownHandle,
    worker: JoinHandle<backfill::Result<Summary>>,
}

impl Running {
    fn start(builder: WorkerBuilder) -> Self {
        let worker = builder.handle_signals(false).build().expect("worker");
        Self { handle: worker.shutdown_handle(), worker: tokio::spawn(async move { worker.run().await }) }
    }

    async fn end(self) -> Summary {
        self.handle.shutdown();
        self.ended().await.expect("run")
    }

    async fn ended(self) -> backfill::Result<Summary> {
        soon("the worker ends", self.worker).await.expect("no panic")
    }
}

async fn empty(client: &BackfillClient) {
    until("no jobs are left", || async { client.counts().await.expect("counts").total() == 0 }).await;
}

/// Adds one job, runs the handler on it once, and answers what is left.
async fn run_one(handler: impl Into<Handler>, spec: JobSpec) -> (BackfillClient, Option<Job>) {
    let (client, ..) = client().await;
    let job = client.add(spec).await.expect("add");
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    soon("the run ends", worker.run_once()).await.expect("run");
    let left = client.job(job.id).await.expect("read");
    (client, left)
}

/// How far the written `run_at` lies from now.
fn wait_of(job: &Job) -> f64 {
    (job.run_at - Utc::now()).as_seconds_f64()
}

// --- tasks and what they answer --------------------------------------------------------------------------------------

struct Double {
    results: mpsc::UnboundedSender<u64>,
}

impl Task for Double {
    const NAME: &'static str = "double";
    type Payload = u64;

    async fn run(&self, n: u64, ctx: JobContext) -> TaskResult {
        assert_eq!((ctx.job().attempts, ctx.is_last_attempt(), ctx.is_cancelled()), (1, false, false));
        self.results.send(n * 2)?;
        Ok(Answer::Done)
    }
}

#[tokio::test]
async fn typed_tasks_and_closures_run_and_unknown_tasks_are_left_alone() {
    let (client, ..) = client().await;
    let (results, mut doubled) = mpsc::unbounded_channel();
    client.add(JobSpec::of::<Double>(&21)).await.expect("add");
    client.add(JobSpec::new("follow", "up")).await.expect("add");
    let unknown = client.add(JobSpec::new("unknown", ())).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(Double { results })
        .task(task_fn("follow", |text: String, ctx: JobContext| async move {
            assert_eq!(text, "up");
            ctx.client().add(JobSpec::new("double", 4)).await.map(drop)
        }))
        .build()
        .expect("worker");
    assert_eq!(worker.run_once().await.expect("run").completed, 3);
    assert_eq!((doubled.recv().await, doubled.recv().await), (Some(42), Some(8)));
    assert_eq!(client.job(unknown.id).await.expect("read"), Some(unknown));
}

#[tokio::test]
async fn every_retry_policy_is_honoured_in_the_written_run_at() {
    let s = Duration::from_secs;
    let cases = [
        (RetryPolicy::graphile(), 0, 2.71, 2.73),
        (RetryPolicy::graphile(), 3, 54.59, 54.61),
        (RetryPolicy::graphile(), 20, 22026.0, 22027.0),
        (RetryPolicy::fixed(s(100)), 6, 100.0, 100.0),
        (RetryPolicy::linear(s(60), s(200)), 2, 180.0, 180.0),
        (RetryPolicy::linear(s(60), s(200)), 9, 200.0, 200.0),
        (RetryPolicy::exponential(s(10), 3.0, s(1000)), 2, 90.0, 90.0),
        (RetryPolicy::exponential(s(10), 3.0, s(1000)), 9, 1000.0, 1000.0),
        (RetryPolicy::fixed(s(100)).with_jitter(0.5), 0, 50.0, 150.0),
        (RetryPolicy::custom(|attempt| Duration::from_secs(u64::from(attempt) * 1000)), 1, 2000.0, 2000.0),
        (RetryPolicy::custom(|_| panic!("in the policy")), 0, 2.71, 2.73),
        (RetryPolicy::fixed(Duration::MAX), 0, 3.1e9, 3.2e9),
    ];
    let (client, pool, schema) = client().await;
    for (policy, used, least, most) in cases {
        let name = format!("{policy:?} after {used}");
        let job = client.add(JobSpec::new("t", ()).max_attempts(30)).await.expect("add");
        sql(&pool, &schema, &format!("update S._private_jobs set attempts = {used} where id = {}", job.id)).await;
        let handler = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("no") }).retry(policy);
        let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
        let before = Utc::now();
        worker.run_once().await.expect("run");
        let after = Utc::now();
        let left = client.job(job.id).await.expect("read").expect("the job");
        assert_eq!((i32::from(left.attempts), left.last_error.as_deref()), (used + 1, Some("no")), "{name}");
        assert!((left.run_at - before).as_seconds_f64() >= least - 0.01, "{name}: {}", left.run_at - before);
        assert!((left.run_at - after).as_seconds_f64() <= most + 0.01, "{name}: {}", left.run_at - after);
        client.complete(&[job.id]).await.expect("delete");
    }
}

#[tokio::test]
async fn a_task_may_choose_the_time_of_its_retry_or_give_up_or_snooze() {
    let at = Utc::now() + TimeDelta::days(3);
    let task = |answer: fn() -> TaskResult| task_fn("t", move |(): (), _: JobContext| async move { answer() });
    let spec = || JobSpec::new("t", ());

    let (_, left) = run_one(task(|| Err(TaskError::new("later").retry_in(Duration::from_secs(500)))), spec()).await;
    let left = left.expect("the job");
    assert!((490.0..=500.0).contains(&wait_of(&left)), "{}", wait_of(&left));
    assert_eq!(left.attempts, 1);

    let choose =
        task_fn("t", move |(): (), _: JobContext| async move { Err::<(), _>(TaskError::new("later").retry_at(at)) });
    let (_, left) = run_one(choose, spec()).await;
    assert!((left.expect("the job").run_at - at).abs() < TimeDelta::milliseconds(1));

    let (_, left) = run_one(task(|| Err(TaskError::new("never").permanent())), spec()).await;
    let left = left.expect("kept");
    assert_eq!((left.attempts, left.last_error.as_deref()), (25, Some("never")));
    assert_eq!(left.state(Utc::now()), JobState::Dead);

    let (_, left) = run_one(task(|| Ok(Answer::snooze(Duration::from_secs(500)))), spec()).await;
    let left = left.expect("the job");
    assert_eq!((left.attempts, &left.last_error), (0, &None));
    assert!((490.0..=500.0).contains(&wait_of(&left)));
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_with_its_message() {
    let panics: [(&str, fn()); 3] = [
        ("the task panicked: plain", || panic!("plain")),
        ("the task panicked: with 7", || panic!("with {}", 7)),
        ("the task panicked", || std::panic::panic_any(7)),
    ];
    for (text, panic) in panics {
        let inside = task_fn("t", move |(): (), _: JobContext| async move { panic() });
        let (_, left) = run_one(inside, JobSpec::new("t", ())).await;
        assert_eq!(left.expect("the job").last_error.as_deref(), Some(text));
        let before = task_fn("t", move |(): (), _: JobContext| {
            panic();
            async {}
        });
        let (_, left) = run_one(before, JobSpec::new("t", ())).await;
        assert_eq!(left.expect("the job").last_error.as_deref(), Some(text));
    }
}

#[tokio::test]
async fn errors_of_any_text_are_stored() {
    let nul = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("a\0b") });
    let (_, left) = run_one(nul, JobSpec::new("t", ())).await;
    assert_eq!(left.expect("the job").last_error.as_deref(), Some("a\u{fffd}b"));
    let long = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("x".repeat(10_000_000)) });
    let (_, left) = run_one(long, JobSpec::new("t", ())).await;
    let error = left.expect("the job").last_error.expect("an error");
    assert!(error.len() < 33_000 && error.contains("10000000 bytes"));
}

#[tokio::test]
async fn of_a_batch_the_items_that_failed_are_kept_and_tried_again() {
    let (client, ..) = client().await;
    let job = client.add(JobSpec::new("t", [1, 2, 3, 4])).await.expect("add");
    let handler = || {
        task_fn("t", |items: Vec<u32>, ctx: JobContext| async move {
            let first = ctx.job().attempts == 1;
            Answer::items(
                items.into_iter().map(move |n| if first && n % 2 == 0 { Err(format!("bad {n}")) } else { Ok(()) }),
            )
        })
        .retry(RetryPolicy::fixed(Duration::ZERO))
    };
    let worker = Worker::builder(client.clone()).task(handler()).concurrency(1).build().expect("worker");
    let seen = tokio::spawn({
        let client = client.clone();
        async move { client.job(job.id).await.expect("read") }
    });
    drop(seen);
    let summary = worker.run_once().await.expect("run");
    assert_eq!(summary.failed, 1);
    if let Some(left) = client.job(job.id).await.expect("read") {
        assert_eq!(
            (left.payload.as_str(), left.last_error.as_deref()),
            ("[2,4]", Some("Batch failures:\nbad 2\nbad 4"))
        );
        assert_eq!(worker.run_once().await.expect("run").completed, 1);
    } else {
        assert_eq!(summary.completed, 1, "the retry was due at once");
    }
}

// --- flow ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn never_more_jobs_run_than_the_concurrency_allows_and_all_of_it_is_used() {
    let (client, ..) = client().await;
    client.add_many((0..60).map(|_| JobSpec::new("t", ()))).await.expect("add");
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let (now, most, gate) = (now.clone(), most.clone(), gate.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (now, most, gate) = (now.clone(), most.clone(), gate.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(7));
    until("seven jobs run", || async { now.load(Ordering::SeqCst) == 7 }).await;
    assert_eq!(client.counts().await.expect("counts").running, 7, "no job waits, locked, behind a slow one");
    gate.add_permits(60);
    empty(&client).await;
    assert_eq!(most.load(Ordering::SeqCst), 7);
    assert_eq!(running.end().await.completed, 60);
}

#[tokio::test]
async fn jobs_of_a_serial_queue_follow_each_other_without_waiting_for_a_poll() {
    let (client, ..) = client().await;
    client.add_many((0..8).map(|n| JobSpec::new("t", n).serial_queue("q"))).await.expect("add");
    let (order_tx, mut order) = mpsc::unbounded_channel();
    let now = Arc::new(AtomicUsize::new(0));
    let handler = task_fn("t", move |n: u32, _: JobContext| {
        let (order, now) = (order_tx.clone(), now.clone());
        async move {
            assert_eq!(now.fetch_add(1, Ordering::SeqCst), 0, "alone");
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            order.send(n).expect("open");
        }
    });
    // With an hour between polls, the test only ends if no job waits for one.
    let hour = Duration::from_hours(1);
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(4).poll_interval(hour));
    for n in 0..8 {
        assert_eq!(soon("the next job", order.recv()).await, Some(n));
    }
    empty(&client).await;
    assert_eq!(running.end().await.completed, 8);
}

#[tokio::test]
async fn a_retry_that_is_soon_does_not_wait_for_a_poll() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let handler =
        task_fn(
            "t",
            |(): (), ctx: JobContext| async move { if ctx.job().attempts < 4 { Err("not yet") } else { Ok(()) } },
        )
        .retry(RetryPolicy::fixed(Duration::from_millis(20)));
    let running = Running::start(Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1)));
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.completed), (3, 1));
}

#[tokio::test]
async fn every_retry_that_is_due_is_remembered_not_only_the_first() {
    let (client, ..) = client().await;
    client.add_many((1..=5_u64).map(|n| JobSpec::new("t", n * 40))).await.expect("add");
    let handler = task_fn("t", |ms: u64, ctx: JobContext| async move {
        if ctx.job().attempts > 1 { Ok(()) } else { Err(TaskError::new("no").retry_in(Duration::from_millis(ms))) }
    });
    let running =
        Running::start(Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_secs(3600)));
    empty(&client).await;
    assert_eq!(running.end().await.completed, 5);
}

#[tokio::test]
async fn scheduled_jobs_run_when_a_poll_finds_them_due() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ()).run_in(Duration::from_millis(300))).await.expect("add");
    let handler = task_fn("t", |(): (), ctx: JobContext| async move { assert!(ctx.job().run_at <= Utc::now()) });
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_millis(50)).listen(false);
    let running = Running::start(builder);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 1);
}

#[tokio::test]
async fn after_every_reconnect_of_the_listener_one_look_catches_up() {
    // A database of its own, so that the listener's connection can be told from others.
    let (pool, url) = support::database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    let running = Running::start(builder);
    let kill = "with gone as (select pg_terminate_backend(pid) as ok from pg_stat_activity
                where datname = current_database() and query ilike 'listen%') select count(*) from gone where ok";
    for _ in 0..3 {
        client.add(JobSpec::new("t", ())).await.expect("add");
        empty(&client).await;
        until("the listener was connected, and is gone", || async { ask(&pool, "x", kill).await != "0" }).await;
        client.add(JobSpec::new("t", ())).await.expect("add while nobody listens");
        empty(&client).await;
    }
    running.end().await;
}

#[tokio::test]
async fn results_survive_the_loss_of_every_connection() {
    let (pool, url) = support::database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add_many((0..200).map(|n| JobSpec::new("t", n))).await.expect("add");
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
    while starts.load(Ordering::SeqCst) < 150 {
        ask(&own, "x", kill).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("all are done", || async { client.counts().await.is_ok_and(|counts| counts.total() == 0) }).await;
    let summary = running.end().await;
    // A claim whose answer was lost uses up an attempt of its jobs; they are freed when the pool that made it is known to
    // be gone, or, as here, the worker itself lives on and nobody frees them: so none may have been lost.
    assert_eq!(summary.completed + summary.lost, 200, "{summary:?}");
}

#[tokio::test]
async fn a_run_that_ends_does_everything_that_is_ready_and_nothing_else() {
    let (client, ..) = client().await;
    client.add_many((0..300).map(|n| JobSpec::new("t", n).serial_queue(format!("q{}", n % 3)))).await.expect("add");
    client.add_many((0..300).map(|n| JobSpec::new("t", n))).await.expect("add");
    client.add(JobSpec::new("t", 0).run_in(Duration::from_hours(1))).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |_: u32, _: JobContext| async {}))
        .concurrency(5)
        .build()
        .expect("worker");
    assert_eq!(soon("the run ends", worker.run_once()).await.expect("run").completed, 600);
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.total(), counts.scheduled), (1, 1));
    assert_eq!(soon("the run ends", worker.run_once()).await.expect("run"), Summary::default());
}

#[tokio::test]
async fn a_run_that_ends_reports_a_storage_that_fails() {
    let (client, pool, schema) = client().await;
    sql(&pool, &schema, "drop view S.jobs; drop table S._private_jobs cascade").await;
    let worker = Worker::builder(client).task(task_fn("t", |(): (), _: JobContext| async {})).build().expect("worker");
    let error = soon("the run ends", worker.run_once()).await.expect_err("no table");
    assert!(matches!(error, Error::SchemaMissing { .. }), "{error}");
}

// --- shutdown --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_graceful_shutdown_finishes_what_runs_and_starts_nothing_more() {
    let (client, ..) = client().await;
    client.add_many((0..20).map(|_| JobSpec::new("t", ()))).await.expect("add");
    let started = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Notify::new());
    let handler = {
        let (started, gate) = (started.clone(), gate.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                let waiting = gate.notified();
                started.fetch_add(1, Ordering::SeqCst);
                waiting.await;
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler).concurrency(3));
    until("three run", || async { started.load(Ordering::SeqCst) == 3 }).await;
    running.handle.shutdown();
    // The worker knows when the handle's change has been seen by it: nothing is claimed from then on.
    tokio::task::yield_now().await;
    gate.notify_waiters();
    let summary = running.ended().await.expect("run");
    assert_eq!((summary.completed, started.load(Ordering::SeqCst)), (3, 3));
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (17, 0), "nothing is left locked");
    let ready = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    assert!(ready.iter().all(|job| job.attempts == 0), "what never started has its attempt back");
}

#[tokio::test]
async fn running_jobs_are_asked_to_end_and_then_dropped_with_their_attempt_counted() {
    let (client, ..) = client().await;
    client.add_many([JobSpec::new("polite", ()), JobSpec::new("stubborn", ())]).await.expect("add");
    let started = Arc::new(Semaphore::new(0));
    let (polite, stubborn) = (started.clone(), started.clone());
    let builder = Worker::builder(client.clone())
        .task(task_fn("polite", move |(): (), ctx: JobContext| {
            let started = polite.clone();
            async move {
                started.add_permits(1);
                ctx.cancelled().await;
            }
        }))
        .task(task_fn("stubborn", move |(): (), _: JobContext| {
            let started = stubborn.clone();
            async move {
                started.add_permits(1);
                std::future::pending::<()>().await;
            }
        }))
        .cancel_after(Duration::from_millis(20))
        .grace(Duration::from_millis(200));
    let running = Running::start(builder);
    started.acquire_many(2).await.expect("both run").forget();
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.failed), (1, 1));
    let left = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    assert_eq!((left[0].task.as_str(), left[0].attempts, &left[0].locked_by), ("stubborn", 1, &None));
    assert!(left[0].last_error.as_deref().is_some_and(|text| text.contains("shut down")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_blocks_its_thread_does_not_keep_a_worker_from_ending() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(std::sync::Mutex::new(blocked));
    let started = Arc::new(Semaphore::new(0));
    let starting = started.clone();
    let handler = task_fn("t", move |(): (), _: JobContext| {
        let (blocked, started) = (blocked.clone(), starting.clone());
        async move {
            started.add_permits(1);
            let _ = blocked.lock().expect("lock").recv();
        }
    });
    let running = Running::start(Worker::builder(client.clone()).task(handler).grace(Duration::from_millis(50)));
    started.acquire().await.expect("it runs").forget();
    let begin = Instant::now();
    let summary = running.end().await;
    assert_eq!(summary.failed, 1);
    assert!(begin.elapsed() < Duration::from_secs(20));
    let left = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    assert!(left[0].last_error.as_deref().is_some_and(|text| text.contains("blocked its thread")), "{left:?}");
    assert_eq!(left[0].locked_by, None);
    release.send(()).expect("the job still blocks");
}

#[tokio::test]
async fn hurrying_ends_a_worker_within_about_a_second() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let started = Arc::new(Semaphore::new(0));
    let starting = started.clone();
    let handler = task_fn("t", move |(): (), _: JobContext| {
        let started = starting.clone();
        async move {
            started.add_permits(1);
            std::future::pending::<()>().await;
        }
    });
    let running = Running::start(Worker::builder(client.clone()).task(handler).grace(Duration::from_hours(1)));
    started.acquire().await.expect("it runs").forget();
    running.handle.shutdown();
    running.handle.hurry();
    assert_eq!(running.ended().await.expect("run").failed, 1);
}

#[tokio::test]
async fn a_worker_that_was_shut_down_before_it_ran_ends_at_once() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    for hurry in [false, true] {
        let builder = Worker::builder(client.clone()).task(task_fn("t", |(): (), _: JobContext| async {}));
        let worker = builder.handle_signals(false).build().expect("worker");
        if hurry {
            worker.shutdown_handle().hurry()
        } else {
            worker.shutdown_handle().shutdown()
        }
        assert_eq!(soon("the worker ends", worker.run()).await.expect("run"), Summary::default());
    }
    assert_eq!(client.counts().await.expect("counts").ready, 1);
}

#[tokio::test]
async fn a_database_that_does_not_answer_cannot_keep_a_worker_from_ending() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let (started, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (started, release) = (started.clone(), release.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (started, release) = (started.clone(), release.clone());
            async move {
                started.add_permits(1);
                release.acquire().await.expect("open").forget();
            }
        })
    };
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_millis(10));
    let running = Running::start(builder.grace(Duration::from_millis(100)));
    started.acquire().await.expect("it runs").forget();
    let mut lock = pool.begin().await.expect("begin");
    let text = format!("lock table \"{schema}\"._private_jobs in access exclusive mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *lock).await.expect("lock");
    release.add_permits(1);
    let pattern = format!("%{schema}%");
    until("claim and result both wait for the lock", || async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1";
        sqlx::query_scalar::<_, i64>(waiting).bind(&pattern).fetch_one(&pool).await.expect("activity") >= 2
    })
    .await;
    running.handle.shutdown();
    let error = running.ended().await.expect_err("the result could not be written");
    assert!(matches!(error, Error::Unsettled { jobs: 1 }), "{error}");
}

#[tokio::test]
async fn jobs_that_hold_every_connection_of_the_pool_do_not_starve_the_worker() {
    let (url, schema) = (support::server_url(), support::unique("s"));
    let app = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    let client = BackfillClient::with_pool_and_schema(app.clone(), &schema).await.expect("migrate");
    let jobs: Vec<JobSpec> = (0..3).map(|n| JobSpec::new("t", n)).collect();
    client.add_many(jobs).await.expect("add");
    let signs = Arc::new(Semaphore::new(0));
    let starts = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (app, signs, starts) = (app.clone(), signs.clone(), starts.clone());
        task_fn("t", move |_: u8, _: JobContext| {
            let (app, signs, starts) = (app.clone(), signs.clone(), starts.clone());
            async move {
                // The pool's only connection, until the test has seen signs of life for longer than the deadline.
                let held = app.acquire().await?;
                starts.fetch_add(1, Ordering::SeqCst);
                signs.acquire().await.expect("open").forget();
                drop(held);
                Ok::<_, sqlx::Error>(())
            }
        })
    };
    let builder = Worker::builder(client)
        .task(handler)
        .presence(Duration::from_millis(20), Duration::from_millis(400))
        .concurrency(3);
    let running = Running::start(builder);
    let pool = support::pool().await;
    let other = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("connect");
    until("a job holds the connection", || async { starts.load(Ordering::SeqCst) == 1 }).await;
    until("it has been seen alive for three deadlines", || async {
        other.storage().rescue(Duration::from_millis(400)).await.expect("rescue");
        ask(
            &pool,
            &schema,
            "select coalesce(max(seen_at - started_at), '0') > interval '1.2 seconds' from S.backfill_pools",
        )
        .await
            == "true"
    })
    .await;
    signs.add_permits(3);
    until("all are done", || async { other.counts().await.expect("counts").total() == 0 }).await;
    assert_eq!(running.end().await, {
        let mut all = Summary::default();
        all.completed = 3;
        all
    });
    assert_eq!(starts.load(Ordering::SeqCst), 3);
}

/// A claim whose connection we have given up, and which the server is still working on.
struct LateClaim {
    tx: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl LateClaim {
    async fn begin(pool: &sqlx::PgPool, schema: &str, id: &backfill::storage::PoolId) -> Self {
        let mut tx = pool.begin().await.expect("begin");
        let claim = format!(
            "select id from \"{schema}\".backfill_pools where id = '{id}' for key share;
             update \"{schema}\"._private_jobs set locked_by = '{id}', locked_at = now(), attempts = attempts + 1"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(claim)).execute(&mut *tx).await.expect("claim");
        Self { tx }
    }

    /// Commits once somebody waits for it.
    async fn commit_when_waited_for(self, pool: &sqlx::PgPool, schema: &str) {
        let pattern = format!("%{schema}%backfill_pools%");
        until("somebody waits for the claim", || async {
            let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1";
            sqlx::query_scalar::<_, i64>(waiting).bind(&pattern).fetch_one(pool).await.expect("activity") == 1
        })
        .await;
        self.tx.commit().await.expect("commit");
    }
}

#[tokio::test]
async fn a_claim_that_commits_after_we_gave_it_up_leaves_nothing_locked() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().clone();
    client.add(JobSpec::new("t", ())).await.expect("add");
    let id = backfill::storage::PoolId::random();
    storage.show_presence(&id, true).await.expect("register");

    let late = LateClaim::begin(&pool, &schema, &id).await;
    assert!(storage.rescue(Duration::ZERO).await.expect("rescue").is_empty(), "a pool that claims is alive");
    let (released, ()) = tokio::join!(storage.release_unknown(&id, &[]), late.commit_when_waited_for(&pool, &schema));
    assert_eq!(released.expect("release"), 1);
    assert_eq!(client.counts().await.expect("counts").ready, 1);

    let late = LateClaim::begin(&pool, &schema, &id).await;
    let (withdrawn, ()) = tokio::join!(storage.withdraw_presence(&id), late.commit_when_waited_for(&pool, &schema));
    withdrawn.expect("withdraw");
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (1, 0));
}

// --- identity --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn locks_have_graphiles_shape() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (seen, looked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (seen, looked) = (seen.clone(), looked.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (seen, looked) = (seen.clone(), looked.clone());
            async move {
                seen.add_permits(1);
                looked.acquire().await.expect("open").forget();
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler));
    seen.acquire().await.expect("it runs").forget();
    let same = "select job.locked_by ~ '^pool-[0-9a-f]{18}$' and job.locked_by = queue.locked_by and job.locked_at = queue.locked_at
                and pool.id = job.locked_by and job.attempts = 1
                from S._private_jobs job, S._private_job_queues queue, S.backfill_pools pool";
    assert_eq!(ask(&pool, &schema, same).await, "true");
    looked.add_permits(1);
    empty(&client).await;
    running.end().await;
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "0", "it took its sign away");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_by is not null").await,
        "0"
    );
}

#[tokio::test]
async fn a_worker_that_was_taken_for_dead_settles_nothing_and_goes_on_as_somebody_else() {
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
        .presence(Duration::from_millis(20), Duration::from_hours(1))
        .poll_interval(Duration::from_millis(20));
    let running = Running::start(builder);
    let first = soon("the first start", started.recv()).await.expect("a start");
    // What another worker does when this one has been silent for too long.
    until("it is taken for dead", || async {
        // Its next sign of life may come between these two.
        sql(&pool, &schema, "update S.backfill_pools set seen_at = seen_at - interval '2 hours'").await;
        !client.storage().rescue(Duration::from_secs(3000)).await.expect("rescue").is_empty()
    })
    .await;
    let second = soon("the second start", started.recv()).await.expect("a start");
    assert_eq!((second.id, second.attempts), (job.id, 2));
    assert_ne!(first.locked_by, second.locked_by);
    assert!(second.last_error.is_some_and(|text| text.contains("signs of life")));
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.lost), (1, 1), "the first start's result came too late");
}

#[tokio::test]
async fn the_jobs_of_a_silent_worker_are_run_by_another() {
    let (client, ..) = client().await;
    let dead = backfill::storage::PoolId::random();
    client.storage().show_presence(&dead, true).await.expect("presence");
    client.storage().register_tasks(&["t".to_owned()]).await.expect("register");
    client
        .add_many([JobSpec::new("t", ()).serial_queue("q"), JobSpec::new("t", ()).serial_queue("q")])
        .await
        .expect("add");
    let request = ["t".to_owned()];
    let held =
        client.storage().claim(&backfill::storage::ClaimRequest::new(&dead, &request, 5)).await.expect("claim").jobs;
    assert_eq!(held.len(), 1);
    let builder = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .presence(Duration::from_millis(50), Duration::from_millis(200))
        .poll_interval(Duration::from_hours(1));
    let running = Running::start(builder);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 2);
}

#[tokio::test]
async fn locks_of_unregistered_pools_are_released_after_four_hours_only() {
    let (client, pool, schema) = client().await;
    client.add_many([JobSpec::new("t", 1).serial_queue("q"), JobSpec::new("t", 2)]).await.expect("add");
    let lock = |hours: &str| {
        format!(
            "update S._private_jobs set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}', attempts = 1;
             update S._private_job_queues set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}'"
        )
    };
    sql(&pool, &schema, &lock("3 hours 59 minutes")).await;
    assert_eq!(client.storage().release_stale().await.expect("sweep"), 0);
    assert!(client.storage().rescue(Duration::from_secs(1)).await.expect("rescue").is_empty());
    sql(&pool, &schema, &lock("4 hours 1 minute")).await;
    assert_eq!(client.storage().release_stale().await.expect("sweep"), 2);
    let worker =
        Worker::builder(client.clone()).task(task_fn("t", |_: u8, _: JobContext| async {})).build().expect("worker");
    assert_eq!(worker.run_once().await.expect("run").completed, 2);
}

// --- settings --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_with_the_reason() {
    let client = BackfillClient::with_storage(postgres().await);
    let task = || task_fn("t", |(): (), _: JobContext| async {});
    let s = Duration::from_secs;
    let cases = [
        (Worker::builder(client.clone()), "no tasks"),
        (Worker::builder(client.clone()).task(task()).task(task()), "two tasks have the name \"t\""),
        (Worker::builder(client.clone()).task(task()).concurrency(0), "concurrency is 0"),
        (Worker::builder(client.clone()).task(task()).poll_interval(Duration::ZERO), "poll interval is 0ns"),
        (Worker::builder(client.clone()).task(task()).presence(s(5), s(6)), "at least twice"),
        (Worker::builder(client.clone()).task(task()).concurrency(usize::MAX), "from 1 to 1000000"),
        (Worker::builder(client.clone()).task(task()).grace(Duration::MAX), "at most a year"),
        (Worker::builder(client.clone()).task(task()).poll_interval(Duration::MAX), "at most a year"),
        (Worker::builder(client.clone()).task(task()).presence(s(5), Duration::MAX), "at most a year"),
        (Worker::builder(client).task(task_fn("", |(): (), _: JobContext| async {})), "task name"),
    ];
    for (builder, says) in cases {
        let error = builder.build().expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
}
