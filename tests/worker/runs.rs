//! Runs that end when there is nothing to do, and settings with which none begins.

use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, Summary, Worker, task_fn};

use crate::support::{client, postgres, soon, sql};

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
