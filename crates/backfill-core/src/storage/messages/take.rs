//! Taking jobs by their lines.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{DocumentKey, Lease, Receipt};
use crate::error::{Error, Result};
use crate::job::{Job, JobId, limits};
use crate::storage::{ClaimRef, WorkerId};

/// Who holds what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder<'a> {
    /// A registered worker, until it settles, is rescued or deregisters.
    Worker(&'a WorkerId),
    /// Whoever has the receipt, for so long from now. The name is for people.
    Lease {
        /// What the holder is called in lists.
        name: &'a str,
        /// After how long the lease ends.
        lasts: Duration,
    },
}

/// What to take.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Take<'a> {
    /// Who will hold the jobs.
    pub holder: Holder<'a>,
    /// The lines, each once, and how many jobs of each at the most.
    pub lines: &'a [(String, usize)],
    /// How many bytes of payloads, at the most, about; but one job always.
    pub max_bytes: usize,
    /// The time by which jobs are ready, if it is not now: an earlier one finds what has waited for long.
    pub ready_by: Option<DateTime<Utc>>,
    /// Several jobs of one serial queue, in order, but none behind a held one.
    pub in_line: bool,
    /// Nothing is taken while one of these is there.
    pub unless: &'a [DocumentKey],
    /// What tells the leases of this take from all others.
    tag: u32,
}

impl<'a> Take<'a> {
    /// Jobs of these lines, for this holder.
    #[must_use]
    pub fn new(holder: Holder<'a>, lines: &'a [(String, usize)]) -> Self {
        Self {
            holder,
            lines,
            max_bytes: usize::MAX,
            ready_by: None,
            in_line: false,
            unless: &[],
            tag: fastrand::u32(..),
        }
    }

    /// At the most so many bytes of payloads, about; but one job always.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// What was ready at this time.
    #[must_use]
    pub fn ready_by(mut self, time: Option<DateTime<Utc>>) -> Self {
        self.ready_by = time;
        self
    }

    /// Several jobs of one serial queue, in order, but none behind a held one.
    #[must_use]
    pub fn in_line(mut self) -> Self {
        self.in_line = true;
        self
    }

    /// Nothing while one of these documents is there.
    #[must_use]
    pub fn unless(mut self, documents: &'a [DocumentKey]) -> Self {
        self.unless = documents;
        self
    }

    /// Refuses what cannot be asked for. Every storage does so before it takes anything.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check(&self) -> Result<()> {
        if let Holder::Lease { name, lasts } = self.holder {
            Lease::check(name, lasts)?;
        }
        let mut seen = std::collections::HashSet::new();
        if let Some((twice, _)) = self.lines.iter().find(|(line, _)| !seen.insert(line)) {
            return Err(Error::invalid_message("line", twice, "is asked for twice in one take; name each line once"));
        }
        self.unless.iter().try_for_each(DocumentKey::check)
    }

    /// The name under which jobs are held.
    #[must_use]
    pub fn holder_name(&self) -> String {
        match self.holder {
            Holder::Worker(worker) => worker.to_string(),
            Holder::Lease { name, .. } => Lease::holder(self.tag, name),
        }
    }

    /// Until when a lease holds, by this present; of a worker, since when.
    #[must_use]
    pub fn locked_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self.holder {
            Holder::Worker(_) => now,
            Holder::Lease { lasts, .. } => limits::later(now, lasts),
        }
    }

    /// The hold of a job that was taken so.
    #[must_use]
    pub fn hold(&self, job: &Job, token: crate::storage::ClaimToken) -> Hold {
        match self.holder {
            Holder::Worker(worker) => Hold::Claim { worker: worker.clone(), claim: ClaimRef::new(job, token) },
            Holder::Lease { .. } => Hold::Lease { receipt: Receipt::new(job.id, job.attempts, self.tag), late: false },
        }
    }
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Taken {
    /// The jobs, by the request's lines, and in each by its order.
    pub jobs: Vec<TakenJob>,
    /// The document because of which nothing was taken.
    pub stopped_by: Option<DocumentKey>,
}

impl Taken {
    /// These jobs.
    #[must_use]
    pub fn jobs(jobs: Vec<TakenJob>) -> Self {
        Self { jobs, stopped_by: None }
    }

    /// Nothing, because this document is there.
    #[must_use]
    pub fn stopped_by(document: DocumentKey) -> Self {
        Self { jobs: Vec::new(), stopped_by: Some(document) }
    }
}

/// A job that was taken, and by what it is held.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TakenJob {
    /// The job as it is stored now. Its `locked_at` is the end of a lease.
    pub job: Job,
    /// By what it is held.
    pub hold: Hold,
}

impl TakenJob {
    /// A job, and by what it is held.
    #[must_use]
    pub fn new(job: Job, hold: Hold) -> Self {
        Self { job, hold }
    }
}

impl std::ops::Deref for TakenJob {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// By what a job is held: what a settlement must show.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Hold {
    /// A registered worker's claim.
    Claim {
        /// The worker.
        worker: WorkerId,
        /// Its claim.
        claim: ClaimRef,
    },
    /// A lease.
    Lease {
        /// Of which job, by which claim.
        receipt: Receipt,
        /// Whether it still stands after its end, as long as nobody has claimed the job since.
        late: bool,
    },
}

impl Hold {
    /// Of which job.
    #[must_use]
    pub fn id(&self) -> JobId {
        match self {
            Self::Claim { claim, .. } => claim.id,
            Self::Lease { receipt, .. } => receipt.id,
        }
    }

    /// The same, and a lease stands also after its end, as long as nobody has claimed the job since.
    #[must_use]
    pub fn or_late(mut self) -> Self {
        if let Self::Lease { late, .. } = &mut self {
            *late = true;
        }
        self
    }

    /// Whether this hold of a stored job stands.
    #[must_use]
    pub fn stands(&self, job: &Job, now: DateTime<Utc>) -> bool {
        match self {
            Self::Claim { worker, claim } => {
                job.id == claim.id
                    && job.locked_by.as_deref() == Some(worker.as_str())
                    && job.locked_at.is_some_and(|at| at.timestamp_micros() == claim.token.number())
            }
            Self::Lease { receipt, late } => receipt.stands(job, now, *late),
        }
    }
}
