//! Asking for jobs.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::job::Job;

/// The name under which one worker holds jobs: `locked_by` in the schema. (Graphile calls it a pool.)
///
/// The shape is Graphile's: `pool-` (or `otpool-` for a run that ends by itself) and 18 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct WorkerId(String);

impl WorkerId {
    /// A new random id for a worker that runs until it is shut down.
    #[must_use]
    pub fn random() -> Self {
        Self::with_prefix("pool")
    }

    /// A new random id for a worker that ends when nothing is ready.
    #[must_use]
    pub fn random_one_time() -> Self {
        Self::with_prefix("otpool")
    }

    /// An id of one's own choice, for what is no worker but sends heartbeats like one.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    fn with_prefix(prefix: &str) -> Self {
        // 72 random bits. The generator is seeded from the operating system's entropy in each process; the id
        // has to be unique, not secret.
        let mut rng = fastrand::Rng::new();
        Self(format!("{prefix}-{:016x}{:02x}", rng.u64(..), rng.u8(..)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a worker asks for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClaimRequest<'a> {
    /// Who will hold the jobs.
    pub worker: &'a WorkerId,
    /// The task names it can run.
    pub tasks: &'a [String],
    /// How many, at the most.
    pub limit: usize,
    /// Of a serial queue so many of its next jobs, in their order, at the most: whoever asks runs them one after the other. They count
    /// as one for the `limit`. Only the last one's settlement may release the queue (see
    /// [`ClaimRef::keeping_queue`](super::ClaimRef::keeping_queue)).
    pub run_length: usize,
    /// How many bytes of payloads, at the most, about; but one job always.
    pub max_bytes: usize,
    /// How many jobs can start at once. A job that will have no attempt left after this one is taken only if it is among the first
    /// so many, and nothing behind it is taken before it: if the worker dies before such a job starts, it is dead without ever
    /// having run.
    pub free_slots: usize,
    /// Of some of the tasks, how many at the most.
    pub limits: &'a [(String, usize)],
    /// Leave jobs alone that have any of these flags.
    pub forbidden_flags: &'a [String],
    /// The time by which jobs are ready, if it is not the storage's own.
    pub now: Option<DateTime<Utc>>,
    /// Whether nothing that is ready may be passed by, however long it takes to find it (see [`Claimed::rescan_after`]).
    pub full_scan: bool,
}

impl<'a> ClaimRequest<'a> {
    /// A request for up to `limit` jobs of these tasks.
    #[must_use]
    pub fn new(worker: &'a WorkerId, tasks: &'a [String], limit: usize) -> Self {
        Self {
            worker,
            tasks,
            limit,
            run_length: 1,
            max_bytes: usize::MAX,
            free_slots: usize::MAX,
            limits: &[],
            forbidden_flags: &[],
            now: None,
            full_scan: false,
        }
    }

    /// At the most so many jobs of one serial queue, as a run; one if nobody says otherwise. See the field.
    #[must_use]
    pub fn run_length(mut self, jobs: usize) -> Self {
        self.run_length = jobs.max(1);
        self
    }

    /// At the most so many bytes of payloads, about; but one job always.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// So many jobs can start at once; see the field.
    #[must_use]
    pub fn free_slots(mut self, slots: usize) -> Self {
        self.free_slots = slots;
        self
    }

    /// At the most so many jobs of these tasks.
    #[must_use]
    pub fn limits(mut self, limits: &'a [(String, usize)]) -> Self {
        self.limits = limits;
        self
    }

    /// No jobs that have any of these flags.
    #[must_use]
    pub fn forbidden_flags(mut self, flags: &'a [String]) -> Self {
        self.forbidden_flags = flags;
        self
    }

    /// Jobs that are ready at this time.
    #[must_use]
    pub fn now(mut self, now: Option<DateTime<Utc>>) -> Self {
        self.now = now;
        self
    }

    /// Whether nothing that is ready may be passed by.
    #[must_use]
    pub fn full_scan(mut self, full_scan: bool) -> Self {
        self.full_scan = full_scan;
        self
    }
}

/// What names one claim of a job besides the job and the worker: the fence. Opaque: only its storage knows what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimToken(i64);

impl ClaimToken {
    /// For storages: a claim of one job by one worker has a number that no other of the two has. It may be the moment of the claim;
    /// it must not be the job's attempt, which administrators may change while the job runs.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// For storages: what was put in.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }
}

/// A job, and the claim by which a worker holds it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClaimedJob {
    /// The job.
    pub job: Job,
    /// The claim.
    pub token: ClaimToken,
}

impl ClaimedJob {
    /// A job that is held by this claim.
    #[must_use]
    pub fn new(job: Job, token: ClaimToken) -> Self {
        Self { job, token }
    }
}

impl std::ops::Deref for ClaimedJob {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// What a claim took.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Claimed {
    /// The jobs, in the order in which they should start. Of a serial queue they are the first ready ones, without a gap.
    pub jobs: Vec<ClaimedJob>,
    /// Whether the limit kept the claim from seeing all that was ready: another claim may find more at once.
    pub more: bool,
    /// Whether jobs were left because of [`free_slots`](ClaimRequest::free_slots).
    pub for_free_slots: bool,
    /// A storage may pass by ready jobs to save itself a long search, if it says here when to look again, and finds them then. Zero means
    /// that the claim ended before it had seen everything: the next one goes on from there.
    pub rescan_after: Option<Duration>,
}

impl Claimed {
    /// These jobs, and nothing else is known.
    #[must_use]
    pub fn jobs(jobs: Vec<ClaimedJob>) -> Self {
        Self { jobs, ..Self::default() }
    }

    /// The same; another claim may find more at once.
    #[must_use]
    pub fn more(mut self, more: bool) -> Self {
        self.more = more;
        self
    }

    /// The same; jobs were left because of [`free_slots`](ClaimRequest::free_slots).
    #[must_use]
    pub fn for_free_slots(mut self, for_free_slots: bool) -> Self {
        self.for_free_slots = for_free_slots;
        self
    }

    /// The same; ready jobs may have been passed by until then.
    #[must_use]
    pub fn rescan_after(mut self, rescan_after: Option<Duration>) -> Self {
        self.rescan_after = rescan_after;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_ids_have_graphiles_shape() {
        for (id, prefix) in [(WorkerId::random(), "pool-"), (WorkerId::random_one_time(), "otpool-")] {
            let digits = id.as_str().strip_prefix(prefix).unwrap();
            assert_eq!(digits.len(), 18);
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        }
        assert_ne!(WorkerId::random(), WorkerId::random());
    }
}
