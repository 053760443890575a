//! What can be said on the command line.

mod jobs;
mod messages;
mod worker;
mod workflow;

pub use jobs::{
    AddArgs, DiscardArgs, IdsArgs, JobArgs, JobsArgs, ListOrder, RemoveArgs, RescheduleArgs, SpecArgs, State,
};
pub use messages::{
    AckArgs, ControlArgs, ControlCommand, EventsArgs, HeartbeatArgs, MessagesArgs, MessagesCommand, NackArgs,
    RenewArgs, SendArgs, TakeArgs,
};
pub use worker::WorkerArgs;
pub use workflow::{
    ForkArgs, GcArgs, ListArgs, ScheduleCommand, SendToArgs, StartArgs, WorkflowArgs, WorkflowCommand, WorkflowStatus,
};

use std::path::PathBuf;
use std::time::Duration;

use backfill::postgres::ListIndex;
use clap::{ArgGroup, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::value;

const AFTER_HELP: &str = "\
The database is --database-url, or DATABASE_URL (postgres://…, sqlite://jobs.db, redis://… or memory:), or what PostgreSQL's \
variables say if PGSERVICE, PGHOST, PGHOSTADDR, PGUSER or PGDATABASE is among them; one that is set and empty is an error. Without a URL, jobs are kept in a SQLite file, \
backfill/jobs.db in your directory for data (~/.local/share on Linux); `backfill move --to postgres://…` moves them on. The schema is --schema, or BACKFILL_SCHEMA, or GRAPHILE_WORKER_SCHEMA, or graphile_worker (in Redis it is called a namespace, and is backfill).

Exit status: 0 success, 1 failure, 2 usage error, 3 and 4 see `backfill messages --help`, 57 a breaking migration arrived while a worker ran. What a signal ends without \
having done its work has 128 and the signal's number.

First steps:
  mkdir tasks && printf '#!/bin/sh\\ncat\\n' > tasks/hello && chmod +x tasks/hello
  backfill add hello '{\"name\": \"Ada\"}'
  backfill worker --once";

const AFTER_SHORT_HELP: &str = "More, and first steps: backfill --help";

/// A job queue on PostgreSQL, where it shares its schema with Node's graphile-worker, in an SQLite file, or in Redis.
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
    /// This is postgres://user:password@host:port/database, sqlite://jobs.db, redis://user:password@host:port/0 or memory:. If it holds a password, the program starts
    /// itself again without it on the command line, where every user of the machine could read it.
    #[arg(short = 'c', long, visible_alias = "connection", global = true, value_name = "URL", help_heading = DATABASE)]
    pub database_url: Option<String>,
    /// The schema of the queue in PostgreSQL, or its namespace in Redis [default: graphile_worker, or backfill; of messages: backfill_messages; of workflows: dbos]
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
    Migrate(MigrateArgs),
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
    Queues(QueuesArgs),
    /// List task names
    Tasks(CountArgs),
    /// List workers
    Workers(CountArgs),
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
    /// Send, take and end messages: a durable queue for scripts
    Messages(Box<MessagesArgs>),
    /// Look at durable workflows, and steer them
    Workflow(Box<WorkflowArgs>),
    /// Open the admin page on this machine
    #[cfg(feature = "ui")]
    Ui(UiArgs),
    /// Check the database, the schema and the connection for problems
    Doctor(CountArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page of the program or of a command, or write all of them
    #[command(hide = true)]
    Man(ManArgs),
}

#[derive(clap::Args, Debug)]
pub struct MigrateArgs {
    /// Also indexes for those who look, in PostgreSQL, built while others work. Without a list: dead,retrying, which are there by default unless
    /// the table was large. Each of the others costs every job something, which is printed: running,task,queue
    #[arg(long, value_name = "LIST", num_args = 0..=1, default_missing_value = "dead,retrying", value_delimiter = ',')]
    pub indexes: Vec<ListIndex>,
    /// Also what messages need: lines, leases, documents and events (`backfill messages` does this by itself)
    #[arg(long)]
    pub messages: bool,
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

/// How well jobs are counted.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct CountArgs {
    /// Count every job, however long it takes. Otherwise, where there are more than about 200 000, numbers are estimated (≈), or counted up to
    /// a cap (+)
    #[arg(long)]
    pub exact: bool,
}

#[cfg(feature = "ui")]
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The page is for this machine alone: whoever can reach the address may do everything, so no other address is taken, and requests under other \
names are refused. To show it to others, mount it in your own program, which knows who they are: the crate backfill-admin.")]
pub struct UiArgs {
    /// Where to listen: an address of this machine alone, and a port; 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: std::net::SocketAddr,
    /// Change nothing
    #[arg(long)]
    pub read_only: bool,
    /// What the queue is called on the page [default: its database]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The colour of the band over each page, such as #b00020: against taking one queue for another
    #[arg(long, value_name = "COLOUR")]
    pub colour: Option<String>,
}

#[derive(clap::Args, Debug)]
pub struct QueuesArgs {
    /// Only queues whose name is like this; * stands for any text
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Go on behind this name: the last one of the page before
    #[arg(long, value_name = "NAME")]
    pub after: Option<String>,
    /// How many, at the most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: Option<u32>,
    #[command(flatten)]
    pub count: CountArgs,
}

#[derive(clap::Args, Debug)]
pub struct StatsArgs {
    #[command(flatten)]
    pub count: CountArgs,
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
