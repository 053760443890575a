//! When a failed job runs again.

use std::time::Duration;

use backfill::{Answer, Job, JobContext, JobSpec, JobState, RetryPolicy, TaskError, TaskResult, Worker, task_fn};
use chrono::{TimeDelta, Utc};

use crate::run_one;
use crate::support::{client, sql};

/// How far the written `run_at` lies from now.
fn wait_of(job: &Job) -> f64 {
    (job.run_at - Utc::now()).as_seconds_f64()
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
