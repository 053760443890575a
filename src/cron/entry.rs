//! One thing that should be added again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Schedule;
use crate::error::{Error, Result};
use crate::job::{JobKeyMode, JobSpec, NewJob, Payload, Priority};

/// One line of a crontab, or its like made in code.
///
/// ```
/// use std::time::Duration;
/// use backfill::cron::{CronEntry, Schedule};
///
/// let report = CronEntry::new("send_report", Schedule::expression("0 0 4 * * Mon-Fri")?)
///     .identifier("report_on_weekdays")
///     .backfill(Duration::from_secs(24 * 3600))
///     .payload(&serde_json::json!({ "to": "ada@example.com" }))?;
/// # let _ = report;
/// # Ok::<_, backfill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CronEntry {
    /// What it is known by in the database. Another identifier is another entry, which was never seen before.
    pub identifier: String,
    /// The task whose jobs it adds.
    pub task: String,
    /// When it is due.
    pub schedule: Schedule,
    /// How far back missed moments are caught up.
    pub backfill: Duration,
    /// `max_attempts` of its jobs, if not the default.
    pub max_attempts: Option<i16>,
    /// Their serial queue.
    pub queue: Option<String>,
    /// Their key.
    pub key: Option<String>,
    /// What to do when the key is taken.
    pub key_mode: JobKeyMode,
    /// Their priority.
    pub priority: Priority,
    /// Their payload: a JSON object, to which `_cron` is added.
    pub payload: Payload,
}

impl CronEntry {
    /// Adds jobs of this task when the schedule says, with nothing else set. Its identifier is the task's name.
    #[must_use]
    pub fn new(task: impl Into<String>, schedule: Schedule) -> Self {
        let task = task.into();
        Self {
            identifier: task.clone(),
            task,
            schedule,
            backfill: Duration::ZERO,
            max_attempts: None,
            queue: None,
            key: None,
            key_mode: JobKeyMode::default(),
            priority: Priority::default(),
            payload: Payload::empty(),
        }
    }

    /// What it is known by. Entries of one task need different ones.
    #[must_use]
    pub fn identifier(mut self, identifier: impl Into<String>) -> Self {
        self.identifier = identifier.into();
        self
    }

    /// How far back missed moments are caught up. Default: not at all.
    #[must_use]
    pub fn backfill(mut self, period: Duration) -> Self {
        self.backfill = period;
        self
    }

    /// `max_attempts` of its jobs. Default: 25.
    #[must_use]
    pub fn max_attempts(mut self, attempts: i16) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// The serial queue of its jobs.
    #[must_use]
    pub fn serial_queue(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// The key of its jobs: while one still waits, no second one is added.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What to do when the key is taken.
    #[must_use]
    pub fn key_mode(mut self, mode: JobKeyMode) -> Self {
        self.key_mode = mode;
        self
    }

    /// The priority of its jobs.
    #[must_use]
    pub fn priority(mut self, priority: impl Into<Priority>) -> Self {
        self.priority = priority.into();
        self
    }

    /// The payload of its jobs: something that becomes a JSON object.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn payload<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self> {
        self.payload = Payload::new(&self.task, payload)?;
        Ok(self)
    }

    /// The job that is due at this moment. Its payload says so under `_cron`, which takes the place of a key of that name.
    pub(crate) fn job_at(&self, moment: DateTime<Utc>, backfilled: bool, max_payload_bytes: usize) -> Result<NewJob> {
        // The values stay as they are written: to read a number is to round it.
        let mut payload: BTreeMap<String, Box<RawValue>> =
            self.payload.decode().map_err(|_| self.refused("is no JSON object"))?;
        let ts = moment.to_rfc3339_opts(SecondsFormat::Millis, true);
        let cron = to_raw_value(&serde_json::json!({ "ts": ts, "backfilled": backfilled }));
        payload.insert("_cron".to_owned(), cron.map_err(|_| self.refused("cannot be told the time"))?);
        let mut spec =
            JobSpec::new(&*self.task, payload).run_at(moment).key_mode(self.key_mode).priority(self.priority);
        if let Some(attempts) = self.max_attempts {
            // A negative number is refused like zero.
            spec = spec.max_attempts(u32::try_from(attempts).unwrap_or_default());
        }
        if let Some(queue) = &self.queue {
            spec = spec.serial_queue(queue);
        }
        if let Some(key) = &self.key {
            spec = spec.key(key);
        }
        spec.check(max_payload_bytes)
    }

    /// Refuses what the storage would trip over when the entry is due.
    pub(crate) fn check(&self, max_payload_bytes: usize) -> Result<()> {
        crate::job::limits::check_identifier(&self.identifier)?;
        self.job_at(DateTime::UNIX_EPOCH, true, max_payload_bytes).map(drop)
    }

    fn refused(&self, problem: &str) -> Error {
        Error::InvalidJob {
            what: "payload of the crontab entry",
            value: self.identifier.clone(),
            problem: problem.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;

    fn entry() -> CronEntry {
        CronEntry::new("t", "* * * * *".parse().unwrap())
    }

    #[test]
    fn a_job_says_when_it_was_due() {
        let moment = "2026-11-21T06:43:00Z".parse().unwrap();
        let entry = entry().payload(&serde_json::json!({ "a": 1, "_cron": "mine" })).unwrap();
        let job = entry.job_at(moment, false, DEFAULT_MAX_PAYLOAD_BYTES).unwrap();
        let payload: serde_json::Value = job.payload.decode().unwrap();
        let cron = serde_json::json!({ "ts": "2026-11-21T06:43:00.000Z", "backfilled": false });
        assert_eq!(payload, serde_json::json!({ "a": 1, "_cron": cron }));
    }

    #[test]
    fn no_digit_of_a_payload_is_lost() {
        let payload = r#"{"k":25.671672821044922,"n":123456789012345678901234567890,"z":1e400}"#;
        let mut entry = entry();
        entry.payload = Payload::from_json(payload).unwrap();
        let job = entry.job_at("2026-11-21T06:43:00Z".parse().unwrap(), true, DEFAULT_MAX_PAYLOAD_BYTES).unwrap();
        let told = job.payload.as_str();
        assert!(told.ends_with(&payload[1..]), "{told}");
        let crontab: crate::cron::Crontab = "* * * * * t {k: 25.671672821044922}".parse().unwrap();
        assert_eq!(crontab.entries()[0].payload.as_str(), r#"{"k":25.671672821044922}"#);
    }

    #[test]
    fn what_the_storage_would_refuse_later_is_refused_at_once() {
        entry().check(100).unwrap();
        let array = entry().payload(&[1]).unwrap();
        for (bad, says) in [
            (entry().identifier(""), "identifier"),
            (entry().identifier("a\0"), "NUL"),
            (entry().max_attempts(0), "max_attempts"),
            (entry().max_attempts(-3), "max_attempts"),
            (entry().key(""), "job key"),
            (entry().serial_queue("q".repeat(129)), "128"),
            (array, "no JSON object"),
        ] {
            let error = bad.check(100).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(entry().payload(&serde_json::json!({ "a": "x".repeat(99) })).unwrap().check(100).is_err());
    }
}
