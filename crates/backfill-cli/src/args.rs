//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use backfill::{JobId, JobKeyMode};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::value::{self, ForTask, Retry};

const AFTER_HELP: &str = "\
The database is --database-url, or DATABASE_URL (postgres://…, sqlite://jobs.db or memory:), or what PostgreSQL's \
variables say if PGSERVICE, PGHOST, PGHOSTADDR, PGUSER or PGDATABASE is among them; one that is set and empty is an error. Without a URL, jobs are kept in a SQLite file, \
backfill/jobs.db in your directory for data (~/.local/share on Linux); `backfill move --to postgres://…` moves them on. The schema is --schema, or BACKFILL_SCHEMA, or GRAPHILE_WORKER_SCHEMA, or graphile_worker.

Exit status: 0 success, 1 failure, 2 usage error, 57 a breaking migration arrived while a worker ran. What a signal ends without \
having done its work has 128 and the signal's number.

First steps:
  mkdir tasks && printf '#!/bin/sh\\ncat\\n' > tasks/hello && chmod +x tasks/hello
  backfill add hello '{\"name\": \"Ada\"}'
  backfill worker --once";

const AFTER_SHORT_HELP: &str = "More, and first steps: backfill --help";

/// A job queue on PostgreSQL, where it shares its schema with Node's graphile-worker, or in an SQLite file.
#[derive(Parser, Debug)]
#[command(name = "backfill", version, after_help = AFTER_SHORT_HELP, after_long_help = AFTER_HELP, max_term_width = 110)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(clap::Args, Debug, Clone)]
pub struct Global {
    /// Where the jobs are
    ///
    /// This is postgres://user:password@host:port/database, sqlite://jobs.db or memory:. If it holds a password, the program starts
    /// itself again without it on the command line, where every user of the machine could read it.
    #[arg(short = 'c', long, visible_alias = "connection", global = true, value_name = "URL", help_heading = DATABASE)]
    pub database_url: Option<String>,
    /// The schema of the queue, in PostgreSQL [default: graphile_worker]
    #[arg(short = 's', long, global = true, value_name = "NAME", help_heading = DATABASE, hide_short_help = true)]
    pub schema: Option<String>,
    /// Do not prepare statements by name: for poolers in transaction mode
    #[arg(long, global = true, help_heading = DATABASE, hide_short_help = true)]
    pub no_prepared_statements: bool,
    /// Print JSON, for machines
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub json: bool,
    /// When to use colours
    ///
    /// With auto, they are for terminals, unless NO_COLOR is set; CLICOLOR_FORCE=1 asks for them everywhere.
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto, help_heading = OUTPUT, hide_short_help = true)]
    pub color: ColorChoice,
    /// Log more; repeat for still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = OUTPUT, hide_short_help = true)]
    pub verbose: u8,
    /// Do not log jobs that are done (as NO_LOG_SUCCESS does)
    #[arg(short, long, global = true, help_heading = OUTPUT, hide_short_help = true)]
    pub quiet: bool,
    /// How the log looks, which goes to standard error
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, global = true, help_heading = OUTPUT, hide_short_help = true)]
    pub log_format: LogFormat,
}

/// What the options are about, in the help.
const TASKS: &str = "Tasks";
const LIMITS: &str = "Limits";
const CRONTAB: &str = "Crontab";
const FINDING: &str = "How jobs are found";
const PREFETCHING: &str = "Prefetching";
const SHUTDOWN: &str = "Shutdown";
const DEAD_WORKERS: &str = "Dead workers";
const DATABASE: &str = "Database";
const OUTPUT: &str = "Output";

/// How the log looks.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people: short ones on a terminal
    Text,
    /// One JSON document a line
    Json,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create the queue, or bring it up to date
    Migrate,
    /// Run jobs
    Worker(Box<WorkerArgs>),
    /// Add a job, or many from a file
    Add(AddArgs),
    /// List jobs
    Jobs(JobsArgs),
    /// Show everything about one job
    Job(JobArgs),
    /// Delete jobs as if they were done
    Complete(IdsArgs),
    /// Make jobs dead: they stay, and do not run again
    Discard(DiscardArgs),
    /// Change time, priority or attempts of jobs
    Reschedule(RescheduleArgs),
    /// Let jobs run as soon as a worker is free, dead ones too
    RunNow(IdsArgs),
    /// Remove the job that has this key
    Remove(RemoveArgs),
    /// Release what dead workers hold
    Unlock(UnlockArgs),
    /// List serial queues
    Queues,
    /// List task names
    Tasks,
    /// List workers
    Workers,
    /// List the crontab entries that workers have run
    Crontabs,
    /// Count jobs by state and task
    Stats(StatsArgs),
    /// Delete what is no longer needed
    Cleanup(CleanupArgs),
    /// Look at crontab files
    Crontab(CrontabArgs),
    /// Move waiting jobs to another database
    #[command(alias = "copy")]
    Move(MoveArgs),
    /// Check the database, the schema and the connection for problems
    Doctor,
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page of the program or of a command, or write all of them
    #[command(hide = true)]
    Man(ManArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Tasks are programs in a directory, in any language: the file tasks/mail/send.sh runs the jobs of the task mail/send. A program \
gets {\"payload\": …} on its standard input, and GRAPHILE_WORKER_JOB_ID, _JOB_KEY, _JOB_ATTEMPTS, _JOB_MAX_ATTEMPTS, _JOB_PRIORITY, \
_JOB_RUN_AT, _TASK_IDENTIFIER and _PAYLOAD_FORMAT in its environment. Exit status 0 means done; anything else fails the attempt, and \
the last lines of its standard error become last_error. What it prints goes to the log. A program that is put into the directory later \
is a task too, and one that is taken out of it is none any more.

A crontab is in Graphile's dialect, which Node reads too. After the comment `# dialect: extended` (or, for one line, with the option \
?dialect=extended) it may say more: names such as MON, steps of ranges, @daily, seconds before the minutes, and ?tz=Europe/Berlin. \
`backfill crontab check FILE` tells what is wrong with one, or when it is due.

The first SIGINT, SIGTERM or SIGHUP lets running jobs end; a second one forces the end. A worker whose log nobody reads any more ends as by \
a signal. One that is killed (SIGKILL) cannot end its programs: each runs on, beside the next attempt.")]
#[expect(clippy::struct_excessive_bools, reason = "switches, independent of each other")]
pub struct WorkerArgs {
    /// The directory of the tasks [default: tasks]
    #[arg(long, value_name = "DIR", help_heading = TASKS)]
    pub tasks: Option<PathBuf>,
    /// Run what is ready, then end; the crontab is not run
    #[arg(long, help_heading = TASKS)]
    pub once: bool,
    /// How often to look for programs that were put into that directory, or taken out of it; 0s for never
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "2s", help_heading = TASKS, hide_short_help = true)]
    pub rescan_interval: Duration,
    /// Let programs have the variables that hold the database's password (DATABASE_URL, PGPASSWORD, …), as Node's worker does
    #[arg(long, help_heading = TASKS, hide_short_help = true)]
    pub pass_secrets: bool,
    /// How many jobs run at once
    ///
    /// Node's name for it, --jobs, is understood too.
    #[arg(short = 'j', long, alias = "jobs", value_name = "N", default_value_t = 10, value_parser = value::up_to(1_000_000), help_heading = LIMITS)]
    pub concurrency: usize,
    /// How many jobs of one task run at the same time
    #[arg(long, value_name = "TASK=N", value_parser = value::task_count, help_heading = LIMITS, hide_short_help = true)]
    pub task_concurrency: Vec<ForTask<usize>>,
    /// How long a job may run [default: 4h]
    ///
    /// It may be said of all tasks or of one, and be repeated.
    #[arg(long, value_name = "[TASK=]TIME", value_parser = value::task_duration, help_heading = LIMITS)]
    pub timeout: Vec<ForTask<Duration>>,
    /// When to try failed jobs again [default: graphile]
    ///
    /// The policy is graphile, fixed:10s, linear:10s:1h (step and cap) or exponential:1s:2:1h (first delay, factor and cap).
    #[arg(long, value_name = "[TASK=]POLICY", value_parser = value::task_retry, help_heading = LIMITS, hide_short_help = true)]
    pub retry: Vec<ForTask<Retry>>,
    /// Leave jobs alone that have any of these flags
    #[arg(long, value_name = "FLAG,…", value_delimiter = ',', help_heading = LIMITS, hide_short_help = true)]
    pub forbidden_flags: Vec<String>,
    /// A crontab to run [default: crontab, if that is there]
    #[arg(long, value_name = "FILE", help_heading = CRONTAB)]
    pub crontab: Option<PathBuf>,
    /// Go by this machine's clock, not the database's
    #[arg(long, visible_alias = "use-node-time", help_heading = CRONTAB, hide_short_help = true)]
    pub client_time: bool,
    /// How often to look for jobs without being told
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "2s", help_heading = FINDING, hide_short_help = true)]
    pub poll_interval: Duration,
    /// Do not listen for notifications, only poll: for poolers in transaction mode
    #[arg(long, help_heading = FINDING, hide_short_help = true)]
    pub no_listen: bool,
    /// Refuse direct handoff: claim every job. Otherwise a single new job may be stored as claimed by an idle worker
    #[arg(long, help_heading = FINDING, hide_short_help = true)]
    pub no_handoff: bool,
    /// Hold up to this many jobs ready beyond those that run
    #[arg(long, value_name = "N", help_heading = PREFETCHING, hide_short_help = true)]
    pub prefetch: Option<usize>,
    /// How long a prefetched job may wait before it is released
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5m", requires = "prefetch", help_heading = PREFETCHING, hide_short_help = true)]
    pub prefetch_ttl: Duration,
    /// After a prefetch that found little, wait about this long before the next
    #[arg(long, value_name = "DURATION", value_parser = value::duration, requires = "prefetch", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_delay: Option<Duration>,
    /// What "little" means
    #[arg(long, value_name = "N", default_value_t = 0, requires = "refetch_delay", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_threshold: usize,
    /// How many announced jobs end that wait early, about [default: five times the size]
    #[arg(long, value_name = "N", requires = "refetch_delay", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_abort_at: Option<u64>,
    /// When programs that still run are killed
    ///
    /// Their jobs are ready again at once.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "25s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub grace: Duration,
    /// When programs that still run get SIGTERM
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub cancel_after: Duration,
    /// How long after the first signal another one forces the end; what comes sooner says nothing new
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub second_signal_after: Duration,
    /// How often to send a heartbeat
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub heartbeat_interval: Duration,
    /// After how long without a heartbeat a worker counts as dead, and its jobs are freed
    ///
    /// It is at least two and a half times the heartbeat interval. Of two workers' settings the longer one holds. With --once, a run
    /// that ends sooner frees no job of another.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "15s", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub dead_after: Duration,
    /// How often locks older than four hours are looked for, at least
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "8m", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub min_reset_locked_interval: Duration,
    /// The same, at most
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "10m", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub max_reset_locked_interval: Duration,
    /// Do not create or upgrade the schema
    #[arg(long, help_heading = DATABASE, hide_short_help = true)]
    pub no_migrate: bool,
    /// Fail if the database cannot be reached at the start, rather than wait for it (--once never waits)
    #[arg(long, help_heading = DATABASE, hide_short_help = true)]
    pub fail_fast: bool,
}

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

#[derive(clap::Args, Debug)]
pub struct JobsArgs {
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
    /// Only jobs with a greater id: the last one of the page before
    #[arg(long, value_name = "ID")]
    pub after: Option<JobId>,
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

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Only for workers that are known to be dead: a live one finds its claims gone and its jobs started by others. \
`backfill workers` lists workers."
)]
pub struct UnlockArgs {
    /// The workers' ids (of Node from 0.17 on: its pools' ids)
    #[arg(required = true, value_name = "WORKER")]
    pub workers: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct StatsArgs {
    /// Look again and again, every so many seconds [default: 2]
    ///
    /// On a terminal it is drawn in place, with what has changed since the last look, until q or Ctrl-C ends it. Elsewhere each look is a block
    /// of lines, or a JSON document a line. Less than a second has a unit: 500ms. The jobs done a second are those that are gone, so
    /// removed ones count too; an add that only changes a waiting job may count as added and done.
    #[arg(long, value_name = "SECONDS", value_parser = value::seconds, num_args = 0..=1, default_missing_value = "2")]
    pub watch: Option<Duration>,
}

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub struct CleanupArgs {
    /// Delete dead jobs
    #[arg(long, group = "what")]
    pub dead: bool,
    /// Forget task names that no job has. A running Node worker does not see new jobs of a forgotten name until it restarts:
    /// name those to keep
    #[arg(long, group = "what")]
    pub tasks: bool,
    /// Forget serial queues that no job is in
    #[arg(long, group = "what")]
    pub queues: bool,
    /// A task name to keep although no job has it; may be repeated
    #[arg(long, value_name = "NAME", requires = "tasks")]
    pub keep_task: Vec<String>,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Jobs that wait are moved with their keys, queues, times, priorities, flags and attempts; they get new ids. Running and dead ones \
stay. A job whose key another job has at the other place stays too. Workers may run at both places meanwhile: no job is run at \
both, but a serial queue and a key hold for each place alone, and a crontab should run at one only (its last times stay). If the move is interrupted, run it again: it goes on where it was, and nothing is moved twice. (Do not unlock what an \
interrupted move holds: some of it may have arrived.)

  backfill move --to postgres://user@host/app                   from the database that is meant otherwise
  backfill move --from sqlite://jobs.db --to postgres://user@host/app")]
pub struct MoveArgs {
    /// From where [default: the database that is meant otherwise]
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// To where; the queue is created there if it is missing. --schema holds for each that is PostgreSQL
    #[arg(long, value_name = "URL")]
    pub to: String,
}

#[derive(clap::Args, Debug)]
pub struct CrontabArgs {
    #[command(subcommand)]
    pub command: CrontabCommand,
}

#[derive(Subcommand, Debug)]
pub enum CrontabCommand {
    /// Tell every problem of a crontab, or when its entries are due. Needs no database
    ///
    /// Lines are in Graphile's dialect, which Node reads too: five fields, a task, ?options, a JSON5 payload. After the comment
    /// `# dialect: extended` (or with the option ?dialect=extended on one line) they may say more: names such as MON, steps of
    /// ranges such as 1-5/2, @daily and the like, seconds before the minutes, and a time zone with ?tz=Europe/Berlin.
    Check {
        /// The file, or - for standard input
        file: PathBuf,
        /// How many due times to tell of each entry
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = value::up_to(1000))]
        next: usize,
    },
}

#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Of this command
    pub command: Option<String>,
    /// Write all pages into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub all: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
