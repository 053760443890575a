//! What is kept: plain maps, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::job::{Job, JobId, Priority};
use crate::storage::messages::{Document, DocumentKey, Event, Lease};
use crate::storage::{KnownCrontab, Registered};

/// Graphile's rule: a lock this old is no lock.
pub(super) const STALE: TimeDelta = TimeDelta::hours(4);

/// Where a job stands.
pub(super) type Place = (Priority, DateTime<Utc>, JobId);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<JobId, Job>,
    last_id: i64,
    /// Jobs that may be claimed, in the order in which they are.
    pub(super) available: BTreeSet<Place>,
    /// The same of each line.
    pub(super) lines: HashMap<String, BTreeSet<Place>>,
    /// The held ones of each line.
    pub(super) held: HashMap<String, BTreeSet<Place>>,
    /// Leases, by their ends.
    pub(super) leases: BTreeSet<(DateTime<Utc>, JobId)>,
    pub(super) documents: BTreeMap<DocumentKey, Document>,
    /// The highest version that a document ever had.
    pub(super) last_version: u64,
    pub(super) streams: HashMap<String, VecDeque<Event>>,
    /// The highest position that an event ever had.
    pub(super) last_position: u64,
    /// When something of a queue of a line was last taken in line.
    pub(super) turns: HashMap<(String, String), DateTime<Utc>>,
    pub(super) by_key: HashMap<String, JobId>,
    /// Serial queues, and the claim that holds each.
    pub(super) queues: BTreeMap<String, Option<Lock>>,
    pub(super) tasks: BTreeSet<String>,
    /// Workers that send a heartbeat.
    pub(super) workers: BTreeMap<String, Registered>,
    pub(super) crontabs: BTreeMap<String, KnownCrontab>,
    /// Jobs that came from another storage: by whom, and their numbers there.
    pub(super) imports: BTreeMap<String, HashSet<JobId>>,
    pub(super) last_now: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lock {
    pub(super) by: String,
    pub(super) at: DateTime<Utc>,
}

impl State {
    /// The present in microseconds, never the same twice: the moment of a claim names it.
    pub(super) fn now(&mut self) -> DateTime<Utc> {
        let mut now = Utc::now().trunc_subsecs(6);
        if let Some(last) = self.last_now.filter(|last| now <= *last) {
            now = last + TimeDelta::microseconds(1);
        }
        self.last_now = Some(now);
        now
    }

    pub(super) fn last_id(&self) -> JobId {
        JobId::from_number(self.last_id)
    }

    pub(super) fn next_id(&mut self) -> JobId {
        self.last_id += 1;
        JobId::from_number(self.last_id)
    }

    /// Changes one job and keeps the indexes true.
    pub(super) fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Option<Job> {
        let mut job = self.jobs.remove(&id)?;
        self.forget(&job);
        change(&mut job);
        self.jobs.insert(id, job.clone());
        self.index(&job);
        Some(job)
    }

    pub(super) fn delete(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.forget(&job);
        Some(job)
    }

    pub(super) fn index(&mut self, job: &Job) {
        let place = place(job);
        if is_available(job) {
            self.available.insert(place);
            self.lines.entry(job.task.clone()).or_default().insert(place);
        }
        if let Some(locked_at) = job.locked_at {
            self.held.entry(job.task.clone()).or_default().insert(place);
            if Lease::holds(job) {
                self.leases.insert((locked_at, job.id));
            }
        }
        if let Some(key) = &job.key {
            self.by_key.insert(key.clone(), job.id);
        }
    }

    /// Takes a job, as it was, out of the indexes.
    fn forget(&mut self, job: &Job) {
        let place = place(job);
        self.available.remove(&place);
        for lines in [&mut self.lines, &mut self.held] {
            if let Some(line) = lines.get_mut(&job.task) {
                line.remove(&place);
                if line.is_empty() {
                    lines.remove(&job.task);
                }
            }
        }
        if let Some(locked_at) = job.locked_at {
            self.leases.remove(&(locked_at, job.id));
        }
        if let Some(key) = &job.key {
            self.by_key.remove(key);
        }
    }

    /// A running or dead job gives its key up and will not run again.
    pub(super) fn take_key(&mut self, id: JobId, now: DateTime<Utc>) -> Option<Job> {
        self.change(id, |job| {
            job.key = None;
            job.attempts = job.max_attempts;
            job.updated_at = now;
        })
    }

    pub(super) fn is_free(&self, id: JobId, now: DateTime<Utc>) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.locked_at.is_none_or(|at| at < now - STALE))
    }

    /// Which of these jobs nobody holds, each once, in the order of their ids.
    pub(super) fn free_ones(&self, ids: &[JobId], now: DateTime<Utc>) -> BTreeSet<JobId> {
        ids.iter().copied().filter(|id| self.is_free(*id, now)).collect()
    }
}

pub(super) fn place(job: &Job) -> Place {
    (job.priority, job.run_at, job.id)
}

pub(super) fn is_available(job: &Job) -> bool {
    job.locked_at.is_none() && job.attempts < job.max_attempts
}

pub(super) fn lock_of(job: &Job) -> Option<Lock> {
    Some(Lock { by: job.locked_by.clone()?, at: job.locked_at? })
}
