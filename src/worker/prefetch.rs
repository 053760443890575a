//! Claiming ahead on purpose: Node's local queue.
//!
//! A worker claims ahead by itself what it can start within milliseconds (see `pace`). Where the way to the database is long,
//! more may be wanted: **prefetched** jobs wait, locked, inside the worker, ordered by priority. The price is that other
//! workers cannot have them meanwhile.

use std::time::Duration;

/// How many jobs are held ready inside the worker, and for how long.
///
/// ```
/// use std::time::Duration;
/// use backfill::worker::Prefetch;
///
/// let prefetch = Prefetch::new(500).ttl(Duration::from_secs(60)).refetch_delay(Duration::from_millis(100), 10);
/// # let _ = prefetch;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Prefetch {
    pub(super) size: usize,
    pub(super) ttl: Duration,
    pub(super) refetch: Option<Refetch>,
}

/// When a fetch that found little is followed by a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refetch {
    pub delay: Duration,
    pub threshold: usize,
    pub abort_at: u64,
}

impl Prefetch {
    /// Up to so many jobs beyond those that run.
    pub fn new(size: usize) -> Self {
        Self { size, ttl: Duration::from_secs(300), refetch: None }
    }

    /// How long a job may wait inside the worker. After that it is released, with its attempt, and nothing is prefetched
    /// until a running job has ended. Default: five minutes, Graphile's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// After a fetch that found no more than `threshold` jobs, the next one waits for about `delay` (a random half to one
    /// and a half of it), unless many jobs are announced meanwhile. It saves the database from many small fetches; a new
    /// job may wait that much longer. Default: off.
    pub fn refetch_delay(mut self, delay: Duration, threshold: usize) -> Self {
        let abort_at = self.refetch.map_or((self.size as u64).saturating_mul(5), |refetch| refetch.abort_at);
        self.refetch = Some(Refetch { delay, threshold, abort_at });
        self
    }

    /// How many announced jobs end that wait: a random number up to this, so that several workers do not wake as one.
    /// Default: five times the size, Graphile's. Only matters after [`refetch_delay`](Self::refetch_delay).
    pub fn refetch_abort_at(mut self, jobs: u64) -> Self {
        if let Some(refetch) = &mut self.refetch {
            refetch.abort_at = jobs;
        }
        self
    }
}
