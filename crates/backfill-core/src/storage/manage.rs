//! Arguments and answers of the administrative verbs.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::Serialize;

use crate::error::{Error, FailureKind, Result};
use crate::job::limits::{check_delay, check_time};
use crate::job::{Job, JobId, JobState, Priority};

/// The moment of the lock of jobs that are being moved to another storage: so late that no sweep takes it for old.
#[must_use]
pub fn reserved_at() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(9000, 1, 1).unwrap_or_default().and_time(NaiveTime::MIN).and_utc()
}

/// Fails if a job that is to be moved holds a payload that is not valid UTF-8: what would arrive is not what was stored.
///
/// # Errors
/// [`Error::Storage`], with the job's number.
pub fn check_whole(jobs: &[Job]) -> Result<()> {
    match jobs.iter().find(|job| job.payload.is_damaged()) {
        None => Ok(()),
        Some(job) => Err(Error::storage(
            "move jobs",
            FailureKind::Invalid,
            format!(
                "the payload of job {} is not valid UTF-8, so it cannot be moved; repair or delete the row",
                job.id
            ),
        )),
    }
}

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Migrated {
    /// The revision found, if there was one.
    pub from: Option<i32>,
    /// The revision now.
    pub to: i32,
}

impl Migrated {
    /// A report.
    #[must_use]
    pub fn new(from: Option<i32>, to: i32) -> Self {
        Self { from, to }
    }
}

/// What to change about jobs; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Reschedule {
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) run_in: Option<Duration>,
    pub(super) priority: Option<Priority>,
    pub(super) attempts: Option<i16>,
    pub(super) max_attempts: Option<i16>,
}

impl Reschedule {
    /// Nothing changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new time.
    pub fn run_at(mut self, time: DateTime<Utc>) -> Self {
        self.run_at = Some(time);
        self.run_in = None;
        self
    }

    /// A new time, so long after now by the storage's clock. Zero is now.
    pub fn run_in(mut self, delay: Duration) -> Self {
        self.run_in = Some(delay);
        self.run_at = None;
        self
    }

    /// A new priority; 0 is a priority like any other (Node's helper cannot set it).
    pub fn priority(mut self, priority: impl Into<Priority>) -> Self {
        self.priority = Some(priority.into());
        self
    }

    /// A new count of attempts. 0 revives a dead job.
    pub fn attempts(mut self, attempts: i16) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// A new maximum. Raising it revives a dead job.
    pub fn max_attempts(mut self, attempts: i16) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Refuses what no job may have. Every storage does so before it changes anything.
    ///
    /// # Errors
    /// [`Error::InvalidJob`].
    pub fn check(&self) -> Result<()> {
        let refuse =
            |what, value: String, problem: &str| Err(Error::InvalidJob { what, value, problem: problem.to_owned() });
        if let Some(attempts) = self.attempts.filter(|attempts| *attempts < 0) {
            return refuse("attempts", attempts.to_string(), "must be at least 0");
        }
        if let Some(attempts) = self.max_attempts.filter(|attempts| *attempts < 1) {
            return refuse("max_attempts", attempts.to_string(), "must be at least 1");
        }
        self.run_in.map_or(Ok(()), check_delay)?;
        self.run_at.map_or(Ok(()), check_time)
    }

    /// The new time, if any.
    #[must_use]
    pub fn get_run_at(&self) -> Option<DateTime<Utc>> {
        self.run_at
    }

    /// How long after now the new time is, if that is how it was given.
    #[must_use]
    pub fn get_run_in(&self) -> Option<Duration> {
        self.run_in
    }

    /// The new priority, if any.
    #[must_use]
    pub fn get_priority(&self) -> Option<Priority> {
        self.priority
    }

    /// The new count of attempts, if any.
    #[must_use]
    pub fn get_attempts(&self) -> Option<i16> {
        self.attempts
    }

    /// The new maximum, if any.
    #[must_use]
    pub fn get_max_attempts(&self) -> Option<i16> {
        self.max_attempts
    }
}

/// What to delete. Each part is off until it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Cleanup {
    /// Delete dead jobs that nobody holds (`DELETE_PERMAFAILED_JOBS` of Node).
    pub dead_jobs: bool,
    /// Forget task names that no job has, except those in `keep_tasks` (`GC_TASK_IDENTIFIERS`).
    pub tasks: bool,
    /// Forget serial queues that no job is in (`GC_JOB_QUEUES`).
    pub queues: bool,
    /// Task names to keep although no job has them. Node workers remember ids, not names: keep every name that
    /// a running Node worker serves, or it will not see new jobs of that name until it restarts.
    pub keep_tasks: Vec<String>,
}

impl Cleanup {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also dead jobs.
    pub fn dead_jobs(mut self) -> Self {
        self.dead_jobs = true;
        self
    }

    /// Also unused task names, except these.
    pub fn tasks<S: Into<String>>(mut self, keep: impl IntoIterator<Item = S>) -> Self {
        self.tasks = true;
        self.keep_tasks.extend(keep.into_iter().map(Into::into));
        self
    }

    /// Also unused queues.
    pub fn queues(mut self) -> Self {
        self.queues = true;
        self
    }
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Dead jobs.
    pub dead_jobs: u64,
    /// Task names.
    pub tasks: u64,
    /// Queues.
    pub queues: u64,
}

/// Which jobs to list. What is left out does not matter.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this task.
    pub task: Option<String>,
    /// Only jobs of this queue.
    pub queue: Option<String>,
    /// Only the job with this key.
    pub key: Option<String>,
    /// Only jobs with a greater id: the last one of the page before.
    pub after: Option<JobId>,
    /// How many, at the most. Default: 100.
    pub limit: u32,
    /// Whether payloads are read too. Default: yes.
    pub payloads: bool,
    /// How many bytes of payloads, at the most; a single larger one comes alone. Default: any number.
    pub max_bytes: Option<u64>,
}

impl Default for JobFilter {
    fn default() -> Self {
        Self {
            state: None,
            task: None,
            queue: None,
            key: None,
            after: None,
            limit: 100,
            payloads: true,
            max_bytes: None,
        }
    }
}

impl JobFilter {
    /// All jobs, a hundred of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only jobs in this state.
    pub fn state(mut self, state: JobState) -> Self {
        self.state = Some(state);
        self
    }

    /// Only jobs of this task.
    pub fn task(mut self, task: impl Into<String>) -> Self {
        self.task = Some(task.into());
        self
    }

    /// Only jobs of this queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Only the job with this key.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only jobs with a greater id.
    pub fn after(mut self, id: JobId) -> Self {
        self.after = Some(id);
        self
    }

    /// How many, at the most.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Leaves the payloads where they are: the jobs come with that of a job which has none, `{}`.
    pub fn without_payloads(mut self) -> Self {
        self.payloads = false;
        self
    }

    /// How many bytes of payloads, at the most: then fewer jobs may come than there are, but never none. Go on with
    /// [`after`](Self::after) until none comes.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}

/// How many jobs are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// See [`JobState::Ready`].
    pub ready: u64,
    /// See [`JobState::Scheduled`].
    pub scheduled: u64,
    /// See [`JobState::Running`].
    pub running: u64,
    /// See [`JobState::Retrying`].
    pub retrying: u64,
    /// See [`JobState::Dead`].
    pub dead: u64,
}

impl Counts {
    /// Counts these jobs.
    #[must_use]
    pub fn of<'a>(jobs: impl IntoIterator<Item = &'a Job>, now: DateTime<Utc>) -> Self {
        let mut counts = Self::default();
        jobs.into_iter().for_each(|job| counts.add(job.state(now), 1));
        counts
    }

    /// All jobs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ready + self.scheduled + self.running + self.retrying + self.dead
    }

    /// Jobs that will still run by themselves.
    #[must_use]
    pub fn alive(&self) -> u64 {
        self.total() - self.dead
    }

    /// How many are in this state.
    #[must_use]
    pub fn get(&self, state: JobState) -> u64 {
        match state {
            JobState::Ready => self.ready,
            JobState::Scheduled => self.scheduled,
            JobState::Running => self.running,
            JobState::Retrying => self.retrying,
            JobState::Dead => self.dead,
        }
    }

    /// Counts `count` more jobs in this state.
    pub fn add(&mut self, state: JobState, count: u64) {
        match state {
            JobState::Ready => self.ready += count,
            JobState::Scheduled => self.scheduled += count,
            JobState::Running => self.running += count,
            JobState::Retrying => self.retrying += count,
            JobState::Dead => self.dead += count,
        }
    }
}

/// Those from the first on that are so many bytes together; a single larger one comes alone.
pub(super) fn within<'a>(
    max_bytes: u64,
    jobs: impl Iterator<Item = &'a Job>,
    size: impl Fn(&Job) -> usize,
) -> impl Iterator<Item = &'a Job> {
    let mut bytes = 0_u64;
    jobs.enumerate()
        .take_while(move |(place, job)| {
            bytes = bytes.saturating_add(size(job) as u64);
            *place == 0 || bytes <= max_bytes
        })
        .map(|(_, job)| job)
}
