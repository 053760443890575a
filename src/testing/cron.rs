//! The jobs that a crontab wants in the time that has passed.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::TestQueue;
use super::jobs::Jobs;
use crate::cron::{CronEntry, Crontab};
use crate::error::Result;
use crate::job::{Job, RunAt};
use crate::nearest::did_you_mean;
use crate::storage::DueJob;

/// A crontab, or its text.
pub trait IntoCrontab {
    /// The crontab.
    ///
    /// # Panics
    /// For a text with problems, with all of them.
    fn into_crontab(self) -> Crontab;
}

impl IntoCrontab for Crontab {
    fn into_crontab(self) -> Crontab {
        self
    }
}

impl IntoCrontab for &str {
    #[track_caller]
    fn into_crontab(self) -> Crontab {
        self.parse().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A crontab over the time by which the queue was [advanced](TestQueue::advance). Made by [`TestQueue::cron`].
///
/// ```
/// # use backfill::testing::{TestQueue, job_named};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = TestQueue::memory();
/// queue.advance("25h").await;
/// let crontab = queue.cron("0 4 * * * send_report").starting("2026-11-30T12:00:00Z".parse().unwrap());
/// crontab.assert_due("send_report", 1);
/// crontab.add_due().await.one(job_named("send_report"));
/// # }
/// ```
#[derive(Debug)]
pub struct CronSpan<'a> {
    queue: &'a TestQueue,
    entries: Vec<CronEntry>,
    from: DateTime<Utc>,
}

impl<'a> CronSpan<'a> {
    pub(super) fn new(queue: &'a TestQueue, crontab: Crontab) -> Self {
        Self { queue, entries: crontab.into_entries(), from: queue.created_at }
    }

    /// When the time begins that has passed. Default: when the queue was made, by the wall clock. Name a time where the hour of the
    /// day matters. Otherwise `0 4 * * *` is due once or twice in 25 hours, depending on when the test runs.
    #[must_use]
    pub fn starting(mut self, time: DateTime<Utc>) -> Self {
        self.from = time;
        self
    }

    /// When the entry with this identifier is due, the earliest first. The beginning is not part of the time, and its end is.
    ///
    /// # Panics
    /// If no entry has the identifier.
    #[must_use]
    #[track_caller]
    pub fn due(&self, identifier: &str) -> Vec<DateTime<Utc>> {
        let entry = self.entries.iter().find(|entry| entry.identifier == identifier);
        let entry = entry.unwrap_or_else(|| {
            let known: Vec<&str> = self.entries.iter().map(|entry| &*entry.identifier).collect();
            let meant = did_you_mean(identifier, known.iter().copied());
            panic!("no entry of the crontab has the identifier {identifier:?}; there are {known:?}{meant}")
        });
        self.due_of(entry)
    }

    /// The entry with this identifier is due so often.
    ///
    /// # Panics
    /// If it is not, and if no entry has the identifier.
    #[track_caller]
    pub fn assert_due(&self, identifier: &str, times: usize) {
        let due = self.due(identifier);
        assert!(
            due.len() == times,
            "expected {identifier:?} to be due {times} times from {} to {}, and it is due {} times: {}",
            self.from,
            self.until(),
            due.len(),
            due.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
    }

    /// Adds the jobs of all entries that are due, and returns them. Each is added once, however often this is called, by the gate that
    /// workers' crontabs go through.
    ///
    /// # Panics
    /// If a job is refused.
    pub async fn add_due(&self) -> Jobs {
        let added = self.add().await.unwrap_or_else(|error| panic!("the crontab's jobs cannot be added: {error}"));
        Jobs::new(added, self.queue.now().await, "added by the crontab")
    }

    async fn add(&self) -> Result<Vec<Job>> {
        let mut moments: BTreeMap<DateTime<Utc>, Vec<&CronEntry>> = BTreeMap::new();
        for entry in &self.entries {
            for moment in self.due_of(entry) {
                moments.entry(moment).or_default().push(entry);
            }
        }
        let mut added = Vec::new();
        for (moment, entries) in moments {
            // The advances made the queue's times older, and so is this one.
            let stored = self.queue.created_at + (moment - self.until());
            let due = entries.into_iter().map(|entry| {
                let mut job = entry.job_at(moment, false, self.queue.client().max_payload_bytes())?;
                job.run_at = Some(RunAt::Time(stored));
                Ok(DueJob { identifier: entry.identifier.clone(), job })
            });
            let due = due.collect::<Result<Vec<DueJob>>>()?;
            let new = self.queue.storage.require_schedules()?.add_due(stored, &due).await?;
            added.extend(new.into_iter().flatten());
        }
        Ok(added)
    }

    fn until(&self) -> DateTime<Utc> {
        let advanced = TimeDelta::from_std(self.queue.advanced()).unwrap_or(TimeDelta::MAX);
        self.from.checked_add_signed(advanced).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn due_of(&self, entry: &CronEntry) -> Vec<DateTime<Utc>> {
        let until = self.until();
        let first = entry.schedule.next_after(self.from);
        std::iter::successors(first, |due| entry.schedule.next_after(*due)).take_while(|due| *due <= until).collect()
    }
}
