//! What an administrator sees of queues, tasks and workers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Counts, WorkerStatus};
use crate::json;

/// A serial queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Since when one of its jobs runs.
    #[serde(serialize_with = "json::optional_time")]
    pub locked_at: Option<DateTime<Utc>>,
    /// The worker that runs it.
    pub locked_by: Option<String>,
    /// Its jobs by state.
    pub jobs: Counts,
}

impl QueueInfo {
    /// A free queue.
    #[must_use]
    pub fn new(name: String, jobs: Counts) -> Self {
        Self { name, locked_at: None, locked_by: None, jobs }
    }
}

/// A task name that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TaskInfo {
    /// The name.
    pub name: String,
    /// Its jobs by state.
    pub jobs: Counts,
    /// The `run_at` of the ready job that waits longest.
    #[serde(serialize_with = "json::optional_time")]
    pub oldest_ready: Option<DateTime<Utc>>,
}

impl TaskInfo {
    /// A task with these jobs, none of them ready.
    #[must_use]
    pub fn new(name: String, jobs: Counts) -> Self {
        Self { name, jobs, oldest_ready: None }
    }
}

/// A worker that sends heartbeats or holds something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its id.
    pub id: String,
    /// When it registered; `None` for workers that do not, which are Node's.
    #[serde(serialize_with = "json::optional_time")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it last sent a heartbeat, by the storage's clock.
    #[serde(serialize_with = "json::optional_time")]
    pub seen_at: Option<DateTime<Utc>>,
    /// How long ago that was, by the storage's clock.
    #[serde(rename = "last_seen_ago_seconds", serialize_with = "json::optional_seconds")]
    pub last_seen_ago: Option<Duration>,
    /// The tasks that it runs, sorted; `None` if it does not tell, as Node's.
    pub tasks: Option<Vec<String>>,
    /// What it says of itself, if it does.
    pub status: Option<WorkerStatus>,
    /// How many jobs it holds.
    pub jobs: u64,
    /// How many serial queues it holds.
    pub queues: u64,
    /// Since when it holds the job or queue that it has held longest.
    #[serde(serialize_with = "json::optional_time")]
    pub oldest_lock: Option<DateTime<Utc>>,
}

impl WorkerInfo {
    /// A worker that holds nothing.
    #[must_use]
    pub fn new(id: String) -> Self {
        Self {
            id,
            started_at: None,
            seen_at: None,
            last_seen_ago: None,
            tasks: None,
            status: None,
            jobs: 0,
            queues: 0,
            oldest_lock: None,
        }
    }
}
