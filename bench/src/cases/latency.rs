//! How soon a job begins.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Case, Figures, Ground, Measured};
use crate::Result;
use crate::contestant::Contestant::{self, Floor, FloorOne, Gw, GwBest, Node, NodeBest, Ours, River, RiverBest};
use crate::process::{Process, Role, Told};

const JOBS: usize = 1_000;

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "latency",
            about: "one job at a time on an idle worker, added by another process; concurrency 24",
            figure: "call to start p50 ms",
            contestants: &[Ours, Node, NodeBest, Gw, GwBest, River, RiverBest, Floor, FloorOne],
            once: false,
            measure: |ground, who| Box::pin(one_at_a_time(ground, who, 24)),
        },
        Case {
            name: "latency-1",
            about: "the same with concurrency 1",
            figure: "call to start p50 ms",
            contestants: &[Ours, Node, Gw],
            once: false,
            measure: |ground, who| Box::pin(one_at_a_time(ground, who, 1)),
        },
        Case {
            name: "cron",
            about: "1 000 crontab entries that are due at the same minute: how late their jobs begin",
            figure: "lateness p50 ms",
            contestants: &[Ours, Node],
            once: true,
            measure: |ground, who| Box::pin(cron(ground, who)),
        },
    ]
}

/// A worker's record: when each job began, in nanoseconds.
fn record(text: &str) -> HashMap<u64, u128> {
    let time = |line: &str| {
        let (n, at) = line.split_once(' ')?;
        Some((n.parse().ok()?, at.parse().ok()?))
    };
    text.lines().filter_map(time).collect()
}

/// Of times in nanoseconds. Clocks of two processes on one machine are the same one; a job that began before its add had
/// returned counts as zero.
struct Spread(Histogram<u64>);

impl Spread {
    fn new() -> Result<Self> {
        Ok(Self(Histogram::new(3)?))
    }

    fn add(&mut self, from: u128, to: u128) -> Result<()> {
        Ok(self.0.record(u64::try_from(to.saturating_sub(from))?)?)
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of no more than hours")]
    fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e6
    }
}

async fn one_at_a_time(ground: &mut Ground, contestant: Contestant, concurrency: usize) -> Result<Measured> {
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let figures = between(ground.told(contestant, &database, Role::Work { concurrency, record: true })).await?;
    ground.server.drop(&database).await?;
    Ok(vec![(contestant.to_string(), figures)])
}

/// Between this worker and a producer in another process.
pub async fn between(worker: Told) -> Result<Figures> {
    let producer = Told { role: Role::AddSlowly { jobs: JOBS, pause_ms: 8 }, ..worker.clone() };
    let mut worker = Process::start(&worker).await?;
    worker.go().await?;
    // Until it listens.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut producer = Process::start(&producer).await?;
    producer.go().await?;
    let mut added = Vec::new();
    loop {
        let line = producer.line().await?;
        let Some((n, times)) = line.split_once(' ') else { break };
        let (called, returned) = times.split_once(' ').ok_or("two times")?;
        added.push((n.parse::<u64>()?, called.parse::<u128>()?, returned.parse::<u128>()?));
    }
    producer.end().await?;
    // The slowest peers look once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let began = record(&worker.end().await?);
    let (mut from_call, mut from_return) = (Spread::new()?, Spread::new()?);
    for (n, called, returned) in &added {
        let began = *began.get(n).ok_or_else(|| format!("job {n} of {} did not begin", added.len()))?;
        from_call.add(*called, began)?;
        from_return.add(*returned, began)?;
    }
    Ok(Figures::from([
        ("call to start p50 ms", from_call.ms(0.5)),
        ("call to start p95 ms", from_call.ms(0.95)),
        ("call to start p99 ms", from_call.ms(0.99)),
        ("call to start max ms", from_call.ms(1.0)),
        ("return to start p50 ms", from_return.ms(0.5)),
        ("return to start p99 ms", from_return.ms(0.99)),
    ]))
}

async fn cron(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    const MINUTE: u128 = 60_000_000_000;
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let mut worker = Process::start(&ground.told(contestant, &database, Role::Cron { entries: 1_000 })).await?;
    let into_minute = crate::child::nanoseconds() % MINUTE;
    if into_minute > MINUTE - 5_000_000_000 {
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    worker.go().await?;
    let left = MINUTE - crate::child::nanoseconds() % MINUTE;
    tokio::time::sleep(Duration::from_nanos(u64::try_from(left)?) + Duration::from_secs(10)).await;
    let resident = worker.spent()?.resident_mib;
    let began = record(&worker.end().await?);
    ground.server.drop(&database).await?;
    if began.len() < 1_000 {
        return Err(format!("{} of 1 000 jobs began within ten seconds", began.len()).into());
    }
    let mut lateness = Spread::new()?;
    for at in began.values() {
        lateness.add(at - at % MINUTE, *at)?;
    }
    let figures = Figures::from([
        ("lateness p50 ms", lateness.ms(0.5)),
        ("lateness p99 ms", lateness.ms(0.99)),
        ("lateness max ms", lateness.ms(1.0)),
        ("resident MiB", resident),
    ]);
    Ok(vec![(contestant.to_string(), figures)])
}
