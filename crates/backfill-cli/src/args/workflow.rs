//! What can be said to `backfill workflow`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Subcommand, ValueEnum};

use crate::value;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
The workflows are those of the crate backfill-workflow, and of DBOS's libraries: in PostgreSQL they are in the schema dbos, unless --schema names \
another. A workflow's id may be shortened in no command.

  backfill workflow list --status error
  backfill workflow show order-17
  backfill workflow fork order-17 --last-failure")]
pub struct WorkflowArgs {
    #[command(subcommand)]
    pub command: WorkflowCommand,
}

#[derive(Subcommand, Debug)]
pub enum WorkflowCommand {
    /// List workflows, newest first
    List(ListArgs),
    /// Show everything about one workflow, with its steps as a timeline
    Show {
        /// The id
        id: String,
    },
    /// List the steps of a workflow
    Steps {
        /// The id
        id: String,
    },
    /// Put a workflow into a queue, and print its id
    Start(StartArgs),
    /// Send a message to a workflow
    SendTo(SendToArgs),
    /// Cancel workflows that have not ended
    Cancel {
        /// The ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Also all that they have started
        #[arg(long)]
        children: bool,
    },
    /// Let workflows go on that were cancelled, or were begun too often
    Resume {
        /// The ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// The queue they go to [default: the engine's own]
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
    },
    /// Start a workflow that begins like another one, and print its id
    Fork(ForkArgs),
    /// Delete workflows with all that is theirs
    Delete {
        /// The ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Also all that they have started
        #[arg(long)]
        children: bool,
    },
    /// Put back what executors were running that are known to be dead
    ///
    /// Executors of this library are missed by themselves. Those of DBOS's libraries hold no lease: name them.
    Recover {
        /// The executors
        #[arg(required = true, value_name = "EXECUTOR")]
        executors: Vec<String>,
        /// What belongs to this version alone
        #[arg(long, value_name = "VERSION")]
        app_version: Option<String>,
    },
    /// List schedules, or pause, resume, trigger, make up for, or delete one
    Schedules {
        #[command(subcommand)]
        command: Option<ScheduleCommand>,
    },
    /// List the queues' settings, with what waits and runs in them
    Queues,
    /// List versions of the program, or make one the latest
    Versions {
        /// Make this one the latest
        #[arg(long, value_name = "VERSION")]
        set_latest: Option<String>,
    },
    /// Delete workflows that have ended, in small transactions
    Gc(GcArgs),
    /// Make the tables, or bring them up to date
    Migrate,
}

/// What has become of a workflow.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowStatus {
    Enqueued,
    Delayed,
    Pending,
    Success,
    Error,
    Cancelled,
    /// Begun too often without an end
    Exhausted,
}

#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Only of this status; may be repeated
    #[arg(long, value_enum, value_name = "STATUS")]
    pub status: Vec<WorkflowStatus>,
    /// Only of this name; may be repeated
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Only in this queue; may be repeated
    #[arg(long, value_name = "QUEUE")]
    pub queue: Vec<String>,
    /// Only those whose id begins so; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Vec<String>,
    /// Only those that this workflow has started
    #[arg(long, value_name = "ID")]
    pub parent: Option<String>,
    /// Only those that this user has asked for
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    /// How many are left out at the beginning
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u32,
}

#[derive(clap::Args, Debug)]
pub struct StartArgs {
    /// The workflow's name
    pub name: String,
    /// Its input, as JSON [default: none]
    pub input: Option<String>,
    /// Its id; one that is there is not started again
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The queue [default: the engine's own]
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// How long it waits before it goes to the queue
    #[arg(long = "in", id = "delay", value_name = "DURATION", value_parser = value::duration, requires = "queue")]
    pub delay: Option<Duration>,
    /// Smaller comes first
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "queue")]
    pub priority: Option<i32>,
    /// What must be unique among those in the queue that have not ended
    #[arg(long, value_name = "ID", requires = "queue")]
    pub deduplication: Option<String>,
    /// The part of a partitioned queue
    #[arg(long, value_name = "PART", requires = "queue")]
    pub partition: Option<String>,
    /// How long it may run
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub timeout: Option<Duration>,
    /// The version of the program that is to run it [default: the latest]
    #[arg(long, value_name = "VERSION")]
    pub app_version: Option<String>,
}

#[derive(clap::Args, Debug)]
pub struct SendToArgs {
    /// The workflow's id
    pub id: String,
    /// The message, as JSON
    pub message: String,
    /// The topic [default: none]
    #[arg(long, value_name = "TOPIC", default_value = "", hide_default_value = true)]
    pub topic: String,
    /// With a key, it is sent once however often this is called
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("from").required(true))]
pub struct ForkArgs {
    /// The workflow's id
    pub id: String,
    /// From the step with this number on, it runs anew
    #[arg(long, value_name = "N", group = "from")]
    pub step: Option<i32>,
    /// From the first step of this name on
    #[arg(long, value_name = "NAME", group = "from")]
    pub step_name: Option<String>,
    /// From the last step that has failed on
    #[arg(long, group = "from")]
    pub last_failure: bool,
    /// From the last step on
    #[arg(long, group = "from")]
    pub last_step: bool,
    /// The new one's id
    #[arg(long, value_name = "ID")]
    pub new_id: Option<String>,
    /// Its queue [default: the engine's own]
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// The version of the program that is to run it [default: the source's]
    #[arg(long, value_name = "VERSION")]
    pub app_version: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum ScheduleCommand {
    /// Let a schedule start nothing for now
    Pause {
        /// The schedule
        name: String,
    },
    /// Let a paused schedule go on
    Resume {
        /// The schedule
        name: String,
    },
    /// Start what it starts, now, and print the workflow's id
    Trigger {
        /// The schedule
        name: String,
    },
    /// Start what it would have started between two moments, and print the ids
    Backfill {
        /// The schedule
        name: String,
        /// After this moment (RFC 3339; UTC if it has no zone)
        #[arg(long, value_name = "TIME", value_parser = value::time)]
        from: DateTime<Utc>,
        /// Before this moment
        #[arg(long, value_name = "TIME", value_parser = value::time)]
        until: DateTime<Utc>,
    },
    /// Forget a schedule
    Delete {
        /// The schedule
        name: String,
    },
}

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub struct GcArgs {
    /// Those that ended longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = value::duration, group = "what")]
    pub older_than: Option<Duration>,
    /// All but so many of those that ended last
    #[arg(long, value_name = "N", group = "what")]
    pub keep: Option<u64>,
}
