//! Which jobs a worker may take: flags that are forbidden, and another clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::{Clock, Event, JobSpec, Worker, task_fn};
use chrono::{TimeDelta, Utc};

use crate::event;
use crate::support::running::{Running, empty};
use crate::support::{client, until};

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
