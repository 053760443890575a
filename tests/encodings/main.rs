//! Databases that are not in UTF-8, and rows that cannot be read as text.

mod damaged;
mod databases;
mod in_a_file;
mod lacking;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use backfill::storage::{Cleanup, JobFilter, Watch};
use backfill::{BackfillClient, JobContext, Worker, task_fn};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use support::{server_url, unique, url_of};

/// A database of one's own in this encoding.
async fn database_in(encoding: &str) -> PgPool {
    let name = unique("db");
    let server = PgPoolOptions::new().max_connections(1).connect(&server_url()).await.expect("the test server");
    let create = format!("create database {name} template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&server).await.expect("create database");
    server.close().await;
    PgPoolOptions::new().max_connections(20).connect(&url_of(&name)).await.expect("the new database")
}

/// A schema of one's own there.
async fn schema_in(pool: &PgPool) -> (BackfillClient, String) {
    let schema = unique("s");
    (BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("migrate"), schema)
}

/// The cause of each job that failed.
async fn run_all(client: &BackfillClient) -> Vec<(i64, Option<String>)> {
    let handler = task_fn("t", |_: serde_json::Value, _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(handler).handle_signals(false).build().expect("worker");
    support::soon("all are tried", worker.run_until_idle()).await.expect("run");
    let mut left = client.jobs(&JobFilter::new().task("t")).await.expect("jobs");
    left.sort_by_key(|job| job.id);
    left.into_iter().map(|job| (job.id.number(), job.last_error)).collect()
}

const DAMAGED: &str = "the payload is not valid UTF-8, so the task was not started; repair or delete the row";

/// Each worker is rescued with its jobs, whatever its id is.
async fn rescues_all(client: &BackfillClient) {
    let silence = Duration::from_millis(50);
    let storage = client.storage().consumer();
    let rescued = storage.rescue(&Watch::new(silence).contact(silence)).await.expect("rescue");
    let mut rescued: Vec<_> = rescued.into_iter().map(|rescued| (rescued.worker, rescued.jobs)).collect();
    rescued.sort();
    assert_eq!(rescued, [("dead".to_owned(), 1), ("\u{fffd}".to_owned(), 1)]);
    assert_eq!(client.counts().await.expect("counts").running, 1, "of a worker that nobody knows");
    let errors = client.jobs(&JobFilter::new()).await.expect("jobs").into_iter().filter_map(|job| job.last_error);
    assert_eq!(errors.filter(|error| error.contains("stopped sending heartbeats")).count(), 2);
}

/// All that people ask is answered, with replacement characters.
async fn is_told(client: &BackfillClient) {
    let damaged = "\u{fffd}";
    let workers = client.workers().await.expect("workers");
    assert_eq!(workers.iter().filter(|worker| worker.id.contains(damaged)).count(), 2, "{workers:?}");
    let queues = client.queues().await.expect("queues");
    assert!(queues.iter().any(|queue| queue.name == damaged && queue.locked_by.as_deref() == Some(damaged)));
    assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == damaged));
    assert!(
        client
            .storage()
            .require_inspect()
            .expect("inspect")
            .task_names()
            .await
            .expect("names")
            .iter()
            .any(|name| name == damaged)
    );
    assert_eq!(client.crontabs().await.expect("crontabs")[0].identifier, damaged);
    client.storage().require_inspect().expect("inspect").serving().await.expect("serving");
    for check in client.storage().doctor().expect("doctor").diagnose(backfill::storage::Effort::Exact).await {
        let told = format!("{check:?}");
        assert!(!told.contains("invalid byte sequence") && !told.contains("utf-8 sequence"), "{told}");
    }
    client.cleanup(&Cleanup::new().tasks(["t"]).queues()).await.expect("cleanup");
}
