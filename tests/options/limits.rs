//! Limits of a task: how many of its jobs run at once, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, RetryPolicy, Worker, task_fn};

use crate::support::running::{Running, empty};
use crate::support::{client, until};

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
