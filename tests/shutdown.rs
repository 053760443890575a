//! How a worker ends.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backfill::{Answer, Error, JobContext, JobSpec, Reschedule, Summary, TaskError, Worker, task_fn};
use support::running::Running;
use support::{client, soon, sql, until};
use tokio::sync::{Notify, Semaphore};

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
async fn running_jobs_are_asked_to_end_and_then_dropped_and_are_no_failures() {
    let (client, ..) = client().await;
    client.add_many([JobSpec::new("polite", ()), JobSpec::new("stubborn", ())]).await.expect("add");
    let started = Arc::new(Semaphore::new(0));
    let (polite, stubborn) = (started.clone(), started.clone());
    // It could not be tried again if this cost an attempt, and not soon if it were a failure.
    let last = client.reschedule(&[2.into()], &Reschedule::new().attempts(24)).await.expect("reschedule");
    assert_eq!(last[0].max_attempts, 25);
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
    assert_eq!((summary.completed, summary.failed, summary.interrupted), (1, 0, 1));
    let left = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    assert_eq!((left[0].task.as_str(), left[0].attempts, &left[0].locked_by), ("stubborn", 24, &None));
    assert!(left[0].run_at <= chrono::Utc::now(), "ready at once: {left:?}");
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
    assert_eq!((summary.failed, summary.interrupted), (0, 1));
    assert!(begin.elapsed() < Duration::from_secs(20));
    let left = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    assert!(left[0].last_error.as_deref().is_some_and(|text| text.contains("blocked its thread")), "{left:?}");
    assert_eq!((left[0].attempts, &left[0].locked_by), (0, &None));
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.scheduled), (0, 1), "not while it may be running on here");
    release.send(()).expect("the job still blocks");
}

#[tokio::test]
async fn forcing_ends_a_worker_within_about_a_second() {
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
    running.handle.force();
    assert_eq!(running.ended().await.expect("run").interrupted, 1);
}

/// What a job answers when it is asked to end.
#[tokio::test]
async fn an_error_after_the_call_to_end_is_no_failure_unless_the_job_says_so() {
    let (client, ..) = client().await;
    client
        .add_many(["gives up", "later", "never", "panics", "part"].map(|how| JobSpec::new("t", [how, "x"])))
        .await
        .expect("add");
    let started = Arc::new(Semaphore::new(0));
    let starting = started.clone();
    let handler = task_fn("t", move |how: Vec<String>, ctx: JobContext| {
        let started = starting.clone();
        async move {
            started.add_permits(1);
            ctx.cancelled().await;
            match how[0].as_str() {
                "gives up" => Err(TaskError::new("asked to end")),
                "later" => Err(TaskError::new("in an hour").retry_in(Duration::from_hours(1))),
                "never" => Err(TaskError::new("for good").permanent()),
                "panics" => panic!("a bug"),
                _ => Ok(Answer::Items(vec![Ok(()), Err(TaskError::new("no time"))])),
            }
        }
    });
    let running = Running::start(Worker::builder(client.clone()).task(handler).cancel_after(Duration::from_millis(1)));
    started.acquire_many(5).await.expect("all run").forget();
    let summary = running.end().await;
    assert_eq!((summary.interrupted, summary.failed, summary.dead), (2, 2, 1), "{summary:?}");
    let mut left = client.jobs(&backfill::JobFilter::new()).await.expect("list");
    left.sort_by_key(|job| job.id);
    let attempts: Vec<i16> = left.iter().map(|job| job.attempts).collect();
    assert_eq!(attempts, [0, 1, 25, 1, 0]);
    let ready: Vec<bool> = left.iter().map(|job| job.run_at <= chrono::Utc::now()).collect();
    assert_eq!((ready[0], ready[1], ready[4]), (true, false, true), "{left:?}");
    assert_eq!(left[0].last_error.as_deref(), Some("the worker shut down before the job ended: asked to end"));
    assert_eq!(left[4].payload.as_str(), r#"["x"]"#, "what is done is not done again");
}

#[tokio::test]
async fn a_worker_that_was_shut_down_before_it_ran_ends_at_once() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    for forced in [false, true] {
        let builder = Worker::builder(client.clone()).task(task_fn("t", |(): (), _: JobContext| async {}));
        let worker = builder.handle_signals(false).build().expect("worker");
        if forced {
            worker.shutdown_handle().force();
        } else {
            worker.shutdown_handle().shutdown();
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
async fn a_done_job_whose_row_cannot_be_deleted_is_kept_as_dead_when_there_is_no_more_time() {
    let (client, pool, schema) = client().await;
    let job = client.add(JobSpec::new("t", ())).await.expect("add");
    let name = format!("kept_{}", job.id);
    sql(&pool, &schema, &format!("create table S.{name} (job bigint references S._private_jobs (id))")).await;
    sql(&pool, &schema, &format!("insert into S.{name} values ({})", job.id)).await;
    let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
    let handler = task_fn("t", move |(): (), _: JobContext| {
        let done = done.clone();
        async move { done.send(()).expect("the test waits") }
    });
    let running = Running::start(Worker::builder(client.clone()).task(handler).handle_signals(false));
    soon("it is done", is_done.recv()).await;
    let begun = Instant::now();
    running.end().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for what will not pass: {:?}", begun.elapsed());
    let kept = client.job(job.id).await.expect("read").expect("it stays");
    assert_eq!((kept.locked_by, kept.attempts), (None, kept.max_attempts), "it does not run again");
    assert!(kept.last_error.is_some_and(|text| text.starts_with("the job is done, and its row could not be deleted")));
}
