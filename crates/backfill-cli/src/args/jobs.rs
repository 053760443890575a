//! What can be said to the commands that add, list and change jobs.

use std::path::PathBuf;
use std::time::Duration;

use backfill::search::Place;
use backfill::{JobId, JobKeyMode};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, ValueEnum};

use crate::value;

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["task", "from"]), after_help = "\
A file has one job a line, as JSON, or all of them in a JSON array:
  {\"task\": \"mail\", \"payload\": {\"to\": \"ada@example.com\"}, \"queue\": \"mail\", \"run_at\": \"2026-11-21T10:00:00Z\", \
\"max_attempts\": 3, \"key\": \"mail 7\", \"key_mode\": \"replace\", \"priority\": -5, \"flags\": [\"bulk\"]}
Only the task is needed. The names of Node's addJob (identifier, queueName, runAt, …) are understood too.")]
pub struct AddArgs {
    /// The task
    pub task: Option<String>,
    /// The payload, as JSON [default: {}]
    pub payload: Option<String>,
    /// Read jobs from this file, or from standard input if it is -
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "payload", "spec"])]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The most bytes that a payload may have
    #[arg(long, value_name = "N", default_value_t = 8 * 1024 * 1024)]
    pub max_payload_bytes: usize,
    /// Do not create the schema if it is missing
    #[arg(long)]
    pub no_migrate: bool,
}

/// What can be said about a job.
#[derive(clap::Args, Debug)]
#[group(id = "spec", multiple = true)]
pub struct SpecArgs {
    /// The serial queue: one of its jobs runs at a time
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Not before this time (RFC 3339; UTC if it has no zone)
    #[arg(long, value_name = "TIME", value_parser = value::time, conflicts_with = "delay")]
    pub run_at: Option<DateTime<Utc>>,
    /// Not before this much time has passed
    #[arg(long = "in", id = "delay", value_name = "DURATION", value_parser = value::duration)]
    pub delay: Option<Duration>,
    /// How often it may be started [default: 25]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
    /// A key: at most one waiting job has it
    #[arg(long, visible_alias = "job-key", value_name = "KEY")]
    pub key: Option<String>,
    /// What to do if the key is taken: replace, preserve_run_at or unsafe_dedupe [default: replace]
    #[arg(long, visible_alias = "job-key-mode", value_name = "MODE", value_parser = key_mode, requires = "key")]
    pub key_mode: Option<JobKeyMode>,
    /// Smaller runs sooner [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i16>,
    /// A flag; may be repeated
    #[arg(long = "flag", value_name = "FLAG")]
    pub flags: Vec<String>,
}

fn key_mode(text: &str) -> Result<JobKeyMode, String> {
    text.parse().map_err(|_| {
        let known = ["replace", "preserve_run_at", "unsafe_dedupe"];
        crate::nearest::unknown("key mode", text, known) + "; there are " + &known.join(", ")
    })
}

/// What a job is doing.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for a free worker
    Ready,
    /// Its time has not come
    Scheduled,
    /// A worker holds it
    Running,
    /// An attempt failed, and another follows
    Retrying,
    /// No attempts are left
    Dead,
}

/// In which order jobs are listed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListOrder {
    /// By id, smallest first
    Oldest,
    /// By id, greatest first
    Newest,
    /// As workers take them: those that have attempts left and that no worker holds
    Claim,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
A search is a list of terms that all hold; a - before one turns it round:

  state:dead,retrying    task:send_*    queue:\"account 7\"    key:order-*    worker:pool_*    error:refused    flag:slow
  id:100..200    priority:<0    attempts:>=3    created:>2h (more than two hours ago)    due:<10m    created:>2026-11-30
  payload.customer.id:4242    payload.total:>100    payload.note:*    4242 (an id)    send_mail (a task or a key)

  backfill jobs --where 'state:dead task:send_* payload.customer.id:4242'

Where there are millions of jobs, only so many are looked at as a moment allows, and it says how far it came.")]
pub struct JobsArgs {
    /// Only jobs that this search finds (see below)
    #[arg(long = "where", value_name = "SEARCH")]
    pub search: Option<String>,
    /// Only jobs in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only jobs of this task
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only jobs of this serial queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Only the job with this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// In which order
    #[arg(long, value_enum, default_value_t = ListOrder::Oldest)]
    pub order: ListOrder,
    /// Go on behind this place: the id of the last job of the page before, or what that said
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    pub after: Option<Place>,
    /// Look at all jobs, however long it takes (with --json, that is so anyway)
    #[arg(long)]
    pub to_the_end: bool,
    /// How many, at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
}

#[derive(clap::Args, Debug)]
pub struct JobArgs {
    /// The job's id
    pub id: JobId,
}

#[derive(clap::Args, Debug)]
pub struct IdsArgs {
    /// The jobs' ids
    #[arg(required = true)]
    pub ids: Vec<JobId>,
}

#[derive(clap::Args, Debug)]
pub struct DiscardArgs {
    #[command(flatten)]
    pub ids: IdsArgs,
    /// What becomes last_error
    #[arg(long, default_value = "Manually marked as failed")]
    pub reason: String,
}

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub struct RescheduleArgs {
    #[command(flatten)]
    pub ids: IdsArgs,
    /// A new time (RFC 3339; UTC if it has no zone)
    #[arg(long, value_name = "TIME", value_parser = value::time, group = "change", conflicts_with = "delay")]
    pub run_at: Option<DateTime<Utc>>,
    /// A new time: this much from now
    #[arg(long = "in", id = "delay", value_name = "DURATION", value_parser = value::duration, group = "change")]
    pub delay: Option<Duration>,
    /// A new priority
    #[arg(long, value_name = "N", allow_negative_numbers = true, group = "change")]
    pub priority: Option<i16>,
    /// A new count of attempts; 0 revives a dead job
    #[arg(long, value_name = "N", group = "change", value_parser = clap::value_parser!(i16).range(0..))]
    pub attempts: Option<i16>,
    /// A new maximum of attempts
    #[arg(long, value_name = "N", group = "change", value_parser = clap::value_parser!(i16).range(1..))]
    pub max_attempts: Option<i16>,
}

#[derive(clap::Args, Debug)]
pub struct RemoveArgs {
    /// The key
    pub key: String,
}
