//! One program, whose URL alone says where its jobs are.

#[path = "../crates/backfill-redis/tests/redis_server/mod.rs"]
mod redis_server;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{
    Answer, BackfillClient, Crontab, JobContext, JobKeyMode, JobSpec, JobState, RetryPolicy, Summary, Task,
    TaskPayload, TaskResult, Worker, handler, task_fn,
};
use support::running::{Running, empty};
use tempfile::TempDir;

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct Double(i64);

async fn double(Double(number): Double) {
    assert!(number < 100, "too much");
}

/// Many items in one job, of which the odd ones need a second attempt.
#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct Items(Vec<u32>);

struct RunItems;

impl Task for RunItems {
    type Payload = Items;
    type Output = TaskResult;

    async fn run(&self, Items(items): Items, ctx: JobContext) -> TaskResult {
        let first = ctx.job().attempts == 1;
        assert_eq!(items, if first { vec![0, 1, 2, 3] } else { vec![1, 3] }, "what is done is not done again");
        Ok(Answer::items(items.into_iter().map(|n| if first && n % 2 == 1 { Err(format!("bad {n}")) } else { Ok(()) })))
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::fixed(Duration::ZERO)
    }
}

/// Adds jobs of all kinds, and leaves them waiting.
async fn fill(client: &BackfillClient) {
    client.add_many((0..50).map(Double)).await.expect("add");
    client.add_many((0..9).map(|n| JobSpec::new("ordered", n).serial_queue("q"))).await.expect("add");
    for n in 0..5 {
        client.add(JobSpec::new("once", n).key("k").key_mode(JobKeyMode::PreserveRunAt)).await.expect("add");
    }
    client.add(Double(100)).max_attempts(3).await.expect("add");
    // Two adds under one key are one job.
    for items in [[0, 1], [2, 3]] {
        client.add(Items(items.into())).key("items").await.expect("add");
    }
    client.add(JobSpec::new("urgent", ()).priority(-20).flag("f")).await.expect("add");
}

/// Runs what is there and what a crontab adds; answers what was done.
async fn work(client: &BackfillClient) -> Summary {
    let ordered = Arc::new(AtomicUsize::new(0));
    let in_order = ordered.clone();
    let worker = Worker::builder(client.clone())
        .task(handler(double).retry(RetryPolicy::fixed(Duration::ZERO)))
        .task(RunItems)
        .task(task_fn("ordered", move |n: usize, _: JobContext| {
            let in_order = in_order.clone();
            async move { assert_eq!(in_order.fetch_add(1, Ordering::SeqCst), n, "in their order") }
        }))
        .task(task_fn("once", |_: u8, _: JobContext| async {}))
        .task(task_fn("urgent", |(): (), _: JobContext| async {}))
        .task(task_fn("tick", |_: serde_json::Value, _: JobContext| async {}))
        .crontab("0 * * * * tick ?fill=90m".parse::<Crontab>().expect("a crontab"));
    let past = chrono::Utc::now() - chrono::TimeDelta::hours(2);
    client
        .storage()
        .require_schedules()
        .expect("schedules")
        .register_crontabs(&["tick".to_owned()], past)
        .await
        .expect("register");
    let running = Running::start(worker);
    support::until("the crontab is caught up", || async {
        client.crontabs().await.expect("crontabs")[0].last_execution.is_some()
    })
    .await;
    support::until("nothing is left but the dead", || async { client.counts().await.expect("counts").alive() == 0 })
        .await;
    let summary = running.end().await;
    assert_eq!(ordered.load(Ordering::SeqCst), 9);
    let dead = client.jobs(&backfill::JobFilter::new().state(JobState::Dead)).await.expect("list");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].attempts, 3);
    assert!(dead[0].last_error.as_deref().is_some_and(|error| error.contains("too much")), "{:?}", dead[0].last_error);
    client.complete(&[dead[0].id]).await.expect("complete");
    empty(client).await;
    summary
}

async fn runs_at(url: &str) {
    let client = BackfillClient::new(url).await.expect("open");
    fill(&client).await;
    let summary = work(&client).await;
    // And the hours of the crontab: one or two lie within ninety minutes, and a new one may begin at this moment.
    assert!((63..=65).contains(&summary.completed), "{url}: {summary:?}");
    assert_eq!(summary.failed, 4, "{url}: three of the dead job, and the items'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_program_runs_in_memory_and_on_a_file() {
    let directory = TempDir::new().expect("a directory");
    runs_at("memory:").await;
    runs_at(&format!("sqlite://{}/jobs.db", directory.path().display())).await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_program_runs_on_a_server() {
    let (_pool, server) = support::database().await;
    runs_at(&server).await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs Redis: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_program_runs_on_redis() {
    runs_at(&redis_server::Server::start(&["--appendonly", "no"]).url()).await;
}
