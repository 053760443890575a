//! Tasks alone, and what jobs lead to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::testing::{EventRecorder, TestQueue, job, job_named, within};
use backfill::{
    Answer, Event, JobContext, JobSpec, RetryPolicy, Task, TaskError, TaskResult, handler, middleware_fn, task_fn,
};
use serde_json::{Value, json};

use crate::{SendInvoice, Welcome, on_each, panic_in, panic_of, send_invoice, welcome};

on_each! {
    async fn jobs_run_with_what_they_add_in_turn(queue: TestQueue) {
        let first = task_fn("first", |n: u32, ctx: JobContext| async move {
            ctx.client().add(JobSpec::new("second", n)).await?;
            ctx.add_when_done(JobSpec::new("third", n))
        });
        let quiet = |name| task_fn(name, |_: u32, _: JobContext| async {});
        queue.client().add_many((0..3).map(|n| JobSpec::new("first", n))).await.expect("add");
        let worker = queue.worker().task(first).task(quiet("second")).task(quiet("third"));
        let report = queue.drain(worker).until_idle().at_most(9).await;
        report.assert_all_done().done().count(job_named("third"), 3);
        assert_eq!(report.started(), 9);
        assert_eq!(report.to_string(), "first: 3 done\nsecond: 3 done\nthird: 3 done\n");
        queue.assert_no_jobs_left().await;
    }

    async fn each_end_of_a_job_is_in_the_report(queue: TestQueue) {
        let task = task_fn("t", |how: String, _: JobContext| async move {
            match how.as_str() {
                "done" => Ok(Answer::Done),
                "failed" => Err(TaskError::new("not now")),
                "dead" => Err(TaskError::new("never").permanent()),
                _ => Ok(Answer::snooze(Duration::from_secs(60))),
            }
        });
        let hows = ["done", "failed", "dead", "put off"];
        queue.client().add_many(hows.map(|how| JobSpec::new("t", how))).await.expect("add");
        let report = queue.drain(queue.worker().task(task)).await;
        report.done().one(job_named("t").payload_is(json!("done")));
        report.failed().one(job_named("t").payload_is(json!("failed")).last_error("not now"));
        report.dead().one(job_named("t").payload_is(json!("dead")).last_error("never"));
        report.snoozed().one(job_named("t").payload_is(json!("put off")));
        let text = panic_of(|| report.assert_all_done());
        assert!(text.contains("expected all jobs to be done") && text.contains("error \"never\""), "{text}");
    }

    async fn a_job_that_adds_itself_again_hits_the_bound(queue: TestQueue) {
        let again = task_fn("again", |n: u32, ctx: JobContext| async move {
            ctx.client().add(JobSpec::new("again", n + 1)).await.map(drop)
        });
        queue.client().add(JobSpec::new("again", 0)).await.expect("add");
        let text = panic_in(async { queue.drain(queue.worker().task(again)).at_most(20).await }).await;
        assert!(text.starts_with("more than 20 jobs were started at tests/testing_kit/running.rs:"), "{text}");
        assert!(text.contains("again: ") && text.contains(" done"), "{text}");
    }

    async fn an_add_runs_its_job_at_once_and_fails_with_it(queue: TestQueue) {
        let greet = task_fn("greet", |(), ctx: JobContext| async move {
            ctx.add_when_done(welcome("ada@example.com"))
        });
        let welcomed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&welcomed);
        let count = move |_: Welcome| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {}
        };
        let snooze = task_fn("later", |(), _: JobContext| async { Answer::snooze(Duration::from_secs(3600)) });
        let jobs = queue.inline(queue.worker().task(send_invoice).task(greet).task(count).task(snooze));
        jobs.add(SendInvoice { order: 17 }).await.expect("it is done");
        let error = jobs.add(SendInvoice { order: 0 }).await.expect_err("it fails").to_string();
        assert_eq!(error, "could not run the job at once: there is no order 0");
        jobs.add(JobSpec::new("greet", ())).await.expect("it is done");
        assert_eq!(welcomed.load(Ordering::SeqCst), 1, "what follows it ran too");
        let error = jobs.add(JobSpec::new("nobody", ())).await.expect_err("it has no task").to_string();
        assert!(error.contains("the task \"nobody\" is not registered"), "{error}");
        queue.assert_no_jobs_left().await;
        jobs.add(SendInvoice { order: 0 }).run_in(Duration::from_secs(60)).await.expect("it is of the future");
        jobs.add(JobSpec::new("later", ())).await.expect("it is put off");
        queue.jobs().await.one(job::<SendInvoice>());
        queue.jobs().await.one(job_named("later").due_in(within("1h", "1m")));
    }

    async fn events_are_kept(queue: TestQueue) {
        queue.client().add(SendInvoice { order: 17 }).await.expect("add");
        let worker = queue.worker().task(send_invoice).build().expect("worker");
        let mut events = EventRecorder::of(&worker);
        worker.run_until_idle().await.expect("run");
        let ended = events.wait_for("60s", |event| matches!(event, Event::Ended { .. })).await;
        assert!(matches!(ended, Event::Ended { summary: Some(summary), .. } if summary.completed == 1));
        assert!(events.seen().iter().any(|event| matches!(event, Event::JobSucceeded { .. })));
        let text = panic_in(async { events.wait_for("0s", |event| matches!(event, Event::JobDead { .. })).await }).await;
        assert!(text.contains("no such event was told") && text.contains("JobSucceeded"), "{text}");
    }
}

struct Mailer;

impl Task for Mailer {
    type Payload = Welcome;
    type Output = TaskResult;

    async fn run(&self, mail: Welcome, ctx: JobContext) -> TaskResult {
        match mail.to.as_str() {
            "panic" => panic!("no paper"),
            "never" => std::future::pending().await,
            "dead" => Err(TaskError::new("no such address").permanent()),
            "later" => Ok(Answer::snooze(Duration::from_secs(600))),
            "follow" => {
                ctx.add_when_done(JobSpec::new("count", ctx.job().attempts))?;
                Ok(Answer::Done)
            }
            "fail" => {
                ctx.add_when_done(JobSpec::new("count", 1))?;
                Err(TaskError::new("mailer is away"))
            }
            _ => Ok(Answer::Done),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(5))
    }
}

#[tokio::test]
async fn a_task_alone_goes_the_way_of_a_worker() {
    let queue = TestQueue::memory();
    let perform = |to: &str| queue.perform(Mailer, welcome(to));
    perform("ada@example.com").await.assert_done();
    perform("fail").attempt(3).await.assert_failed("mailer is away").retried_in(within("20s", "1s"));
    perform("panic").await.assert_failed("the task panicked: no paper").retried_in(within("3s", "1s"));
    perform("never").await.assert_failed("longer than its timeout of 5ms");
    perform("dead").await.assert_dead();
    perform("fail").attempt(25).await.assert_dead();
    perform("fail").attempt(2).max_attempts(2).await.assert_dead();
    perform("later").await.assert_snoozed(within("10m", "1s"));
    let done = perform("follow").attempt(2).await;
    assert_eq!(done.follow_ups().one(job_named("count")).payload, 2);
    assert!(perform("fail").await.follow_ups().is_empty(), "nothing follows what failed");
    queue.assert_no_jobs_left().await;
}

#[tokio::test]
async fn a_failing_assertion_of_a_task_tells_what_came_of_it() {
    let queue = TestQueue::memory();
    let perform = |to: &str| queue.perform(Mailer, welcome(to));
    let (done, failed, dead) = (perform("").await, perform("fail").await, perform("dead").await);
    let later = perform("later").await;
    let last = perform("fail").attempt(25).await;
    for (text, expected) in [
        (
            panic_of(|| failed.assert_done()),
            r#"expected welcome to be done, and it failed with "mailer is away" and is tried again in 3s"#,
        ),
        (panic_of(|| done.assert_failed("away")), r#"expected welcome to fail with "away", and it is done"#),
        (
            panic_of(|| failed.assert_failed("home")),
            r#"expected welcome to fail with "home", and it failed with "mailer is away" and is tried again in 3s"#,
        ),
        (
            panic_of(|| dead.assert_failed("address")),
            r#"expected welcome to fail with "address", and it is dead: the task gave up with "no such address""#,
        ),
        (
            panic_of(|| last.retried_in(within("1s", "1s"))),
            r#"expected welcome to be tried again in 1s ± 1s, and it is dead: attempt 25 of 25 failed with "mailer is away""#,
        ),
        (panic_of(|| later.assert_dead()), "expected welcome to be dead, and it is put off and due in 10m"),
        (
            panic_of(|| done.assert_snoozed(within("1s", "1s"))),
            "expected welcome to be put off for 1s ± 1s, and it is done",
        ),
    ] {
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn items_that_failed_are_left() {
    let queue = TestQueue::memory();
    let task = task_fn("batch", |items: Vec<u32>, _: JobContext| async move {
        Answer::items(items.into_iter().map(|n| if n % 2 == 0 { Ok(()) } else { Err(format!("{n} is odd")) }))
    });
    let done = queue.perform(task.clone(), [1, 2, 3]).await;
    done.assert_failed("3 is odd");
    assert_eq!(done.items_left(), Some(vec![json!(1), json!(3)]));
    assert_eq!(queue.perform(task, [2]).await.assert_done().items_left(), None);
}

fn refuse() -> impl backfill::Middleware {
    middleware_fn(|ctx, next| async move {
        if ctx.job().payload.decode::<Value>().is_ok_and(|invoice| invoice["order"] == 99) {
            return Err("refused by the middleware".into());
        }
        next.run(ctx).await
    })
}

#[tokio::test]
async fn a_workers_middleware_and_policy_hold_for_a_task_alone() {
    let queue = TestQueue::memory();
    let task = handler(send_invoice).retry(RetryPolicy::fixed(Duration::from_secs(600)));
    let worker = || queue.worker().task(task.clone()).middleware(refuse());
    queue.perform_by(worker(), SendInvoice { order: 17 }).await.assert_done();
    let refused = queue.perform_by(worker(), SendInvoice { order: 99 }).await;
    refused.assert_failed("refused by the middleware").retried_in(within("10m", "1s"));
}

#[tokio::test]
async fn a_task_that_takes_a_context_is_called_as_a_function() {
    async fn remind(to: Welcome, ctx: JobContext) -> backfill::Result<()> {
        ctx.client().add(JobSpec::new("mail", to.to)).key(format!("mail {}", ctx.job().attempts)).await.map(drop)
    }
    let queue = TestQueue::memory();
    let ctx = queue.context(welcome("ada@example.com"));
    remind(welcome("ada@example.com"), ctx).await.expect("reminded");
    queue.jobs().await.one(job_named("mail").key("mail 1"));
}
