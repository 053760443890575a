//! How fast jobs go through Redis: ours alone, in a minute, with `./scripts/bench redis`; beside BullMQ, Celery, arq and taskiq, in the same rounds on
//! the same server, with `./scripts/bench redis-peers` (`bench/redis/` has their programs).
//!
//! A round is timed until the namespace holds no job any more. What is durable when a call returns is the server's setting
//! (`appendfsync`), which the first line tells. The bare scripts are the same claims and results in a loop, without a worker: what a worker
//! costs beside them is its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backfill::redis::RedisStorage;
use backfill::storage::{
    ClaimRef, ClaimRequest, Inspect, NewJob, Outcome, Registration, Settlement, Storage, WorkerId,
};
use backfill::{BackfillClient, JobContext, JobSpec, Worker, job::limits::DEFAULT_MAX_PAYLOAD_BYTES, task_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JOBS: usize = 100_000;
const BULK: usize = 200_000;
const CONCURRENCY: usize = 24;
const BATCH: usize = 500;
const ROUNDS: usize = 5;
const SINGLE: usize = 5_000;
/// Of each round beside peers, who take seconds for as many.
const PEERS_JOBS: usize = 20_000;
const PEERS: [&str; 5] = ["backfill", "bullmq", "taskiq", "arq", "celery"];

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // `cargo bench` passes flags of its own harness, and `cargo test` builds and runs this without a server.
    let Ok(url) = std::env::var("BACKFILL_BENCH_REDIS_URL") else {
        println!("BACKFILL_BENCH_REDIS_URL is not set; run ./scripts/bench redis");
        return Ok(());
    };
    if let Some(directory) = std::env::var_os("BACKFILL_BENCH_REDIS_PEERS") {
        return beside_peers(&url, &PathBuf::from(directory)).await;
    }
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

/// Each in its turn, in each round, on an empty server. Ours is timed from the start of the worker, the peers from their first job.
async fn beside_peers(url: &str, directory: &Path) -> Result<(), AnyError> {
    println!("{PEERS_JOBS} no-op jobs of about 100 bytes, {ROUNDS} rounds; medians, and the least and the most");
    let client = plain(url)?;
    let mut results: BTreeMap<(usize, &str, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for (place, peer) in PEERS.iter().enumerate() {
            client.flush().await?;
            let storage = RedisStorage::open(url, &format!("peers {round}"))?;
            for (what, count) in [("bulk", PEERS_JOBS), ("bytes", PEERS_JOBS), ("work", PEERS_JOBS), ("latency", 300)] {
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let value = match (what, *peer) {
                    ("bytes", _) => client.memory().await? / count as f64,
                    (_, "backfill") => ours(&storage, what, count).await?,
                    ("latency", _) => theirs(directory, peer, url, what, count).await?,
                    _ => count as f64 / theirs(directory, peer, url, what, count).await?,
                };
                results.entry((place, peer, what)).or_default().push(value);
            }
        }
    }
    for ((_, peer, what), mut values) in results {
        let unit = match what {
            "bulk" => "adds in bulk, jobs/s",
            "bytes" => "memory of a waiting job, bytes",
            "work" => "drain, jobs/s",
            _ => "from add to start, p50, ms",
        };
        tell(&format!("{peer}: {unit}"), &mut values);
    }
    Ok(())
}

async fn ours(storage: &RedisStorage, what: &str, count: usize) -> Result<f64, AnyError> {
    storage.migrate().await?;
    match what {
        "bulk" => {
            let (jobs, begin) = (jobs(count), Instant::now());
            storage.add(&jobs).await?;
            Ok(per_second(count, begin))
        }
        "work" => drain_waiting(storage.clone(), count).await,
        _ => latency(storage.clone()).await,
    }
}

async fn theirs(directory: &Path, peer: &str, url: &str, what: &str, count: usize) -> Result<f64, AnyError> {
    let port = url.rsplit(':').next().unwrap_or_default();
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/redis");
    let mut command = if peer == "bullmq" {
        let mut command = tokio::process::Command::new(std::env::var("BACKFILL_BENCH_NODE")?);
        command.arg(programs.join("bullmq.mjs")).env("PACKAGES", directory.join("node"));
        command
    } else {
        let mut command = tokio::process::Command::new(directory.join(peer).join("bin/python"));
        command.arg(programs.join(format!("{peer}_peer.py")));
        command
    };
    let output = command.args([what, port, &count.to_string()]).stderr(std::process::Stdio::null()).output().await?;
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().map_err(|_| format!("{peer} {what} said {text:?}").into())
}

/// A plain connection, by the words that are needed.
struct Plain(tokio::sync::Mutex<tokio::net::TcpStream>);

fn plain(url: &str) -> Result<Plain, AnyError> {
    let stream = std::net::TcpStream::connect(url.trim_start_matches("redis://"))?;
    stream.set_nonblocking(true)?;
    Ok(Plain(tokio::sync::Mutex::new(tokio::net::TcpStream::from_std(stream)?)))
}

impl Plain {
    async fn ask(&self, words: &str) -> Result<String, AnyError> {
        let mut stream = self.0.lock().await;
        stream.write_all(format!("{words}\r\n").as_bytes()).await?;
        let mut answer = vec![0; 65_536];
        let length = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    async fn flush(&self) -> Result<(), AnyError> {
        self.ask("FLUSHALL").await.map(drop)
    }

    async fn memory(&self) -> Result<f64, AnyError> {
        let info = self.ask("INFO memory").await?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
        Ok(used.ok_or("it says nothing of its memory")?.trim().parse()?)
    }
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
    drain_waiting(storage, JOBS).await
}

async fn drain_waiting(storage: RedisStorage, count: usize) -> Result<f64, AnyError> {
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
    let rate = per_second(count, begin);
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
