//! What a contestant's process does. One file for each library (Node's is `node/peer.mjs`), and all do the same.

mod graphile_worker;
mod ours;
mod river;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::Result;
use crate::contestant::{Contestant, Library};
use crate::floor::{ADD, HAND_OFF};
use crate::process::{Role, Told};

/// The payload of all jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    pub n: u64,
}

pub fn run(told: &Told) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match told.role {
            Role::Floor { batch, fused, .. } if told.contestant == Contestant::FileFloor => {
                return crate::floor::drain_file(&told.url, batch, fused).await;
            }
            Role::Floor { batch, connections, fused } => {
                return crate::floor::run(&told.url, batch, connections, fused).await;
            }
            Role::Fill { jobs, .. } if told.contestant == Contestant::Floor => {
                return crate::floor::fill(&told.url, jobs).await;
            }
            Role::Work { .. } if told.contestant == Contestant::Floor => {
                return crate::floor::one_at_a_time(&told.url).await;
            }
            Role::Work { .. } if told.contestant == Contestant::FloorOne => {
                return crate::floor::one_at_a_time_handed(&told.url).await;
            }
            Role::AddSlowly { jobs, pause_ms } if told.contestant == Contestant::Floor => {
                return crate::floor::add_slowly(&told.url, jobs, Duration::from_millis(pause_ms), ADD).await;
            }
            Role::AddSlowly { jobs, pause_ms } if told.contestant == Contestant::FloorOne => {
                return crate::floor::add_slowly(&told.url, jobs, Duration::from_millis(pause_ms), HAND_OFF).await;
            }
            _ => {}
        }
        match told.contestant.library() {
            Library::Ours => ours::run(told).await,
            Library::Gw => graphile_worker::run(told).await,
            Library::River => river::run(told).await,
            Library::Node => Err("Node's part is peer.mjs".into()),
        }
    })
}

/// Says that everything is prepared, and waits to be told to begin.
pub async fn ready() -> Result<Input> {
    say("ready")?;
    let mut input = BufReader::new(tokio::io::stdin());
    input.read_line(&mut String::new()).await?;
    Ok(Input(input))
}

/// The rest of the standard input.
pub struct Input(BufReader<tokio::io::Stdin>);

impl Input {
    /// Waits until it is closed.
    pub async fn closed(mut self) {
        let _ = self.0.read_line(&mut String::new()).await;
    }
}

pub fn say(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

pub fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// When jobs began, if that is wanted.
#[derive(Clone, Default)]
pub struct Record(Option<Arc<Mutex<Vec<Begun>>>>);

/// A job's number, and when it began.
type Begun = (u64, u128);

impl Record {
    pub fn new(wanted: bool) -> Self {
        Self(wanted.then(Arc::default))
    }

    pub fn began(&self, payload: &Payload) {
        if let Some(times) = &self.0
            && let Ok(mut times) = times.lock()
        {
            times.push((payload.n, nanoseconds()));
        }
    }

    pub fn tell(&self) -> Result<()> {
        if let Some(times) = &self.0 {
            for (n, at) in times.lock().map_err(|_| "a job panicked")?.iter() {
                say(format_args!("{n} {at}"))?;
            }
        }
        Ok(())
    }
}

/// Adds jobs one by one from so many tasks, by a function that adds one; tells how many seconds that took.
pub async fn one_by_one<F, Fut>(jobs: usize, tasks: usize, add: F) -> Result<()>
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    ready().await?;
    let begin = Instant::now();
    let mut adding = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let add = add.clone();
        adding.spawn(async move {
            for n in (task..jobs).step_by(tasks) {
                add(n as u64).await?;
            }
            Ok::<_, crate::AnyError>(())
        });
    }
    while let Some(added) = adding.join_next().await {
        added??;
    }
    say(begin.elapsed().as_secs_f64())
}

/// Adds one job after the other with a pause.
pub async fn slowly<F, Fut>(jobs: usize, pause: Duration, add: F) -> Result<()>
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    ready().await?;
    for n in 0..jobs as u64 {
        let called = nanoseconds();
        add(n).await?;
        say(format_args!("{n} {called} {}", nanoseconds()))?;
        tokio::time::sleep(pause).await;
    }
    say("end")
}
