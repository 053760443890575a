//! What an administrator sees of queues, tasks and workers.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Counts, Effort, Precision, WorkerStatus};
use crate::job::{Job, JobState};
use crate::json;
use crate::search::Pattern;

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
    /// How well those numbers are known.
    pub precision: Precision,
}

/// Which serial queues to list, by name.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct QueueList {
    /// Those whose name is like this. Default: all.
    pub name: Option<Pattern>,
    /// Those behind this name: the last one of the page before.
    pub after: Option<String>,
    /// How many, at most. Default: any number.
    pub limit: Option<u32>,
    /// How much may be done to count their jobs.
    pub effort: Effort,
}

impl QueueList {
    /// All of them.
    pub fn all(effort: Effort) -> Self {
        Self { effort, ..Self::default() }
    }

    /// Only those whose name is like this.
    pub fn name(mut self, name: Option<Pattern>) -> Self {
        self.name = name;
        self
    }

    /// Only those behind this name.
    pub fn after(mut self, name: Option<String>) -> Self {
        self.after = name;
        self
    }

    /// So many at most.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Those of these queues that are wanted; they come by name.
    #[must_use]
    pub fn among(&self, queues: impl IntoIterator<Item = QueueInfo>) -> Vec<QueueInfo> {
        let is_wanted = |queue: &QueueInfo| {
            self.name.as_ref().is_none_or(|name| name.matches(&queue.name))
                && self.after.as_ref().is_none_or(|after| queue.name > *after)
        };
        queues.into_iter().filter(is_wanted).take(self.limit.map_or(usize::MAX, |limit| limit as usize)).collect()
    }
}

impl QueueInfo {
    /// A queue with those of these jobs that are in it. It is held as long as one of them is.
    #[must_use]
    pub fn of<'a>(name: &str, jobs: impl IntoIterator<Item = &'a Job, IntoIter: Clone>, now: DateTime<Utc>) -> Self {
        let its = jobs.into_iter().filter(|job| job.queue.as_deref() == Some(name));
        let held = its.clone().filter(|job| job.locked_at.is_some()).min_by_key(|job| job.locked_at);
        Self {
            locked_at: held.and_then(|job| job.locked_at),
            locked_by: held.and_then(|job| job.locked_by.clone()),
            ..Self::new(name.to_owned(), Counts::of(its, now))
        }
    }

    /// A free queue.
    #[must_use]
    pub fn new(name: String, jobs: Counts) -> Self {
        Self { name, locked_at: None, locked_by: None, jobs, precision: Precision::Exact }
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
    /// How well those numbers are known.
    pub precision: Precision,
    /// The `run_at` of the ready job that waits longest. `None` also where it would take too long to find.
    #[serde(serialize_with = "json::optional_time")]
    pub oldest_ready: Option<DateTime<Utc>>,
}

impl TaskInfo {
    /// A task with those of these jobs that are its own.
    #[must_use]
    pub fn of<'a>(name: &str, jobs: impl IntoIterator<Item = &'a Job, IntoIter: Clone>, now: DateTime<Utc>) -> Self {
        let its = jobs.into_iter().filter(|job| job.task == name);
        let ready = its.clone().filter(|job| job.state(now) == JobState::Ready);
        Self { oldest_ready: ready.map(|job| job.run_at).min(), ..Self::new(name.to_owned(), Counts::of(its, now)) }
    }

    /// A task with these jobs, none of them ready.
    #[must_use]
    pub fn new(name: String, jobs: Counts) -> Self {
        Self { name, jobs, precision: Precision::Exact, oldest_ready: None }
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
    /// How well that is known: where reading all jobs would take too long, it is what the worker says itself.
    pub precision: Precision,
    /// How many serial queues it holds.
    pub queues: u64,
    /// Since when it holds the job or queue that it has held longest.
    #[serde(serialize_with = "json::optional_time")]
    pub oldest_lock: Option<DateTime<Utc>>,
}

impl WorkerInfo {
    /// These workers and what they hold of these jobs and queues, with those that hold something and are not registered; by id.
    #[must_use]
    pub fn holding<'a>(
        registered: impl IntoIterator<Item = Self>,
        jobs: impl IntoIterator<Item = &'a Job>,
        queues: &[QueueInfo],
    ) -> Vec<Self> {
        let mut workers: BTreeMap<String, Self> = registered.into_iter().map(|it| (it.id.clone(), it)).collect();
        let jobs = jobs.into_iter().filter_map(|job| Some((job.locked_by.clone()?, job.locked_at?, 1, 0)));
        let queues = queues.iter().filter_map(|queue| Some((queue.locked_by.clone()?, queue.locked_at?, 0, 1)));
        for (by, at, jobs, queues) in jobs.chain(queues) {
            let worker = workers.entry(by).or_insert_with_key(|by| Self::new(by.clone()));
            worker.jobs += jobs;
            worker.queues += queues;
            worker.oldest_lock = Some(worker.oldest_lock.map_or(at, |oldest| oldest.min(at)));
        }
        workers.into_values().collect()
    }

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
            precision: Precision::Exact,
            queues: 0,
            oldest_lock: None,
        }
    }
}
