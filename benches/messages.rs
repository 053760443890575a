//! How fast messages go through units and leases, on PostgreSQL, in Redis, in a file and in memory; ours alone, in a few minutes. Run it with
//! `./scripts/bench messages`.
//!
//! Everything is durable when a call returns (PostgreSQL's defaults, SQLite with `synchronous = full`), but in memory, and
//! in Redis, which gives its log to the disk each second (`appendfsync everysec`). One caller, one call
//! after the other, so what is measured is the storage, not how many callers it takes. Each line tells the median, the least and the
//! most of the rounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill::messages::Queue;
use backfill::postgres::PostgresStorage;
use backfill::redis::RedisStorage;
use backfill::sqlite::SqliteStorage;
use backfill::storage::memory::MemoryStorage;
use backfill::storage::messages::{Holder, Messages, Purge, Take, TakenJob, Unit};
use backfill::storage::{AnyStorage, NewJob, Outcome, Storage};
use backfill::{JobSpec, job::limits::DEFAULT_MAX_PAYLOAD_BYTES};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

const ROUNDS: usize = 5;
/// Messages of one round.
const MESSAGES: usize = 20_000;
/// Of batches that are so small that each waits for the disk.
const FEW: usize = 2_000;
const LONG: Duration = Duration::from_mins(10);
const BEHIND: usize = 10_000;
/// Messages of a group whose first one is held, and groups of one message that stand behind them.
const CROWD: usize = 100_000;
const GROUPS: usize = 300;
const SCHEMA: &str = "bench_messages";

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // `cargo bench` passes flags of its own harness, and `cargo test` builds and runs this without a server.
    let Ok(url) = std::env::var("BACKFILL_BENCH_DATABASE_URL") else {
        println!("BACKFILL_BENCH_DATABASE_URL is not set; run ./scripts/bench messages");
        return Ok(());
    };
    println!(
        "{MESSAGES} messages of 128 bytes a round ({FEW} in batches of 10), {BEHIND} others behind; {ROUNDS} rounds"
    );
    let pool = PgPoolOptions::new().max_connections(20).connect(&url).await?;
    let postgres = postgres(&pool).await?;
    all("PostgreSQL", postgres.clone()).await?;
    behind_a_held_group("PostgreSQL", &postgres).await?;
    wakeups("PostgreSQL", &postgres_queue(&pool).await?).await?;
    idle(&url, &pool).await?;
    let redis = redis().await?;
    all("Redis", redis.clone()).await?;
    behind_a_held_group("Redis", &redis).await?;
    wakeups("Redis", &Queue::with_storage(redis, "bench")?).await?;
    let (sqlite, _directory) = sqlite().await?;
    all("SQLite", sqlite.clone()).await?;
    behind_a_held_group("SQLite", &sqlite).await?;
    wakeups("SQLite", &Queue::with_storage(sqlite, "bench")?).await?;
    all("memory", MemoryStorage::new().into()).await?;
    Ok(())
}

async fn postgres(pool: &PgPool) -> Result<AnyStorage, AnyError> {
    sqlx::query("drop schema if exists bench_messages cascade").execute(pool).await?;
    let storage = PostgresStorage::new(pool.clone(), SCHEMA)?.with_messages();
    storage.migrate().await?;
    Ok(storage.into())
}

async fn postgres_queue(pool: &PgPool) -> Result<Queue, AnyError> {
    Ok(Queue::with_storage(postgres(pool).await?, "bench")?)
}

async fn redis() -> Result<AnyStorage, AnyError> {
    let storage = RedisStorage::open(&std::env::var("BACKFILL_BENCH_REDIS_URL")?, "bench")?;
    storage.migrate().await?;
    Ok(storage.into())
}

async fn sqlite() -> Result<(AnyStorage, TempDir), AnyError> {
    let directory = tempfile::tempdir()?;
    let storage = SqliteStorage::open(&format!("sqlite://{}/bench.db", directory.path().display()))?.with_messages();
    storage.migrate().await?;
    Ok((storage.into(), directory))
}

fn message(line: &str, n: usize) -> NewJob {
    let spec = JobSpec::new(line, serde_json::json!({ "n": n, "body": "x".repeat(100) }));
    spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a message")
}

async fn all(name: &str, storage: AnyStorage) -> Result<(), AnyError> {
    let storage: Arc<dyn Storage> = Arc::clone(storage.storage());
    let messages = storage.require_messages()?;
    storage.add(&(0..BEHIND).map(|n| message("behind", n)).collect::<Vec<_>>()).await?;
    for (batch, count) in [(500, MESSAGES), (10, FEW)] {
        let (mut added, mut taken, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let new: Vec<NewJob> = (0..count).map(|n| message("line", n)).collect();
            added.push(
                rate(
                    count,
                    new.chunks(batch).map(|chunk| {
                        let units: Vec<Unit> = chunk.iter().map(|job| Unit::new().adding([job.clone()])).collect();
                        async move { messages.apply(&units).await.map(|applied| applied.len()) }
                    }),
                )
                .await?,
            );
            // Each message moves on to another line: settled here and added there, one unit each.
            let held = take_all(messages, "line", batch, count).await?;
            let next: Vec<NewJob> = (0..batch).map(|n| message("next", n)).collect();
            moved.push(
                rate(
                    count,
                    held.chunks(batch).map(|chunk| {
                        let units: Vec<Unit> = chunk
                            .iter()
                            .zip(&next)
                            .map(|(job, next)| {
                                Unit::new().settle(job.hold.clone(), Outcome::completed()).adding([next.clone()])
                            })
                            .collect();
                        async move { messages.apply(&units).await.map(|applied| applied.len()) }
                    }),
                )
                .await?,
            );
            let begin = Instant::now();
            let mut done = 0;
            while done < count {
                let held = take(messages, "next", batch).await?;
                let units: Vec<Unit> =
                    held.iter().map(|job| Unit::new().settle(job.hold.clone(), Outcome::completed())).collect();
                done += messages.apply(&units).await?.iter().filter(|applied| applied.is_done()).count();
            }
            taken.push(per_second(count, begin));
            messages.purge("line", Purge::All).await?;
        }
        tell(name, &format!("units that add, {batch} a call"), &mut added);
        tell(name, &format!("units that settle and add, {batch} a call"), &mut moved);
        tell(name, &format!("take by lease and complete, {batch} a call"), &mut taken);
    }
    Ok(())
}

/// A group with much behind its held first message stands before all others: how long the others' takes are.
async fn behind_a_held_group(name: &str, storage: &AnyStorage) -> Result<(), AnyError> {
    let messages = storage.require_messages()?;
    let of = |group: &str, n: usize| {
        JobSpec::new("groups", n).serial_queue(group).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a message")
    };
    let crowd: Vec<NewJob> = (0..CROWD).map(|n| of("crowd", n)).collect();
    for part in crowd.chunks(10_000) {
        storage.add(part).await?;
    }
    storage.add(&(0..GROUPS).map(|n| of(&format!("group {n}"), n)).collect::<Vec<_>>()).await?;
    let lines = [("groups".to_owned(), 1)];
    let holder = Holder::Lease { name: "bench", lasts: LONG };
    let mut waits = Vec::new();
    for n in 0..=GROUPS {
        let begin = Instant::now();
        let taken = messages.take(&Take::new(holder, &lines).in_line()).await?.jobs;
        // The first one is the crowd's, which nobody ends.
        if n > 0 && taken.len() == 1 {
            waits.push(begin.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    waits.sort_by(f64::total_cmp);
    let at = |part: usize| waits[waits.len() * part / 100];
    println!("{name}: take in line past a held group of {CROWD}: p50 {:.2} ms, p95 {:.2} ms", at(50), at(95));
    messages.purge("groups", Purge::All).await?;
    Ok(())
}

async fn take(messages: &dyn Messages, line: &str, batch: usize) -> Result<Vec<TakenJob>, AnyError> {
    let lines = [(line.to_owned(), batch)];
    Ok(messages.take(&Take::new(Holder::Lease { name: "bench", lasts: LONG }, &lines)).await?.jobs)
}

async fn take_all(messages: &dyn Messages, line: &str, batch: usize, count: usize) -> Result<Vec<TakenJob>, AnyError> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        held.extend(take(messages, line, batch).await?);
    }
    Ok(held)
}

async fn rate<F: Future<Output = backfill::Result<usize>>>(
    count: usize,
    calls: impl Iterator<Item = F>,
) -> Result<f64, AnyError> {
    let begin = Instant::now();
    for call in calls {
        call.await?;
    }
    Ok(per_second(count, begin))
}

#[expect(clippy::cast_precision_loss, reason = "there are not so many")]
fn per_second(count: usize, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}

fn tell(name: &str, what: &str, rates: &mut [f64]) {
    rates.sort_by(f64::total_cmp);
    let (median, least, most) = (rates[rates.len() / 2], rates[0], rates[rates.len() - 1]);
    println!("{name}: {what}: {median:.0}/s (from {least:.0} to {most:.0})");
}

/// From the end of an enqueue to the end of the claim of a worker that waited for it.
async fn wakeups(name: &str, queue: &Queue) -> Result<(), AnyError> {
    const TIMES: usize = 300;
    let (told, mut hears) = tokio::sync::mpsc::channel::<Instant>(1);
    let mut subscription = queue.subscribe(&["wake"]);
    let claims = queue.clone();
    let claimer = tokio::spawn(async move {
        for _ in 0..TIMES {
            let message = loop {
                if let Some(message) = claims.claim("wake", "bench").one().await? {
                    break message;
                }
                subscription.wait(Duration::from_secs(5)).await;
            };
            let now = Instant::now();
            claims.complete(&message).await?;
            let _ = told.send(now).await;
        }
        Ok::<_, backfill::Error>(())
    });
    let other = queue.clone();
    let mut late = Vec::new();
    for n in 0..TIMES {
        // So that the claimer waits again.
        tokio::time::sleep(Duration::from_millis(5)).await;
        other.enqueue("wake", &n).await?;
        let begin = Instant::now();
        if let Some(claimed) = hears.recv().await {
            late.push(claimed.saturating_duration_since(begin).as_secs_f64() * 1e3);
        }
    }
    claimer.await??;
    late.sort_by(f64::total_cmp);
    println!(
        "{name}: from wake to take: p50 {:.2} ms, p95 {:.2} ms",
        late[late.len() / 2],
        late[late.len() * 95 / 100]
    );
    queue.close().await;
    Ok(())
}

/// What a thousand idle subscribers cost, of this process and of the server's for it, in parts of one processor.
async fn idle(url: &str, pool: &PgPool) -> Result<(), AnyError> {
    const SUBSCRIBERS: usize = 1_000;
    const TIME: Duration = Duration::from_secs(10);
    let queue = Queue::builder().database_url(url).schema(SCHEMA).namespace("bench").build().await?;
    let names: Vec<String> = (0..SUBSCRIBERS).map(|n| format!("idle {n}")).collect();
    for name in &names {
        // Known lines, so that looking at them costs what it costs.
        let message = queue.enqueue(name, &1).await?;
        let claimed = queue.claim(name, "bench").one().await?.ok_or("it was there")?;
        assert_eq!(claimed.id, message);
        queue.complete(&claimed).await?;
    }
    let mut waiting = tokio::task::JoinSet::new();
    for name in names {
        let mut subscription = queue.subscribe(&[&name]);
        waiting.spawn(async move { while subscription.wait(TIME * 2).await.is_some() {} });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let server = async || -> Result<f64, AnyError> {
        let pids: Vec<i32> = sqlx::query_scalar("select pid from pg_stat_activity where datname = current_database()")
            .fetch_all(pool)
            .await?;
        Ok(pids.iter().filter_map(|pid| cpu(&format!("/proc/{pid}/stat"))).sum())
    };
    let before = (cpu("/proc/self/stat").unwrap_or_default(), server().await?);
    tokio::time::sleep(TIME).await;
    let after = (cpu("/proc/self/stat").unwrap_or_default(), server().await?);
    let part = |used: f64| used / TIME.as_secs_f64() * 100.0;
    println!(
        "PostgreSQL: {SUBSCRIBERS} idle subscribers: {:.1} % of a processor here, {:.1} % in the server",
        part(after.0 - before.0),
        part(after.1 - before.1)
    );
    waiting.abort_all();
    queue.close().await;
    Ok(())
}

/// The processor's time that a process has used, in seconds, where Linux tells it.
fn cpu(stat: &str) -> Option<f64> {
    let text = std::fs::read_to_string(stat).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
