//! Holds that end by themselves.
//!
//! A leased job is locked as by a worker: `locked_at` is the moment at which the lease ends, and `locked_by` is made of [`LEASE`], a tag by
//! chance that is the take's own, and the holder's name. The tag fences the lease while the job is locked; a renewal does not change
//! it. What fences it after its end is the number of the claim, the count of the job's attempts: leases give no attempt back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::job::{Job, JobId};

/// What the name of every lease's holder begins with. No worker may be called so.
pub const LEASE: &str = "lease:";

/// The longest lease: 30 days. (What is to be held for longer is not being worked on.)
pub const MAX_LEASE: Duration = Duration::from_hours(720);

/// The most bytes that a holder's name may have.
const MAX_NAME_BYTES: usize = 200;

/// Leases, as storages keep them.
#[derive(Clone, Copy, Debug)]
pub struct Lease;

impl Lease {
    /// What is kept as `locked_by`.
    #[must_use]
    pub fn holder(tag: u32, name: &str) -> String {
        format!("{LEASE}{tag:08x}:{name}")
    }

    /// The tag of the take that holds a job.
    #[must_use]
    pub fn tag(job: &Job) -> Option<u32> {
        let (tag, _) = job.locked_by.as_deref()?.strip_prefix(LEASE)?.split_once(':')?;
        u32::from_str_radix(tag, 16).ok()
    }

    /// Whether a job is held by a lease, ended or not.
    #[must_use]
    pub fn holds(job: &Job) -> bool {
        job.locked_by.as_deref().is_some_and(|holder| holder.starts_with(LEASE))
    }

    /// Whether a job is held by a lease that has ended.
    #[must_use]
    pub fn has_ended(job: &Job, now: DateTime<Utc>) -> bool {
        Self::holds(job) && job.locked_at.is_some_and(|end| end <= now)
    }

    /// Refuses a name or a time that no lease may have.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check(name: &str, lasts: Duration) -> Result<()> {
        if name.len() > MAX_NAME_BYTES || name.contains('\0') {
            let problem = format!("must have at most {MAX_NAME_BYTES} bytes and no NUL character");
            return Err(Error::invalid_message("the name of a lease's holder", name, &problem));
        }
        Self::check_time(lasts)
    }

    /// Refuses a time that no lease may last.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check_time(lasts: Duration) -> Result<()> {
        if lasts > MAX_LEASE {
            return Err(Error::invalid_message(
                "a lease of",
                &format!("{lasts:?}"),
                "is longer than the longest, 30 days",
            ));
        }
        Ok(())
    }
}

/// Which claim of which job a lease is. As text `17-2-9f3a1c04`: the second claim of job 17, and the tag of its take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt {
    /// The job.
    pub id: JobId,
    /// Its attempts, this one counted.
    pub number: i16,
    /// What the take chose, so that no two are the same, whatever an administrator does to the attempts.
    pub tag: u32,
}

impl Receipt {
    /// This claim of this job.
    #[must_use]
    pub fn new(id: JobId, number: i16, tag: u32) -> Self {
        Self { id, number, tag }
    }

    /// Whether the claim stands: nobody has claimed the job since, and the lease has not ended, unless it may have.
    #[must_use]
    pub fn stands(&self, job: &Job, now: DateTime<Utc>, late: bool) -> bool {
        if job.id != self.id {
            return false;
        }
        match (Lease::tag(job), job.locked_at) {
            (Some(tag), Some(end)) => tag == self.tag && (late || end > now),
            // It was given back, and nobody has taken it since.
            (None, None) => late && job.attempts == self.number,
            _ => false,
        }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.id, self.number, self.tag)
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let parse = || {
            let [id, number, tag] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
            let is_tag = tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
            (digits(id) && digits(number) && is_tag)
                .then(|| Some(Self::new(id.parse().ok()?, number.parse().ok()?, u32::from_str_radix(tag, 16).ok()?)))?
        };
        parse().ok_or_else(|| Error::invalid_message("the receipt", text, "is none; one looks like 17-2-9f3a1c04"))
    }
}

impl Serialize for Receipt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Receipt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What came of looking for ended leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The jobs that were given back.
    pub jobs: Vec<JobId>,
    /// When the next lease ends, of all that were looked at, as far as that is known.
    pub next: Option<DateTime<Utc>>,
}

impl Ended {
    /// These jobs were given back, and the next lease ends then.
    #[must_use]
    pub fn new(jobs: Vec<JobId>, next: Option<DateTime<Utc>>) -> Self {
        Self { jobs, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_receipt_reads_as_it_is_written(id in 0..i64::MAX, number in 0..i16::MAX, tag in 0..u32::MAX) {
            let receipt = Receipt::new(JobId::from_number(id), number, tag);
            prop_assert_eq!(receipt.to_string().parse::<Receipt>().unwrap(), receipt);
        }

        #[test]
        fn what_is_no_receipt_is_refused(text in "[^0-9]{0,5}|[0-9]{1,4}|[0-9]{1,4}-[0-9]|1-2-[0-9a-f]{1,7}|1-2-[0-9a-f]{9}|-1-2-[0-9a-f]{8}|1-[0-9]{9}-00000000") {
            prop_assert!(text.parse::<Receipt>().is_err());
        }
    }
}
