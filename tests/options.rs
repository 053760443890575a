//! What can be set about a worker: limits, time, middleware, flags, prefetch, events, clock.

mod support;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::{
    Answer, BackfillClient, Clock, Event, EventStream, JobContext, JobSpec, Prefetch, RetryPolicy, TaskError, Worker,
    middleware_fn, task_fn,
};
use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use support::running::{Running, empty};
use support::{client, soon, until};
use tokio::sync::Semaphore;

async fn event(events: &mut EventStream, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
    soon(what, async {
        loop {
            let event = events.next().await.expect("the worker runs");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// The highest number of jobs that were inside at the same time.
#[derive(Default)]
struct Gauge {
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    async fn pass(&self, time: Duration) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        tokio::time::sleep(time).await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_with_a_limit_of_its_own_keeps_it_and_does_not_hold_up_others() {
    for client in [client().await.0, BackfillClient::in_memory()] {
        let (gauge, quick) = (Arc::new(Gauge::default()), Arc::new(AtomicUsize::new(0)));
        let (narrow_gauge, quick_count) = (Arc::clone(&gauge), Arc::clone(&quick));
        // The narrow ones are first in line, and there are many of them.
        client.add_many((0..60).map(|n| JobSpec::new("narrow", n).priority(-1))).await.expect("add");
        client.add_many((0..200).map(|n| JobSpec::new("quick", n))).await.expect("add");
        let (open, is_open) = tokio::sync::watch::channel(false);
        let narrow = task_fn("narrow", move |_: u32, _| {
            let (gauge, mut is_open) = (Arc::clone(&narrow_gauge), is_open.clone());
            async move {
                is_open.wait_for(|open| *open).await.expect("the test is there");
                gauge.pass(Duration::from_millis(5)).await;
            }
        })
        .concurrency(3);
        let quick_task = task_fn("quick", move |_: u32, _| {
            quick_count.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        let worker = Running::start(Worker::builder(client.clone()).task(narrow).task(quick_task).concurrency(20));
        // None of the narrow ones ends before all of the quick ones have run.
        until("the quick ones are done", || async { quick.load(Ordering::SeqCst) == 200 }).await;
        open.send_replace(true);
        empty(&client).await;
        worker.end().await;
        assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_exceeds_its_timeout_is_cancelled_and_its_attempt_has_failed() {
    let client = BackfillClient::in_memory();
    let cancelled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cancelled);
    let slow = task_fn("slow", move |(): (), ctx: JobContext| {
        let seen = Arc::clone(&seen);
        tokio::spawn({
            let ctx = ctx.clone();
            async move {
                ctx.cancelled().await;
                seen.store(true, Ordering::SeqCst);
            }
        });
        async { std::future::pending::<()>().await }
    })
    .timeout(Duration::from_millis(50))
    .retry(RetryPolicy::fixed(Duration::from_secs(3600)));
    let fine = task_fn("fine", |(): (), _| async {}).timeout(Duration::from_secs(60));
    let job = client.add(JobSpec::new("slow", ())).await.expect("add");
    client.add(JobSpec::new("fine", ())).await.expect("add");
    Worker::builder(client.clone()).task(slow).task(fine).build().expect("worker").run_until_idle().await.expect("run");
    let job = client.job(job.id).await.expect("read").expect("it is there");
    assert_eq!((job.attempts, job.locked_at), (1, None));
    assert_eq!(job.last_error.as_deref(), Some("the job ran longer than its timeout of 50ms"));
    until("what it started was told", || async { cancelled.load(Ordering::SeqCst) }).await;
    assert_eq!(client.counts().await.expect("counts").total(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn middleware_wraps_every_task_from_the_outside_in_and_can_give_and_refuse() {
    #[derive(Debug, PartialEq)]
    struct User(&'static str);
    let client = BackfillClient::in_memory();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = |log: &Arc<Mutex<Vec<String>>>, text: String| log.lock().expect("lock").push(text);
    let (outer, inner, task) = (Arc::clone(&log), Arc::clone(&log), Arc::clone(&log));
    let failing = client.add(JobSpec::new("task", "refuse me")).await.expect("add");
    let panicking = client.add(JobSpec::new("task", "panic")).await.expect("add");
    client.add(JobSpec::new("task", "fine").priority(9)).await.expect("add");
    let summary = Worker::builder(client.clone())
        .task(task_fn("task", move |name: String, ctx: JobContext| {
            note(&task, format!("task {name} for {:?}", ctx.get::<User>().expect("a user")));
            assert!(ctx.get::<String>().is_none());
            async { Ok::<_, TaskError>(Answer::Done) }
        }))
        .middleware(middleware_fn(move |ctx, next| {
            let log = Arc::clone(&outer);
            async move {
                note(&log, format!("before {}", next.task()));
                let result = next.run(ctx.with(User("ada"))).await;
                note(&log, format!("after {}", result.is_ok()));
                result
            }
        }))
        .middleware(middleware_fn(move |ctx, next| {
            let log = Arc::clone(&inner);
            async move {
                let payload: String = ctx.job().payload.decode()?;
                note(&log, format!("inner {payload}"));
                match payload.as_str() {
                    "refuse me" => Err(TaskError::new("not for you").permanent()),
                    "panic" => panic!("middleware broke"),
                    _ => next.run(ctx).await,
                }
            }
        }))
        .concurrency(1)
        .build()
        .expect("worker")
        .run_until_idle()
        .await
        .expect("run");
    assert_eq!((summary.completed, summary.dead, summary.failed), (1, 1, 1));
    let told = log.lock().expect("lock").clone();
    assert_eq!(
        told,
        [
            "before task",
            "inner refuse me",
            "after false",
            "before task",
            "inner panic",
            "before task",
            "inner fine",
            "task fine for User(\"ada\")",
            "after true",
        ]
    );
    let error = |id| {
        let client = client.clone();
        async move { client.job(id).await.expect("read").expect("there").last_error }
    };
    assert_eq!(error(failing.id).await.as_deref(), Some("not for you"));
    assert_eq!(error(panicking.id).await.as_deref(), Some("the task panicked: middleware broke"));
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_flags_are_asked_for_before_each_claim() {
    let (client, _, _) = client().await;
    let answer: Arc<Mutex<Result<Vec<String>, String>>> = Arc::new(Mutex::new(Err("limiter is down".to_owned())));
    let asked = Arc::clone(&answer);
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _| async {}))
        .forbidden_flags_with(move || {
            let answer = asked.lock().expect("lock").clone();
            async move { answer }
        })
        .poll_interval(Duration::from_millis(20))
        .handle_signals(false)
        .build()
        .expect("worker");
    let mut events = worker.events();
    let worker = Running::of(worker);
    client.add_many([JobSpec::new("t", ()).flag("slow"), JobSpec::new("t", ())]).await.expect("add");
    let failed = event(&mut events, "a claim fails", |event| matches!(event, Event::ClaimFailed { .. })).await;
    assert!(matches!(failed, Event::ClaimFailed { error } if error.contains("limiter is down")));
    assert_eq!(client.counts().await.expect("counts").total(), 2, "nothing is claimed while nobody knows");
    *answer.lock().expect("lock") = Ok(vec!["slow".to_owned()]);
    until("the other job is done", || async { client.counts().await.expect("counts").total() == 1 }).await;
    event(&mut events, "a claim finds nothing", |event| matches!(event, Event::Claimed { jobs: 0 })).await;
    assert_eq!(client.jobs(&backfill::JobFilter::new()).await.expect("jobs")[0].flags, ["slow"]);
    *answer.lock().expect("lock") = Ok(Vec::new());
    empty(&client).await;
    worker.end().await;

    let worker = Worker::builder(client.clone()).task(task_fn("t", |(): (), _| async {})).forbidden_flags(["x"]);
    client.add_many([JobSpec::new("t", ()).flag("x"), JobSpec::new("t", ()).flag("y")]).await.expect("add");
    assert_eq!(worker.build().expect("worker").run_until_idle().await.expect("run").completed, 1);
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetched_jobs_start_in_priority_order_and_are_released_at_the_end() {
    let (client, _, _) = client().await;
    let order: Arc<Mutex<Vec<i64>>> = Arc::default();
    let gate = Arc::new(Semaphore::new(0));
    let (seen, wait) = (Arc::clone(&order), Arc::clone(&gate));
    let task = task_fn("t", move |n: i64, _| {
        seen.lock().expect("lock").push(n);
        let wait = Arc::clone(&wait);
        async move { wait.acquire().await.expect("open").forget() }
    });
    client.add_many((1..=20).map(|n| JobSpec::new("t", n).priority(10))).await.expect("add");
    let worker = Running::start(
        Worker::builder(client.clone())
            .task(task)
            .concurrency(1)
            .prefetch(Prefetch::new(50))
            .cancel_after(Duration::ZERO),
    );
    until("they are prefetched", || async { client.counts().await.expect("counts").running == 20 }).await;
    // More urgent, and less than half of the room is taken.
    client.add_many([JobSpec::new("t", 100).priority(0), JobSpec::new("t", 101).priority(-1)]).await.expect("add");
    until("these too", || async { client.counts().await.expect("counts").running == 22 }).await;
    gate.add_permits(3);
    until("some ran", || async { order.lock().expect("lock").len() == 4 }).await;
    assert_eq!(*order.lock().expect("lock"), [1, 101, 100, 2]);
    worker.handle.shutdown();
    until("the others are released", || async { client.counts().await.expect("counts").ready == 18 }).await;
    gate.add_permits(1);
    let summary = worker.end().await;
    assert_eq!((summary.completed, summary.released), (4, 18));
    let jobs = client.jobs(&backfill::JobFilter::new()).await.expect("jobs");
    assert!(jobs.iter().all(|job| job.attempts == 0 && job.locked_by.is_none()), "with their attempt");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetched_jobs_that_wait_for_too_long_are_released_for_others() {
    let (client, _, _) = client().await;
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let task = task_fn("t", move |_: i64, _| {
        let wait = Arc::clone(&wait);
        async move { wait.acquire().await.expect("open").forget() }
    });
    client.add_many((1..=10).map(|n| JobSpec::new("t", n))).await.expect("add");
    let prefetch = Prefetch::new(50).ttl(Duration::from_millis(100));
    let worker = Worker::builder(client.clone()).task(task).concurrency(1).prefetch(prefetch).handle_signals(false);
    let worker = worker.poll_interval(Duration::from_millis(10)).build().expect("worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    event(&mut events, "they are released", |event| matches!(event, Event::Released { jobs: 9 })).await;
    // The first takes them again and again, for a moment each time.
    let others = AtomicUsize::new(0);
    until("another has run them", || async {
        let other = Worker::builder(client.clone()).task(task_fn("t", |_: i64, _| async {})).build().expect("worker");
        let completed = usize::try_from(other.run_until_idle().await.expect("run").completed).expect("few");
        others.fetch_add(completed, Ordering::SeqCst) + completed == 9
    })
    .await;
    gate.add_permits(1);
    empty(&client).await;
    running.end().await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_found_little_is_followed_by_a_pause_that_many_new_jobs_end() {
    let (client, _, _) = client().await;
    let prefetch = Prefetch::new(10).refetch_delay(Duration::from_secs(50), 3).refetch_abort_at(5);
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |_: i64, _| async {}))
        .concurrency(1)
        .prefetch(prefetch)
        .poll_interval(Duration::from_secs(60))
        .handle_signals(false)
        .build()
        .expect("worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    event(&mut events, "it listens", |event| matches!(event, Event::Listening)).await;
    let delayed = event(&mut events, "it pauses", |event| matches!(event, Event::RefetchDelayed { .. })).await;
    assert!(matches!(delayed, Event::RefetchDelayed { found: 0, delay } if delay >= Duration::from_secs(25)));
    client.add_many((1..=10).map(|n| JobSpec::new("t", n))).await.expect("add");
    event(&mut events, "the pause ends", |event| matches!(event, Event::RefetchDelayAborted { .. })).await;
    empty(&client).await;
    running.end().await;

    let build =
        |prefetch| Worker::builder(client.clone()).task(task_fn("t", |_: i64, _| async {})).prefetch(prefetch).build();
    let error = build(Prefetch::new(10).refetch_delay(Duration::from_secs(3), 0)).unwrap_err().to_string();
    assert!(error.contains("refetch delay is 3s, longer than the poll interval of 2s"), "{error}");
    assert!(build(Prefetch::new(0)).unwrap_err().to_string().contains("prefetch is 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_what_happens_to_a_job_in_order() {
    // In memory, since the databases' notifications are shared with other tests.
    let client = BackfillClient::in_memory();
    let worker = Worker::builder(client.clone())
        .task(task_fn("good", |(): (), _| async {}))
        .task(task_fn("bad", |(): (), _| async { Err::<(), _>("no") }))
        .task(task_fn("later", |(): (), _| async { Answer::snooze(Duration::from_secs(900)) }))
        .handle_signals(false)
        .build()
        .expect("worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    let started = event(&mut events, "it starts", |event| matches!(event, Event::Started { .. })).await;
    assert!(matches!(started, Event::Started { tasks, concurrency: 10, .. } if tasks == ["bad", "good", "later"]));
    event(&mut events, "it listens", |event| matches!(event, Event::Listening)).await;
    let story = |spec: JobSpec| {
        let client = client.clone();
        async move { client.add(spec).await.expect("add").id }
    };
    // A claim that was under way may find a job before its notification is read, so that only what
    // is told of the job itself has an order.
    let mut notified = 0;
    for (spec, what) in [
        (JobSpec::new("good", ()), "succeeded"),
        (JobSpec::new("bad", ()), "failed"),
        (JobSpec::new("bad", ()).max_attempts(1), "dead"),
        (JobSpec::new("later", ()), "snoozed"),
    ] {
        let id = story(spec).await;
        let mut told = Vec::new();
        while told.last() != Some(&"written") {
            let told_now = match soon("something happens", events.next()).await.expect("the worker runs") {
                Event::Notified { count } => {
                    notified += count;
                    continue;
                }
                Event::JobStarted { job } if job.id == id => "started",
                Event::JobSucceeded { job, .. } if job.id == id => "succeeded",
                Event::JobFailed { job, error, .. } if job.id == id && error == "no" => "failed",
                Event::JobDead { job, error, .. } if job.id == id && error == "no" => "dead",
                Event::JobSnoozed { job, .. } if job.id == id => "snoozed",
                Event::Written { jobs, stale } if jobs == [id] && stale.is_empty() => "written",
                Event::Claiming { .. } | Event::Claimed { .. } | Event::Holding { .. } => continue,
                other => panic!("{other:?}"),
            };
            told.push(told_now);
        }
        assert_eq!(told, ["started", what, "written"]);
    }
    while notified < 4 {
        let told = event(&mut events, "it is notified", |event| matches!(event, Event::Notified { .. })).await;
        let Event::Notified { count } = told else { unreachable!() };
        notified += count;
    }
    assert_eq!(notified, 4);
    running.end().await;
    event(&mut events, "it comes to an end", |event| matches!(event, Event::ShuttingDown { forced: false, .. })).await;
    let ended = event(&mut events, "it has ended", |event| matches!(event, Event::Ended { .. })).await;
    assert!(matches!(ended, Event::Ended { summary: Some(summary), error: None } if summary.completed == 1));
    assert!(events.next().await.is_none(), "the worker is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_sleeps_does_not_hold_the_worker_up_and_learns_what_it_missed() {
    let client = BackfillClient::in_memory();
    client.add_many((0..500).map(|n| JobSpec::new("t", n))).await.expect("add");
    let worker = Worker::builder(client.clone()).task(task_fn("t", |_: i64, _| async {})).event_capacity(16);
    let worker = worker.build().expect("worker");
    let mut events = worker.events();
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 500);
    drop(worker);
    let first = events.next().await.expect("an event");
    assert!(matches!(first, Event::Lagged { missed } if missed > 900), "{first:?}");
    assert_eq!(events.count().await, 16);
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_another_clock_jobs_are_ready_when_that_clock_says_so() {
    let (client, _, _) = client().await;
    let offset = Arc::new(AtomicI64::new(-7200));
    let seconds = Arc::clone(&offset);
    let clock = Clock::custom(move || Utc::now() + TimeDelta::seconds(seconds.load(Ordering::SeqCst)));
    let mine = client.clone().with_clock(clock);
    let now = mine.add(JobSpec::new("t", 1)).await.expect("add");
    assert!((now.run_at - Utc::now() + TimeDelta::hours(2)).abs() < TimeDelta::minutes(1), "now, by that clock");
    let later = mine.add(JobSpec::new("t", 2).run_in(Duration::from_secs(3600))).await.expect("add");
    assert!(later.run_at < Utc::now(), "by the database's clock it is ready");
    let worker = || Worker::builder(mine.clone()).task(task_fn("t", |_: i64, _| async {})).build().expect("worker");
    assert_eq!(worker().run_until_idle().await.expect("run").completed, 1);
    assert!(client.job(later.id).await.expect("read").is_some());
    offset.store(-1800, Ordering::SeqCst);
    assert_eq!(worker().run_until_idle().await.expect("run").completed, 1);
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_with_the_value() {
    let client = BackfillClient::in_memory();
    let task = || task_fn("t", |(): (), _| async {});
    let builder = || Worker::builder(client.clone());
    for (builder, says) in [
        (builder(), "neither tasks nor a crontab"),
        (builder().task(task().concurrency(0)), "\"t\" may run 0 jobs"),
        (builder().task(task().timeout(Duration::ZERO)), "timeout of 0ns"),
        (
            builder().task(task()).sweep_interval(Duration::from_secs(2), Duration::from_secs(1)),
            "sweeps every 2s to 1s",
        ),
        (builder().task(task()).event_capacity(0), "event capacity is 0"),
        (builder().task(task()).forbidden_flags(["a\0"]), "NUL"),
        (builder().task(task()).prefetch(Prefetch::new(2_000_000)), "2000000"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_takes_up_new_tasks_and_leaves_those_that_it_has_no_more() {
    for client in [client().await.0, BackfillClient::in_memory()] {
        let open = Arc::new(Semaphore::new(0));
        let (ran, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&open));
        let held = || {
            let gate = Arc::clone(&gate);
            task_fn("held", move |(): (), _| {
                let gate = Arc::clone(&gate);
                async move { gate.acquire().await.expect("it is open").forget() }
            })
        };
        let noted = |name: &'static str| {
            let ran = Arc::clone(&ran);
            task_fn(name, move |n: u32, _| {
                ran.lock().expect("no panic").push((name, n));
                async {}
            })
        };
        let worker = Worker::builder(client.clone()).task(held()).task(noted("old")).handle_signals(false);
        let worker = Arc::new(worker.build().expect("worker"));
        let (running, handle) = (Arc::clone(&worker), worker.shutdown_handle());
        let run = tokio::spawn(async move { running.run().await });
        // One runs when its task goes away.
        let first = client.add(JobSpec::new("held", ())).await.expect("add");
        until("it runs", || async {
            client.job(first.id).await.expect("read").is_some_and(|job| job.locked_by.is_some())
        })
        .await;
        client.add(JobSpec::new("new", 1)).await.expect("add");
        assert!(worker.handle().set_tasks([noted("new"), noted("new")]).is_err(), "and nothing changes");
        worker.handle().set_tasks([noted("new").concurrency(1), noted("other")]).expect("they go together");
        assert_eq!(worker.tasks(), ["new", "other"]);
        until("the new task's job is done", || async { *ran.lock().expect("no panic") == [("new", 1)] }).await;
        let told = || async {
            let workers = client.storage().require_inspect().expect("inspect").serving().await.expect("serving");
            workers.into_iter().find_map(|worker| worker.tasks).is_some_and(|tasks| tasks == ["new", "other"])
        };
        until("it is told", told).await;
        open.add_permits(1);
        until("what ran has ended", || async { client.job(first.id).await.expect("read").is_none() }).await;
        // Jobs one by one may be handed off to the worker.
        let left = client.add(JobSpec::new("old", 2)).await.expect("add");
        for n in 3..10 {
            client.add(JobSpec::new("other", n)).await.expect("add");
        }
        until("they are done", || async { ran.lock().expect("no panic").len() == 8 }).await;
        let left = client.job(left.id).await.expect("read").expect("it waits");
        assert_eq!((left.attempts, left.locked_by), (0, None));
        handle.shutdown();
        soon("it ends", run).await.expect("no panic").expect("run");
        assert!(client.storage().require_inspect().expect("inspect").serving().await.expect("serving").is_empty());
    }
}
