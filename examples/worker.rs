//! A worker binary: logs, settings from the environment, and an orderly end on SIGINT, SIGTERM or SIGHUP.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/app cargo run --example worker
//! ```
//!
//! Add jobs to it from anywhere, for example with
//! `psql -c "select graphile_worker.add_job('greet', '\"Ada\"')"`, and press Ctrl-C to end it.

use std::time::Duration;

use backfill::{BackfillClient, JobContext, TaskError, Worker, task_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to the database that has the jobs")?;
    let concurrency = std::env::var("CONCURRENCY").ok().and_then(|text| text.parse().ok()).unwrap_or(10);

    let worker = Worker::builder(BackfillClient::new(&url).await?)
        .task(task_fn("greet", |name: String, ctx: JobContext| async move {
            tracing::info!(job = %ctx.job().id, "hello {name}");
        }))
        .task(task_fn("long", |seconds: u64, ctx: JobContext| async move {
            // Work in steps, and stop between them when the worker is asked to end.
            for _ in 0..seconds {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = ctx.cancelled() => return Err(TaskError::new("stopped half-way").retry_in(Duration::ZERO)),
                }
            }
            Ok(())
        }))
        .concurrency(concurrency)
        .build()?;
    let summary = worker.run().await?;
    tracing::info!(?summary, "bye");
    Ok(())
}
