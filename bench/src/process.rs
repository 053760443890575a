//! Starting children, talking to them, and what they have spent.
//!
//! A child says `ready` on its standard output when it is, does its work when it reads a line, and ends when its standard
//! input is closed.

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Result;
use crate::contestant::{Contestant, Library};

/// The environment variable that tells a child what it is.
pub const TOLD: &str = "BACKFILL_BENCH_TOLD";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    pub contestant: Contestant,
    pub best: bool,
    pub url: String,
    pub role: Role,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum Role {
    /// Migrates, and adds jobs in bulk; tells how many seconds the adding took.
    Fill { jobs: usize, queues: usize },
    /// Runs jobs until its input is closed; tells when each job began if asked to (`n` and nanoseconds since 1970).
    Work { concurrency: usize, record: bool },
    /// A worker that ends as soon as it listens: nothing but a start and an end.
    StartAndStop,
    /// Adds jobs one by one from so many tasks; tells how many seconds that took.
    AddOneByOne { jobs: usize, tasks: usize },
    /// Adds one job after the other with a pause; tells for each when the call was made and when it returned.
    AddSlowly { jobs: usize, pause_ms: u64 },
    /// A worker with so many crontab entries, all due each minute; tells when each job began.
    Cron { entries: usize },
    /// The bare statements.
    Floor { batch: i64, connections: usize, fused: bool },
}

pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub cpu: Duration,
    pub resident_mib: f64,
}

impl Process {
    pub async fn start(told: &Told) -> Result<Self> {
        let mut command = if told.contestant.library() == Library::Node {
            let directory = std::env::var("BACKFILL_BENCH_NODE_DIR")?;
            let mut node = Command::new(std::env::var("BACKFILL_BENCH_NODE")?);
            node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/node/peer.mjs")).current_dir(&directory);
            node.env("PACKAGES", directory);
            node
        } else {
            Command::new(std::env::current_exe()?)
        };
        let mut child = command
            .env(TOLD, serde_json::to_string(told)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut process = Self { child, input, output };
        let line = process.line().await?;
        if line != "ready" {
            return Err(format!("{} {:?} said {line:?} instead of ready", told.contestant, told.role).into());
        }
        Ok(process)
    }

    pub async fn go(&mut self) -> Result<()> {
        self.input.as_mut().ok_or("it has been told to end")?.write_all(b"go\n").await?;
        Ok(())
    }

    pub async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to end, and answers what else it said.
    pub async fn end(mut self) -> Result<String> {
        drop(self.input.take());
        let mut rest = String::new();
        let read = self.output.read_to_string(&mut rest);
        if tokio::time::timeout(Duration::from_secs(30), read).await.is_err() {
            // A peer that does not end: what it did is counted already.
            self.child.kill().await?;
            return Ok(rest);
        }
        self.child.wait().await?;
        Ok(rest)
    }

    pub fn spent(&self) -> Result<Spent> {
        let pid = self.child.id().ok_or("the child has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: f64 = resident.split_whitespace().next().unwrap_or_default().parse()?;
        let stat = stat(pid).ok_or("no such process")?;
        Ok(Spent { cpu: stat.own, resident_mib: kib / 1024.0 })
    }
}

/// What `/proc/PID/stat` says.
pub struct Stat {
    pub parent: u32,
    /// User and system time.
    pub own: Duration,
    /// That of children that have ended.
    pub ended_children: Duration,
}

pub fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Linux counts in hundredths of a second wherever it matters (USER_HZ).
    let ticks = |index: usize| Some(Duration::from_millis(10 * fields.get(index)?.parse::<u64>().ok()?));
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: ticks(11)? + ticks(12)?,
        ended_children: ticks(13)? + ticks(14)?,
    })
}
