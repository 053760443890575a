//! Jobs in an SQLite file, on the disk of temporary files. Nobody else takes part, but the bare statements.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;

use super::{Case, Figures, Ground, Measured, latency};
use crate::Result;
use crate::contestant::Contestant::{self, File, FileFloor};
use crate::process::{Process, Role, Told};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "sqlite-drain",
            about: "no-op jobs in an SQLite file, one process, concurrency 24",
            figure: "jobs/s",
            contestants: &[File, FileFloor],
            once: false,
            measure: |ground, who| Box::pin(drain(ground, who)),
        },
        Case {
            name: "sqlite-add-1",
            about: "single adds to an SQLite file, one after the other",
            figure: "jobs/s",
            contestants: &[File],
            once: false,
            measure: |_, who| Box::pin(one_by_one(who, 2_000, 1)),
        },
        Case {
            name: "sqlite-add-16",
            about: "single adds to an SQLite file from 16 tasks of one process",
            figure: "jobs/s",
            contestants: &[File],
            once: false,
            measure: |_, who| Box::pin(one_by_one(who, 16_000, 16)),
        },
        Case {
            name: "sqlite-add-bulk",
            about: "all jobs to an SQLite file by the function for many",
            figure: "jobs/s",
            contestants: &[File],
            once: false,
            measure: |ground, who| Box::pin(bulk(ground, who)),
        },
        Case {
            name: "sqlite-latency",
            about: "one job at a time on an idle worker, added to its SQLite file by another process",
            figure: "call to start p50 ms",
            contestants: &[File],
            once: false,
            measure: |_, who| Box::pin(one_at_a_time(who)),
        },
    ]
}

/// A file of one run's own.
struct Place {
    _directory: TempDir,
    url: String,
}

impl Place {
    fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let url = format!("sqlite://{}/jobs.db", directory.path().display());
        Ok(Self { _directory: directory, url })
    }

    fn told(&self, contestant: Contestant, role: Role) -> Told {
        Told { contestant, best: false, url: self.url.clone(), role }
    }

    async fn fill(&self, jobs: usize) -> Result<f64> {
        let mut child = Process::start(&self.told(File, Role::Fill { jobs, queues: 0 })).await?;
        child.go().await?;
        let seconds = child.line().await?.parse()?;
        child.end().await?;
        Ok(seconds)
    }

    async fn open(&self) -> Result<SqliteConnection> {
        Ok(self.url.parse::<SqliteConnectOptions>()?.connect().await?)
    }

    async fn count(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select count(*) from backfill_jobs").fetch_one(&mut self.open().await?).await?)
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs are far below 2^52")]
    async fn rate(&self, contestant: Contestant, jobs: usize, seconds: f64) -> Result<Measured> {
        let stored = self.count().await?;
        if usize::try_from(stored)? != jobs {
            return Err(format!("{jobs} jobs were added, and {stored} are stored").into());
        }
        Ok(vec![(contestant.to_string(), Figures::from([("jobs/s", jobs as f64 / seconds)]))])
    }
}

async fn drain(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    if contestant == File {
        let role = Role::Work { concurrency: 24, record: false };
        return Ok(vec![(contestant.to_string(), drained(ground, contestant, role).await?)]);
    }
    let mut measured = Vec::new();
    for (batch, fused) in [(24, false), (500, false), (500, true), (4_000, true)] {
        let role = Role::Floor { batch, connections: 1, fused };
        let who = format!("floor {batch} {}", if fused { "fused" } else { "in two" });
        measured.push((who, drained(ground, contestant, role).await?));
    }
    Ok(measured)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of jobs are far below 2^52")]
async fn drained(ground: &Ground, contestant: Contestant, role: Role) -> Result<Figures> {
    let place = Place::new()?;
    place.fill(ground.jobs).await?;
    let mut watch = place.open().await?;
    let mut child = Process::start(&place.told(contestant, role)).await?;
    let before = child.spent()?.cpu;
    let begin = Instant::now();
    child.go().await?;
    loop {
        let left: Option<i64> = sqlx::query_scalar("select min(id) from backfill_jobs").fetch_one(&mut watch).await?;
        if left.is_none() || begin.elapsed() > Duration::from_secs(ground.cap) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let spent = child.spent()?;
    let done = (ground.jobs as i64 - place.count().await?) as f64;
    child.end().await?;
    Ok(Figures::from([
        ("jobs/s", done / seconds),
        ("CPU us/job", (spent.cpu - before).as_secs_f64() * 1e6 / done),
        ("resident MiB", spent.resident_mib),
    ]))
}

async fn one_by_one(contestant: Contestant, jobs: usize, tasks: usize) -> Result<Measured> {
    let place = Place::new()?;
    let mut child = Process::start(&place.told(contestant, Role::AddOneByOne { jobs, tasks })).await?;
    child.go().await?;
    let seconds = child.line().await?.parse()?;
    child.end().await?;
    place.rate(contestant, jobs, seconds).await
}

async fn bulk(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    let place = Place::new()?;
    let seconds = place.fill(ground.jobs).await?;
    place.rate(contestant, ground.jobs, seconds).await
}

async fn one_at_a_time(contestant: Contestant) -> Result<Measured> {
    let place = Place::new()?;
    let figures = latency::between(place.told(contestant, Role::Work { concurrency: 24, record: true })).await?;
    Ok(vec![(contestant.to_string(), figures)])
}
