//! Direct handoff: a new job goes to a worker that waits for one.
//!
//! As a rule a job is stored first, and claimed by a second transaction of whoever hears of it first. A worker with free slots can
//! also **offer** to take the next one. Then a storage may store a job as claimed by that worker, in the one transaction that
//! adds it, and tell that worker alone: the job is **handed off**, and can start at once.
//!
//! A job that was handed off is claimed as by any claim: it names its worker and the moment, the attempt is counted, and it is
//! settled, released or rescued as all others are.

use std::sync::Arc;
use std::time::Instant;

use super::{ClaimedJob, WorkerId};

/// That a worker would start a job at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// Who offers. It must be registered (see [`register`](super::Consumer::register)).
    pub worker: Arc<WorkerId>,
    /// The task names it can run.
    pub tasks: Arc<[String]>,
    /// Which offer of this worker it is: one that was ended, and is made again, has another number.
    pub number: u64,
}

impl Offer {
    /// An offer.
    #[must_use]
    pub fn new(worker: Arc<WorkerId>, tasks: Arc<[String]>, number: u64) -> Self {
        Self { worker, tasks, number }
    }
}

/// A job that was handed off.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Handoff {
    /// The job, and its claim.
    pub job: ClaimedJob,
    /// By whom.
    pub worker: Arc<WorkerId>,
    /// It was so at some moment after this one.
    pub seen: Instant,
}

impl Handoff {
    /// A job that this worker was seen to hold after this moment.
    #[must_use]
    pub fn new(job: ClaimedJob, worker: Arc<WorkerId>, seen: Instant) -> Self {
        Self { job, worker, seen }
    }
}
