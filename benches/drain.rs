//! How fast one worker process drains no-op jobs, beside Node's graphile-worker with batching off, on one database; and
//! how much memory an idle worker takes. Run it with `./scripts/bench drain`.
//!
//! The competitors take turns (A B A B …), each on a schema of its own with the same jobs. A run is timed from the start
//! of the worker process's work to the moment at which the database holds no job any more, so only durably finished jobs
//! count. The table is analysed before each run, which favours Node.

use std::process::Stdio;
use std::time::{Duration, Instant};

use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::process::Command;

const JOBS: usize = 20_000;
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
    println!("{JOBS} no-op jobs, concurrency {CONCURRENCY}, {ROUNDS} rounds in turn");
    println!("{:>6} {:>14} {:>14} {:>8}", "round", "ours jobs/s", "Node jobs/s", "ratio");
    let (mut ours, mut node, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let a = drain_ours(&url, &pool).await?;
        let b = drain_node(&url, &pool).await?;
        println!("{round:>6} {a:>14.0} {b:>14.0} {:>8.1}", a / b);
        ours.push(a);
        node.push(b);
        ratios.push(a / b);
    }
    for (name, figures) in [("ours", &mut ours), ("Node", &mut node), ("ratio", &mut ratios)] {
        figures.sort_by(f64::total_cmp);
        println!("{name}: median {:.1}, min {:.1}, max {:.1}", figures[ROUNDS / 2], figures[0], figures[ROUNDS - 1]);
    }
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

async fn drain_ours(url: &str, pool: &PgPool) -> Result<f64, AnyError> {
    let worker = worker(fill(url, pool).await?)?;
    let handle = worker.shutdown_handle();
    let begin = Instant::now();
    let running = tokio::spawn(async move { worker.run().await });
    let rate = drained(pool, begin).await?;
    handle.shutdown();
    running.await??;
    Ok(rate)
}

async fn drain_node(url: &str, pool: &PgPool) -> Result<f64, AnyError> {
    fill(url, pool).await?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/node/drain.mjs");
    let directory = std::env::var("BACKFILL_TEST_NODE_DIR")?;
    let mut child = Command::new(std::env::var("BACKFILL_TEST_NODE")?)
        .args([script, url, SCHEMA, &CONCURRENCY.to_string()])
        .current_dir(&directory)
        .env("PACKAGES", &directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    // Starting Node takes a while; its clock starts when its first job has been taken.
    loop {
        let waiting: i64 =
            sqlx::query_scalar("select count(*) from graphile_worker._private_jobs where locked_at is null")
                .fetch_one(pool)
                .await?;
        if usize::try_from(waiting)? < JOBS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = drained(pool, Instant::now()).await?;
    drop(child.stdin.take());
    child.wait().await?;
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
