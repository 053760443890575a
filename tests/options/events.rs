//! What a worker tells of itself.

use std::time::Duration;

use backfill::{Answer, BackfillClient, Event, JobSpec, Worker, task_fn};
use futures::StreamExt;

use crate::event;
use crate::support::running::Running;
use crate::support::soon;

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
