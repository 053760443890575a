//! Jobs that were read, and assertions on them.

use std::ops::Deref;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use super::failure::{listed, unmatched};
use super::matcher::JobMatcher;
use super::snapshot;
use crate::job::Job;

/// Jobs as they were at one moment, by id. A failing assertion lists them, and names the one that comes nearest.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub(super) list: Vec<Job>,
    /// When they were read, by the storage's clock.
    pub(super) now: DateTime<Utc>,
    /// Their state or origin, for people: `queued`.
    pub(super) are: &'static str,
    /// Jobs that a transaction sees and that are not its own.
    pub(super) outside: Vec<Job>,
}

/// A job that was found, with its payload read.
///
/// ```
/// # use backfill::TaskPayload;
/// # use backfill::testing::{TestQueue, job};
/// # #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// # struct Welcome { to: String }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> backfill::Result<()> {
/// let queue = TestQueue::memory();
/// queue.client().add(Welcome { to: "ada@example.com".to_owned() }).await?;
/// let mail = queue.jobs().await.one(job::<Welcome>());
/// assert_eq!((mail.payload.to.as_str(), mail.attempts), ("ada@example.com", 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Found<P> {
    /// Its payload.
    pub payload: P,
    job: Job,
}

impl<P> Found<P> {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }
}

impl<P> Deref for Found<P> {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

#[expect(clippy::must_use_candidate, reason = "an assertion is called for what it asserts")]
impl Jobs {
    pub(super) fn new(list: Vec<Job>, now: DateTime<Utc>, are: &'static str) -> Self {
        Self { list, now, are, outside: Vec::new() }
    }

    /// The one job that matches.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[track_caller]
    pub fn one<P: DeserializeOwned>(&self, matcher: JobMatcher<P>) -> Found<P> {
        let mut found = self.count(matcher, 1);
        found.pop().unwrap_or_else(|| unreachable!("it was counted"))
    }

    /// No job matches.
    ///
    /// # Panics
    /// If one does.
    #[track_caller]
    pub fn none<P: DeserializeOwned>(&self, matcher: JobMatcher<P>) {
        self.count(matcher, 0);
    }

    /// Exactly so many jobs match. Returns them.
    ///
    /// # Panics
    /// If more or fewer do.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a description is written where it is used")]
    pub fn count<P: DeserializeOwned>(&self, matcher: JobMatcher<P>, expected: usize) -> Vec<Found<P>> {
        let found = self.matching(&matcher);
        assert!(found.len() == expected, "{}", unmatched(self, &matcher, expected, found.len()));
        found
    }

    /// All jobs that match; possibly none.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a description is written where it is used")]
    pub fn all<P: DeserializeOwned>(&self, matcher: JobMatcher<P>) -> Vec<Found<P>> {
        self.matching(&matcher)
    }

    pub(super) fn matching<P: DeserializeOwned>(&self, matcher: &JobMatcher<P>) -> Vec<Found<P>> {
        let matching = self.list.iter().filter(|job| matcher.matches(job, self.now));
        // A payload that is no JSON at all matches no description of one.
        matching.filter_map(|job| Some(Found { payload: job.payload.decode().ok()?, job: job.clone() })).collect()
    }

    /// There are no jobs.
    ///
    /// # Panics
    /// If there are.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert!(self.is_empty(), "expected no jobs that are {}, and there are some\n\n{}", self.are, listed(self));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The jobs, by id.
    pub fn iter(&self) -> std::slice::Iter<'_, Job> {
        self.list.iter()
    }

    /// The jobs as text that is the same at each run: without ids and times, sorted. For snapshots, as the crate `insta` keeps them.
    ///
    /// A time is shown as the delay since the job was added. A job that is tried again has none, since its delay may be random.
    ///
    /// ```
    /// # use backfill::JobSpec;
    /// # use backfill::testing::TestQueue;
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> backfill::Result<()> {
    /// let queue = TestQueue::memory();
    /// let jobs = queue.client();
    /// jobs.add(JobSpec::new("send_invoice", 17)).run_in(Duration::from_secs(3600)).serial_queue("billing").await?;
    /// jobs.add(JobSpec::new("charge_card", 17)).await?;
    /// assert_eq!(
    ///     queue.jobs().await.snapshot(),
    ///     "charge_card 17\nsend_invoice 17 in 1h, queue \"billing\"\n"
    /// );
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> String {
        snapshot::of(self)
    }
}

impl<'a> IntoIterator for &'a Jobs {
    type Item = &'a Job;
    type IntoIter = std::slice::Iter<'a, Job>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
