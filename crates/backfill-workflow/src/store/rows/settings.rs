//! What is configured: queues, schedules, versions.

use serde::{Deserialize, Serialize};

use super::Ms;

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub limit: i64,
    /// In how long, in milliseconds.
    pub period: Ms,
}

/// A queue's settings. They are in the database, for all processes, and may be changed while they run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// How many run at once, in all processes.
    pub concurrency: Option<i64>,
    /// How many run at once in each process.
    pub worker_concurrency: Option<i64>,
    /// How many start in a period, in all processes.
    pub rate: Option<Rate>,
    /// Whether each workflow names a part of the queue.
    pub partitioned: bool,
    /// How many of each part run at once, in all processes.
    pub partition_concurrency: Option<i64>,
    /// How many of each part run at once in each process.
    pub partition_worker_concurrency: Option<i64>,
    /// How many of each part start in a period, in all processes.
    pub partition_rate: Option<Rate>,
    /// How often a process looks, besides being told.
    pub polling: Ms,
}

/// A schedule's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The workflow that it starts.
    pub workflow: String,
    /// The class of the workflow, in languages that have them.
    pub class: Option<String>,
    /// The cron expression: seconds, minutes, hours, day, month, day of week.
    pub cron: String,
    /// Whether it starts nothing for now.
    pub paused: bool,
    /// What each workflow is told, in the portable format.
    pub context: String,
    /// The moment for which it started one last, as RFC 3339.
    pub last_fired_at: Option<String>,
    /// Whether what was missed is made up for.
    pub catch_up: bool,
    /// The time zone, by its IANA name. `None` is UTC.
    pub time_zone: Option<String>,
    /// The queue of what it starts.
    pub queue: Option<String>,
    /// The application that it belongs to.
    pub application: Option<String>,
}

/// A version of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The application whose version it is.
    pub application: Option<String>,
    /// The latest version is the one with the greatest.
    pub timestamp: Ms,
    /// When it was seen first.
    pub created_at: Ms,
}
