//! How fast one worker drains no-op jobs, and how much memory an idle worker takes; ours alone, in a minute. `bench/` measures
//! much more, beside peers. Run it with `./scripts/bench drain`.
//!
//! A run is timed from the start of the worker to the moment at which the database holds no job any more, so only durably
//! finished jobs count.

use std::process::Stdio;
use std::time::{Duration, Instant};

use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::process::Command;

const JOBS: usize = 100_000;
const CONCURRENCY: usize = 24;
const ROUNDS: usize = 5;
const SCHEMA: &str = "graphile_worker";

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // `cargo bench` passes flags of its own harness, and `cargo test` builds and runs this without a server.
    let Ok(url) = std::env::var("BACKFILL_BENCH_DATABASE_URL") else {
        println!("BACKFILL_BENCH_DATABASE_URL is not set; run ./scripts/bench drain");
        return Ok(());
    };
    if std::env::var_os("BACKFILL_BENCH_CHILD").is_some() {
        worker(BackfillClient::new(&url).await?)?.run().await?;
        return Ok(());
    }
    let pool = PgPoolOptions::new().max_connections(4).connect(&url).await?;
    println!("{JOBS} no-op jobs, concurrency {CONCURRENCY}, {ROUNDS} rounds");
    let mut rates = Vec::new();
    for round in 1..=ROUNDS {
        let rate = drain(&url, &pool).await?;
        println!("round {round}: {rate:.0} jobs/s");
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("median {:.0}, min {:.0}, max {:.0} jobs/s", rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1]);
    idle_memory().await
}

fn worker(client: BackfillClient) -> backfill::Result<Worker> {
    Worker::builder(client)
        .task(task_fn("noop", |_: serde_json::Value, _: JobContext| async {}))
        .concurrency(CONCURRENCY)
        .build()
}

/// A fresh schema with the jobs in it.
async fn fill(url: &str, pool: &PgPool) -> Result<BackfillClient, AnyError> {
    sqlx::query("drop schema if exists graphile_worker cascade").execute(pool).await?;
    let client = BackfillClient::new_with_schema(url, SCHEMA).await?;
    client.add_many((0..JOBS).map(|n| JobSpec::new("noop", serde_json::json!({ "n": n })))).await?;
    sqlx::query("vacuum analyze graphile_worker._private_jobs").execute(pool).await?;
    sqlx::query("checkpoint").execute(pool).await?;
    Ok(client)
}

/// Waits until the database holds no job, and answers jobs per second since `begin`.
async fn drained(pool: &PgPool, begin: Instant) -> Result<f64, AnyError> {
    loop {
        let any: bool =
            sqlx::query_scalar("select exists (select from graphile_worker._private_jobs)").fetch_one(pool).await?;
        if !any {
            #[allow(clippy::cast_precision_loss)]
            return Ok(JOBS as f64 / begin.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn drain(url: &str, pool: &PgPool) -> Result<f64, AnyError> {
    let worker = worker(fill(url, pool).await?)?;
    let handle = worker.shutdown_handle();
    let begin = Instant::now();
    let running = tokio::spawn(async move { worker.run().await });
    let rate = drained(pool, begin).await?;
    handle.shutdown();
    running.await??;
    Ok(rate)
}

/// The resident memory of a worker process with nothing to do.
async fn idle_memory() -> Result<(), AnyError> {
    let mut child = Command::new(std::env::current_exe()?)
        .env("BACKFILL_BENCH_CHILD", "1")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().ok_or("the child has ended")?))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown").trim();
    println!("resident memory of an idle worker process after 5 s: {resident}");
    child.kill().await?;
    Ok(())
}
