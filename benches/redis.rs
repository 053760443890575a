//! How fast jobs go through Redis; ours alone, in a minute. Run it with `./scripts/bench redis`.
//!
//! A round is timed until the namespace holds no job any more. What is durable when a call returns is the server's setting
//! (`appendfsync`), which the first line tells. The bare scripts are the same claims and results in a loop, without a worker: what a worker
//! costs beside them is its own.

use std::time::{Duration, Instant};

use backfill::redis::RedisStorage;
use backfill::storage::{
    ClaimRef, ClaimRequest, Inspect, NewJob, Outcome, Registration, Settlement, Storage, WorkerId,
};
use backfill::{BackfillClient, JobContext, JobSpec, Worker, job::limits::DEFAULT_MAX_PAYLOAD_BYTES, task_fn};

const JOBS: usize = 100_000;
const BULK: usize = 200_000;
const CONCURRENCY: usize = 24;
const BATCH: usize = 500;
const ROUNDS: usize = 5;
const SINGLE: usize = 5_000;

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // `cargo bench` passes flags of its own harness, and `cargo test` builds and runs this without a server.
    let Ok(url) = std::env::var("BACKFILL_BENCH_REDIS_URL") else {
        println!("BACKFILL_BENCH_REDIS_URL is not set; run ./scripts/bench redis");
        return Ok(());
    };
    println!("{JOBS} no-op jobs of 100 bytes, concurrency {CONCURRENCY}, {ROUNDS} rounds");
    let (mut bulk, mut bare, mut drained, mut latencies, mut single) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let fresh = async |name: &str| {
            let storage = RedisStorage::open(&url, &format!("bench {name} {round}"))?;
            storage.migrate().await?;
            Ok::<_, AnyError>(storage)
        };
        let storage = fresh("bulk").await?;
        let jobs = jobs(BULK);
        let begin = Instant::now();
        storage.add(&jobs).await?;
        bulk.push(per_second(BULK, begin));
        bare.push(scripts(&fresh("scripts").await?).await?);
        drained.push(drain(fresh("drain").await?).await?);
        let storage = fresh("single").await?;
        let begin = Instant::now();
        for job in &jobs[..SINGLE] {
            storage.add(std::slice::from_ref(job)).await?;
        }
        single.push(per_second(SINGLE, begin));
        latencies.push(latency(fresh("latency").await?).await?);
    }
    tell("bulk add of 200 000 (jobs/s)", &mut bulk);
    tell("single adds, one after the other (jobs/s)", &mut single);
    tell("claims and results by bare scripts (jobs/s)", &mut bare);
    tell("drain by a worker (jobs/s)", &mut drained);
    tell("from add to start, idle worker, p50 (ms)", &mut latencies);
    Ok(())
}

fn jobs(count: usize) -> Vec<NewJob> {
    let spec = |n| JobSpec::new("noop", serde_json::json!({ "n": n, "body": "x".repeat(80) }));
    (0..count).map(|n| spec(n).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a job")).collect()
}

async fn scripts(storage: &RedisStorage) -> Result<f64, AnyError> {
    storage.add(&jobs(JOBS)).await?;
    let consumer = storage.consumer();
    let (worker, tasks) = (WorkerId::random(), ["noop".to_owned()]);
    consumer.register(&Registration::new(&worker, &tasks)).await?;
    let begin = Instant::now();
    loop {
        let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, BATCH)).await?.jobs;
        if claimed.is_empty() {
            return Ok(per_second(JOBS, begin));
        }
        let done: Vec<Settlement> =
            claimed.iter().map(|job| Settlement::new(ClaimRef::of(job), Outcome::completed())).collect();
        consumer.settle(&worker, &done).await?;
    }
}

async fn drain(storage: RedisStorage) -> Result<f64, AnyError> {
    storage.add(&jobs(JOBS)).await?;
    let worker = Worker::builder(BackfillClient::with_storage(storage.clone()))
        .task(task_fn("noop", |_: serde_json::Value, _: JobContext| async {}))
        .concurrency(CONCURRENCY)
        .build()?;
    let handle = worker.shutdown_handle();
    let begin = Instant::now();
    let running = tokio::spawn(async move { worker.run().await });
    // One look at the number of a sorted set.
    while !storage.jobs(&backfill::JobFilter::new().limit(1)).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = per_second(JOBS, begin);
    handle.shutdown();
    running.await??;
    Ok(rate)
}

async fn latency(storage: RedisStorage) -> Result<f64, AnyError> {
    let (told, mut started) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::builder(BackfillClient::with_storage(storage.clone()))
        .task(task_fn("noop", move |_: serde_json::Value, _: JobContext| {
            let told = told.clone();
            async move {
                let _ = told.send(Instant::now());
            }
        }))
        .concurrency(CONCURRENCY)
        .build()?;
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    let mut waits = Vec::new();
    for job in jobs(500) {
        let begin = Instant::now();
        storage.add(std::slice::from_ref(&job)).await?;
        let start: Instant = started.recv().await.ok_or("the worker has ended")?;
        waits.push(start.duration_since(begin).as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    handle.shutdown();
    running.await??;
    waits.sort_by(f64::total_cmp);
    Ok(waits[waits.len() / 2])
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: usize, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}

fn tell(what: &str, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let digits = if values[0] < 100.0 { 3 } else { 0 };
    println!(
        "{what}: median {:.digits$}, {:.digits$} to {:.digits$}",
        values[values.len() / 2],
        values[0],
        values[values.len() - 1]
    );
}
