//! Tasks, what they answer, and how jobs flow through a worker.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{
    Answer, BackfillClient, Event, Handler, Job, JobContext, JobSpec, JobState, RetryPolicy, Summary, Task, TaskError,
    TaskPayload, TaskResult, Worker, task_fn,
};
use chrono::{TimeDelta, Utc};
use support::running::{Running, empty};
use support::{LISTENS, ask, client, postgres, soon, sql, until};
use tokio::sync::{Semaphore, mpsc};

/// Adds one job, runs the handler on it once, and answers what is left.
async fn run_one(handler: Handler, spec: JobSpec) -> (BackfillClient, Option<Job>) {
    let (client, ..) = client().await;
    let job = client.add(spec).await.expect("add");
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    soon("the run ends", worker.run_until_idle()).await.expect("run");
    let left = client.job(job.id).await.expect("read");
    (client, left)
}

/// How far the written `run_at` lies from now.
fn wait_of(job: &Job) -> f64 {
    (job.run_at - Utc::now()).as_seconds_f64()
}

// --- tasks and what they answer --------------------------------------------------------------------------------------

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct Double(u64);

struct Doubler {
    results: mpsc::UnboundedSender<u64>,
}

impl Task for Doubler {
    type Payload = Double;
    type Output = Result<(), mpsc::error::SendError<u64>>;

    async fn run(&self, Double(n): Double, ctx: JobContext) -> Self::Output {
        assert_eq!((ctx.job().attempts, ctx.is_last_attempt(), ctx.is_cancelled()), (1, false, false));
        self.results.send(n * 2)
    }
}

#[tokio::test]
async fn typed_tasks_and_closures_run_and_unknown_tasks_are_left_alone() {
    let (client, ..) = client().await;
    let (results, mut doubled) = mpsc::unbounded_channel();
    client.add(Double(21)).await.expect("add");
    client.add(JobSpec::new("follow", "up")).await.expect("add");
    let unknown = client.add(JobSpec::new("unknown", ())).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(Doubler { results })
        .task(task_fn("follow", |text: String, ctx: JobContext| async move {
            assert_eq!(text, "up");
            ctx.client().add(JobSpec::new("double", 4)).await.map(drop)
        }))
        .build()
        .expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 3);
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
        worker.run_until_idle().await.expect("run");
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
    let handler = task_fn("t", |items: Vec<u32>, ctx: JobContext| async move {
        let first = ctx.job().attempts == 1;
        assert_eq!(items, if first { vec![1, 2, 3, 4] } else { vec![2, 4] });
        Answer::items(
            items.into_iter().map(move |n| if first && n % 2 == 0 { Err(format!("bad {n}")) } else { Ok(()) }),
        )
    });
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").failed, 1);
    let left = client.job(job.id).await.expect("read").expect("the job");
    assert_eq!((left.payload.as_str(), left.last_error.as_deref()), ("[2,4]", Some("Batch failures:\nbad 2\nbad 4")));
    assert_eq!(left.attempts, 1);
    client.reschedule(&[job.id], &backfill::Reschedule::new().run_at(Utc::now())).await.expect("reschedule");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
    assert!(client.job(job.id).await.expect("read").is_none());
}

#[tokio::test]
async fn real_jitter_spreads_jobs_that_failed_together() {
    let (client, ..) = client().await;
    client.add_many((0..20).map(|_| JobSpec::new("t", ()))).await.expect("add");
    let policy = RetryPolicy::exponential(Duration::from_secs(1000), 2.0, Duration::from_secs(5000)).with_jitter(0.3);
    let handler = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("no") }).retry(policy);
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").failed, 20);
    let waits: Vec<f64> = client.jobs(&backfill::JobFilter::new()).await.expect("list").iter().map(wait_of).collect();
    assert!(waits.iter().all(|wait| (690.0..=1300.0).contains(wait)), "{waits:?}");
    let (least, most) =
        waits.iter().fold((f64::MAX, f64::MIN), |(least, most), wait| (least.min(*wait), most.max(*wait)));
    assert!(most - least > 50.0, "{waits:?}");
}

#[tokio::test]
async fn what_is_claimed_ahead_is_bounded_by_bytes() {
    let (client, ..) = client().await;
    // Fast jobs first, after which thousands are claimed ahead.
    client.add_many((0..3_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let megabyte = "x".repeat(1024 * 1024);
    client.add_many((0..120).map(|_| JobSpec::new("t", &megabyte).priority(1))).await.expect("add");
    let task = task_fn("t", |_: serde::de::IgnoredAny, _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(task).event_capacity(100_000).build().expect("worker");
    let mut events = worker.events();
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 3_120);
    drop(worker);
    let (mut claims, mut small) = (Vec::new(), 3_000);
    while let Some(event) = events.next().await {
        if let Event::Claimed { jobs } = event {
            let large = jobs.saturating_sub(small);
            small -= jobs - large;
            claims.push(large);
        }
    }
    assert_eq!(claims.iter().sum::<usize>(), 120);
    assert!(claims.iter().all(|large| *large <= 32), "32 MiB at once: {claims:?}");
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
    let kill = format!(
        "with gone as (select pg_terminate_backend(pid) as ok from pg_stat_activity where {LISTENS})
         select count(*) from gone where ok"
    );
    for _ in 0..3 {
        client.add(JobSpec::new("t", ())).await.expect("add");
        empty(&client).await;
        until("the listener was connected, and is gone", || async { ask(&pool, "x", &kill).await != "0" }).await;
        client.add(JobSpec::new("t", ())).await.expect("add while nobody listens");
        empty(&client).await;
    }
    running.end().await;
}

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
    assert_eq!(soon("the run ends", worker.run_until_idle()).await.expect("run").completed, 600);
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.total(), counts.scheduled), (1, 1));
    assert_eq!(soon("the run ends", worker.run_until_idle()).await.expect("run"), Summary::default());
}

#[tokio::test]
async fn a_run_that_ends_reports_a_storage_that_fails() {
    let (client, pool, schema) = client().await;
    sql(&pool, &schema, "drop view S.jobs; drop table S._private_jobs cascade").await;
    let worker = Worker::builder(client).task(task_fn("t", |(): (), _: JobContext| async {})).build().expect("worker");
    let error = soon("the run ends", worker.run_until_idle()).await.expect_err("no table");
    assert!(error.is_missing(), "{error}");
}

// --- settings --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_with_the_reason() {
    let client = BackfillClient::with_storage(postgres().await);
    let task = || task_fn("t", |(): (), _: JobContext| async {});
    let s = Duration::from_secs;
    let cases = [
        (Worker::builder(client.clone()), "neither tasks nor a crontab"),
        (Worker::builder(client.clone()).task(task()).task(task()), "two tasks have the name \"t\""),
        (Worker::builder(client.clone()).task(task()).concurrency(0), "concurrency is 0"),
        (Worker::builder(client.clone()).task(task()).poll_interval(Duration::ZERO), "poll interval is 0ns"),
        (
            Worker::builder(client.clone()).task(task()).heartbeat_every(s(5)).dead_after(s(12)),
            "at least two and a half times",
        ),
        (Worker::builder(client.clone()).task(task()).concurrency(usize::MAX), "from 1 to 1000000"),
        (Worker::builder(client.clone()).task(task()).grace(Duration::MAX), "at most a year"),
        (Worker::builder(client.clone()).task(task()).poll_interval(Duration::MAX), "at most a year"),
        (
            Worker::builder(client.clone()).task(task()).heartbeat_every(s(5)).dead_after(Duration::MAX),
            "at most a year",
        ),
        (Worker::builder(client).task(task_fn("", |(): (), _: JobContext| async {})), "task name"),
    ];
    for (builder, says) in cases {
        let error = builder.build().expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Jobs of a held queue before all others, so many that walking over them takes long.
const STUCK: &str = "
insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody');
insert into S._private_jobs (task_id, payload, priority, job_queue_id)
select task.id, '7', -1, queue.id
from S._private_tasks task, S._private_job_queues queue, generate_series(1, 40000)
where queue.queue_name = 'held' and task.identifier = 't'";

#[tokio::test]
async fn what_becomes_ready_before_the_place_where_claims_begin_is_found_too() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 0)).await.expect("add");
    sql(&pool, &schema, STUCK).await;
    let (ran_tx, mut ran) = mpsc::unbounded_channel();
    let task = task_fn("t", move |n: u32, _: JobContext| {
        ran_tx.send(n).expect("open");
        async {}
    });
    let running = Running::start(Worker::builder(client.clone()).task(task).concurrency(1));
    assert_eq!(soon("the free one runs", ran.recv()).await, Some(0));
    for n in 1..=5 {
        client.add(JobSpec::new("t", n).priority(-5)).await.expect("add");
        assert_eq!(soon("the urgent one runs", ran.recv()).await, Some(n));
        client.add(JobSpec::new("t", n + 100)).await.expect("add");
        assert_eq!(soon("the ordinary one runs", ran.recv()).await, Some(n + 100));
    }
    sql(&pool, &schema, "update S._private_job_queues set locked_at = null, locked_by = null").await;
    assert_eq!(soon("a job of the queue runs", ran.recv()).await, Some(7));
    running.end().await;
}

#[tokio::test]
async fn a_run_that_ends_when_idle_passes_nothing_by() {
    let (client, pool, schema) = client().await;
    client.add_many((0..60).map(|n| JobSpec::new("t", n))).await.expect("add");
    sql(&pool, &schema, STUCK).await;
    let adder = client.clone();
    let task = task_fn("t", move |n: u32, _: JobContext| {
        let adder = adder.clone();
        async move {
            if n < 60 {
                adder.add(JobSpec::new("t", 100).priority(-5)).await.expect("add");
            }
        }
    });
    let worker = Worker::builder(client.clone()).task(task).concurrency(3).build().expect("a worker");
    assert_eq!(soon("it ends", worker.run_until_idle()).await.expect("run").completed, 120);
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

#[tokio::test(start_paused = true)]
async fn polls_are_spread_by_a_tenth_around_their_interval() {
    let hour = Duration::from_hours(1);
    let worker = Worker::builder(BackfillClient::in_memory())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .poll_interval(Duration::from_secs(10))
        .listen(false)
        .heartbeat_every(hour)
        .dead_after(hour * 24 * 365)
        .sweep_interval(hour * 24, hour * 48)
        .handle_signals(false)
        .build()
        .expect("a worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    let mut polls = Vec::new();
    // The clock of this test stands still while anybody works, and leaps to what is waited for otherwise.
    while polls.len() < 300 {
        if let Event::Claiming { .. } = events.next().await.expect("it runs") {
            polls.push(tokio::time::Instant::now());
        }
    }
    running.end().await;
    // The first looks come of the start.
    let gaps: Vec<f64> = polls.windows(2).skip(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(gaps.iter().all(|gap| (8.99..=11.02).contains(gap)), "{gaps:?}");
    let (least, most) = (gaps.iter().copied().fold(f64::MAX, f64::min), gaps.iter().copied().fold(0.0, f64::max));
    assert!(least < 9.5 && most > 10.5, "spread evenly, so from {least} to {most}");
}
