//! Saying how claimed jobs ended.

use super::messages::{DocumentChange, NewEvent};
use super::{ClaimToken, ClaimedJob, Outcome};
use crate::job::{Job, JobId, NewJob};

/// One claim of one job: the fence.
///
/// A claim is named by the job, the worker, and the [token](ClaimToken) that came with it. A settlement applies only while the
/// stored job still carries all three, so a worker that was paused past its lease cannot settle a job that
/// another worker (or even itself, later) has claimed since.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimRef {
    /// The job.
    pub id: JobId,
    /// Which claim of it.
    pub token: ClaimToken,
    /// Its serial queue, which is released with it.
    pub queue: Option<String>,
    /// Whether it had a key when it was claimed. If the stored job has none by now, it was replaced or removed while it ran; it must
    /// then never become available again.
    pub had_key: bool,
}

impl ClaimRef {
    /// The claim of a job as [`claim`](super::Consumer::claim) returned it.
    #[must_use]
    pub fn of(claimed: &ClaimedJob) -> Self {
        Self::new(&claimed.job, claimed.token)
    }

    /// The claim of a job that came with this token.
    #[must_use]
    pub fn new(job: &Job, token: ClaimToken) -> Self {
        Self { id: job.id, token, queue: job.queue.clone(), had_key: job.key.is_some() }
    }

    /// The claim of a job as it is stored, for a storage that releases what its worker does not know of. Whoever takes the key of a
    /// running job uses its attempts up, and changes it after it was claimed.
    #[must_use]
    pub fn stored(job: &Job, token: ClaimToken) -> Self {
        let is_changed = job.locked_at.is_some_and(|locked_at| job.updated_at > locked_at);
        Self { had_key: job.attempts >= job.max_attempts && is_changed, ..Self::new(job, token) }
    }

    /// The same for a job that is not the last of a run of its serial queue: settling it leaves the queue held.
    #[must_use]
    pub fn keeping_queue(mut self) -> Self {
        self.queue = None;
        self
    }
}

/// How one claimed job ended, and what follows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settlement {
    /// Which claim.
    pub claim: ClaimRef,
    /// How it ended.
    pub outcome: Outcome,
    /// What else happens in the same write, if the claim still stands.
    pub then: Then,
    /// The job was completed in a transaction of the caller's: if that was committed, it is gone, which is no broken claim. The outcome is
    /// what becomes of it otherwise.
    pub done_elsewhere: bool,
}

impl Settlement {
    /// A claimed job ended so, and nothing follows.
    #[must_use]
    pub fn new(claim: ClaimRef, outcome: Outcome) -> Self {
        Self { claim, outcome, then: Then::default(), done_elsewhere: false }
    }

    /// The same, followed by this.
    #[must_use]
    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// What happens in the write that settles a job: with the result, or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Then {
    /// Jobs to add. No two of one call have the same key.
    pub jobs: Vec<NewJob>,
    /// Documents to change, each once; of storages with [messages](super::messages).
    pub documents: Vec<DocumentChange>,
    /// Events to append; of such storages too.
    pub events: Vec<NewEvent>,
}

impl Then {
    /// These jobs are added.
    #[must_use]
    pub fn add(jobs: Vec<NewJob>) -> Self {
        Self { jobs, ..Self::default() }
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.jobs.is_empty() && !self.needs_messages()
    }

    /// Whether it needs a storage with [messages](super::messages).
    #[must_use]
    pub fn needs_messages(&self) -> bool {
        !self.documents.is_empty() || !self.events.is_empty()
    }

    /// How many bytes are in it, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let jobs = self.jobs.iter().map(|job| job.payload.as_str().len());
        let documents = self.documents.iter().map(DocumentChange::bytes);
        let events = self.events.iter().map(|event| event.payload.as_str().len());
        jobs.chain(documents).chain(events).sum()
    }
}

/// What became of results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// The jobs whose claim still stood; their results are written.
    pub applied: Vec<JobId>,
    /// The jobs that another transaction keeps from being written at this moment, as by a row lock. Nothing is known of them: ask again.
    pub busy: Vec<JobId>,
    /// How many serial queues were freed: their next jobs may be claimed now.
    pub freed_queues: usize,
}

impl Settled {
    /// Both of two calls.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.applied.extend(other.applied);
        self.busy.extend(other.busy);
        self.freed_queues += other.freed_queues;
        self
    }

    /// Nothing was kept from being written.
    #[must_use]
    pub fn applied(applied: Vec<JobId>) -> Self {
        Self { applied, ..Self::default() }
    }

    /// The same, and so many serial queues were freed.
    #[must_use]
    pub fn freed_queues(mut self, freed_queues: usize) -> Self {
        self.freed_queues = freed_queues;
        self
    }

    /// The same, but for these.
    #[must_use]
    pub fn busy(mut self, busy: Vec<JobId>) -> Self {
        self.busy = busy;
        self
    }
}
