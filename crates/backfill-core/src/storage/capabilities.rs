//! What differs between storages.

use std::time::Duration;

/// What a storage can do, and how much of it. For what a storage has no trait of, see [`Storage::admin`](super::Storage::admin) and
/// its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "a list of what can be done")]
pub struct Capabilities {
    /// The most bytes that one payload's JSON text may have.
    pub max_payload_bytes: u64,
    /// How far ahead a job may be due.
    pub max_delay: Duration,
    /// Whether jobs can be added in the caller's own transaction.
    pub transactional_add: bool,
    /// Whether a new job can go straight to a worker that waits for one (see [`Offer`](super::Offer)).
    pub handoff: bool,
    /// Whether several processes can use it at once.
    pub several_processes: bool,
    /// Whether jobs outlive the process that added them.
    pub durable: bool,
}

impl Capabilities {
    /// What every storage can do: payloads of so many bytes, for this process alone.
    #[must_use]
    pub fn new(max_payload_bytes: u64) -> Self {
        Self {
            max_payload_bytes,
            max_delay: crate::job::limits::MAX_DELAY,
            transactional_add: false,
            handoff: false,
            several_processes: false,
            durable: false,
        }
    }

    /// The same, with jobs that can be added in the caller's own transaction.
    #[must_use]
    pub fn transactional_add(mut self) -> Self {
        self.transactional_add = true;
        self
    }

    /// The same, with direct handoff.
    #[must_use]
    pub fn handoff(mut self) -> Self {
        self.handoff = true;
        self
    }

    /// The same, for several processes at once.
    #[must_use]
    pub fn several_processes(mut self) -> Self {
        self.several_processes = true;
        self
    }

    /// The same, with jobs that outlive their process.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }
}
