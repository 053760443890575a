//! What a contestant's process does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Result;
use crate::who::{dbos, durare, floor, ours};

/// The environment variable that tells a child what it is.
pub const TOLD: &str = "BACKFILL_BENCH_TOLD";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Workflows of ten steps, so many in flight.
    Throughput(usize),
    /// One workflow at a time through a queue.
    QueuedOne,
    /// Many workflows through a queue.
    QueuedMany,
    /// Workflows that sleep.
    Sleep,
    /// Goes on with those.
    SleepOn,
}

pub struct Told {
    pub who: String,
    pub role: Role,
    pub seconds: f64,
    pub count: u64,
    pub url: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, flying) = match self.role {
            Role::Throughput(flying) => ("throughput", flying),
            Role::QueuedOne => ("queued-one", 0),
            Role::QueuedMany => ("queued-many", 0),
            Role::Sleep => ("sleep", 0),
            Role::SleepOn => ("sleep-on", 0),
        };
        write!(f, "{} {role} {flying} {} {} {}", self.who, self.seconds, self.count, self.url)
    }
}

impl Told {
    pub fn from_environment() -> Result<Option<Self>> {
        let Ok(text) = std::env::var(TOLD) else { return Ok(None) };
        let [who, role, flying, seconds, count, url] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err("it was told something else".into());
        };
        let role = match role {
            "throughput" => Role::Throughput(flying.parse()?),
            "queued-one" => Role::QueuedOne,
            "queued-many" => Role::QueuedMany,
            "sleep" => Role::Sleep,
            "sleep-on" => Role::SleepOn,
            _ => return Err(format!("there is no role {role}").into()),
        };
        Ok(Some(Self { who: who.to_owned(), role, seconds: seconds.parse()?, count: count.parse()?, url: url.to_owned() }))
    }

    pub fn is_best(&self) -> bool {
        self.who.ends_with("-best")
    }
}

/// Who runs workflows here.
pub trait Contestant: Send + Sync + 'static {
    /// Runs a workflow of ten steps, from its start to its result.
    fn ten_steps(&self, n: u64) -> impl Future<Output = Result<()>> + Send;
    /// Puts a workflow that does nothing into the queue; it calls [`started`] with the number.
    fn enqueue(&self, n: u64) -> impl Future<Output = Result<()>> + Send;
}

pub async fn run(told: &Told, began: Instant) -> Result<()> {
    match (told.who.trim_end_matches("-best"), told.role) {
        ("backfill", Role::Sleep) => ours::sleep(told).await,
        ("backfill", Role::SleepOn) => ours::sleep_on(told, began).await,
        ("backfill", _) => measure(told, ours::Ours::new(told).await?).await,
        ("durare", _) => measure(told, durare::Durare::new(told).await?).await,
        ("dbos", _) => measure(told, dbos::Dbos::new(told).await?).await,
        ("floor", Role::Throughput(flying)) => measure(told, floor::Floor::new(told, flying).await?).await,
        _ => Err(format!("{} cannot do that", told.who).into()),
    }
}

async fn measure<C: Contestant>(told: &Told, contestant: C) -> Result<()> {
    let contestant = Arc::new(contestant);
    // What is done once, such as preparing statements, is done before.
    match told.role {
        Role::Throughput(_) => {
            for n in 0..20 {
                contestant.ten_steps(n).await?;
            }
        }
        _ => {
            for n in 0..2 {
                let heard = STARTED.heard();
                contestant.enqueue(n).await?;
                heard.await;
            }
        }
    }
    let mut input = Input::ready();
    input.line().await?;
    let cpu = cpu()?;
    match told.role {
        Role::Throughput(flying) => throughput(told, &contestant, flying).await?,
        Role::QueuedOne => queued_one(told, &*contestant).await?,
        _ => {
            queued_many(told, &contestant).await?;
            // The others are still at work.
            input.line().await?;
        }
    }
    println!("cpu s {}", self::cpu()? - cpu);
    println!("done");
    input.line().await?;
    Ok(())
}

/// Starts workflows until the time is over, and waits for the last ones.
async fn throughput<C: Contestant>(told: &Told, contestant: &Arc<C>, flying: usize) -> Result<()> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(told.seconds);
    let next = Arc::new(AtomicU64::new(100));
    let mut tasks = JoinSet::new();
    for _ in 0..flying {
        let (contestant, next) = (Arc::clone(contestant), Arc::clone(&next));
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                contestant.ten_steps(next.fetch_add(1, Ordering::Relaxed)).await?;
                times.push(begin.elapsed());
            }
            Ok::<_, crate::AnyError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    println!("s {}", begin.elapsed().as_secs_f64());
    println!("workflows {}", times.len());
    tell(times);
    Ok(())
}

async fn queued_one<C: Contestant>(told: &Told, contestant: &C) -> Result<()> {
    // Those who look each second have time for a dozen.
    let end = Instant::now() + Duration::from_secs_f64(told.seconds.max(6.0));
    let mut times = Vec::new();
    while Instant::now() < end && times.len() < 500 {
        let heard = STARTED.heard();
        let begin = Instant::now();
        contestant.enqueue(1000 + times.len() as u64).await?;
        times.push(heard.await - begin);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tell(times);
    Ok(())
}

async fn queued_many<C: Contestant>(told: &Told, contestant: &Arc<C>) -> Result<()> {
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(1000));
    let end = 1000 + told.count;
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (contestant, next) = (Arc::clone(contestant), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    return Ok::<_, crate::AnyError>(());
                }
                contestant.enqueue(n).await?;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    println!("s to enqueue all {}", begin.elapsed().as_secs_f64());
    Ok(())
}

fn tell(mut times: Vec<Duration>) {
    times.sort();
    for (name, share) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        if let Some(time) = times.get(index) {
            println!("{name} {}", time.as_secs_f64() * 1000.0);
        }
    }
}

/// When the last queued workflow started.
pub struct Started {
    at: Mutex<Option<Instant>>,
    notify: OnceLock<Notify>,
    any: AtomicBool,
}

static STARTED: Started = Started { at: Mutex::new(None), notify: OnceLock::new(), any: AtomicBool::new(false) };

impl Started {
    /// When the next one starts.
    fn heard(&'static self) -> impl Future<Output = Instant> {
        self.any.store(true, Ordering::Release);
        let notify = self.notify.get_or_init(Notify::new);
        async {
            notify.notified().await;
            let at = self.at.lock().map(|at| *at).ok().flatten();
            at.unwrap_or_else(Instant::now)
        }
    }
}

/// Called by each queued workflow.
pub fn started() {
    // In a crowd nobody listens.
    if STARTED.any.swap(false, Ordering::AcqRel) {
        if let Ok(mut at) = STARTED.at.lock() {
            *at = Some(Instant::now());
        }
        STARTED.notify.get_or_init(Notify::new).notify_one();
    }
}

/// What its parent says.
pub struct Input(tokio::io::Lines<BufReader<tokio::io::Stdin>>);

impl Input {
    pub fn ready() -> Self {
        println!("ready");
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    /// The next line, or the end.
    pub async fn line(&mut self) -> Result<()> {
        self.0.next_line().await?;
        Ok(())
    }
}

/// The CPU time of this process in seconds.
fn cpu() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11).ok_or("no stat")?.parse::<u64>()? + fields.get(12).ok_or("no stat")?.parse::<u64>()?;
    // Linux counts in hundredths of a second wherever it matters (USER_HZ).
    Ok(ticks as f64 / 100.0)
}

/// The resident memory of this process in bytes.
pub fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().next().ok_or("no VmRSS")?.parse::<f64>()? * 1024.0)
}
