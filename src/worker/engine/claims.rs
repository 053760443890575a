//! The claims in flight.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::super::pace::Pace;
use super::claiming::{FIRST_CLAIM_DELAY, FIRST_PAUSE};
use super::decision::Hold;
use crate::error::Result;
use crate::storage::{Claimed, WorkerId};

/// The claims in flight, and when the next one may be sent.
#[expect(clippy::struct_excessive_bools, reason = "what claims have told of many things")]
pub(super) struct Claims {
    pub in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// How many jobs they ask for.
    pub asked: usize,
    /// The number of the newest one.
    pub newest: u64,
    /// The last answer was as much as had been asked for.
    pub deep: bool,
    /// The next one passes nothing by.
    pub full_scan: bool,
    /// The one that releases what the worker does not know of, before it claims: no other may be on its way meanwhile, or
    /// what that one takes would be released too.
    pub recovering: Option<u64>,
    /// Jobs in their last attempt are at the head of the line. They are taken only when they can start, so nothing is claimed
    /// ahead.
    /// With the number of the claim that told.
    pub only_slots: Option<u64>,
    /// How many jobs may be claimed in the time that is given, after a claim that took too long.
    pub in_time: Option<usize>,
    /// The next one waits until results are written, which frees queues; but not for long.
    pub awaits_queues: bool,
    /// Claims up to this one were sent for other work than that of now.
    pub of_old_work: u64,
    /// Whether a claim may find something.
    pub more: bool,
    /// A wakeup came while a claim was in flight, which may not have seen what it announces.
    pub woken: bool,
    /// Why none is sent at present.
    pub hold: Option<Hold>,
    /// Since this moment, a claim whose answer was lost may take jobs that we do not know of.
    pub doubt_since: Option<Instant>,
    /// When to look for such jobs again.
    pub next_doubt: Instant,
    /// No claim before this moment: the last one failed, or found only what others were holding.
    pub not_before: Option<Instant>,
    pub delay: Duration,
    pub pause: Duration,
    pub pace: Pace,
    /// How many jobs the last claim asked for.
    pub asked_for: usize,
    /// How many jobs were announced since.
    pub announced: u64,
    /// How many announced jobs end the delay of a refetch.
    pub abort_refetch_delay_at: Option<u64>,
}

impl Claims {
    pub fn new() -> Self {
        Self {
            in_flight: FuturesUnordered::new(),
            asked: 0,
            newest: 0,
            deep: false,
            full_scan: false,
            recovering: None,
            only_slots: None,
            in_time: None,
            awaits_queues: false,
            of_old_work: 0,
            more: true,
            woken: false,
            hold: None,
            doubt_since: None,
            next_doubt: Instant::now(),
            not_before: None,
            delay: FIRST_CLAIM_DELAY,
            pause: FIRST_PAUSE,
            pace: Pace::default(),
            asked_for: 0,
            announced: 0,
            abort_refetch_delay_at: None,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.more && self.is_empty())
    }

    pub fn on_deadline(&mut self, now: Instant) {
        if self.not_before.is_some_and(|earliest| now >= earliest) {
            self.not_before = None;
            self.abort_refetch_delay_at = None;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether jobs that the worker does not know of are being released.
    pub fn is_recovering(&self) -> bool {
        self.recovering.is_some()
    }

    /// Forgets those in flight; tells whether there were any.
    pub fn abandon(&mut self) -> bool {
        let any = !self.is_empty();
        self.in_flight.clear();
        self.asked = 0;
        self.recovering = None;
        any
    }
}

/// The answer to a claim, and who asked for how many.
pub(super) struct Answer {
    pub number: u64,
    pub limit: usize,
    pub worker: Arc<WorkerId>,
    pub claimed: Result<Claimed>,
}
