//! One write, until it is answered.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::super::events::Event;
use super::batch::{Batch, can_be_simpler};
use super::{FIRST_DELAY, MAX_DELAY, Settler, WRITE_TIMEOUT, Written};
use crate::error::Error;
use crate::job::JobId;
use crate::storage::{Settled, Settlement, WorkerId, is_unanswered};

/// How often a batch is tried as it is while the database says no by a code that is known to pass.
const MAX_REFUSALS: u32 = 5;
/// After so many refusals in a row it is not one result that is to blame: more than it takes to find one.
const MANY_REFUSALS: u32 = 30;
/// The longest pause between two that follow. Results that would be accepted wait behind it.
const MAX_SPARING: Duration = Duration::from_secs(1);

/// What became of a try to write a batch.
pub(super) enum Tried {
    /// It is written (or given up), but for the rows that somebody has locked.
    Done { busy: HashSet<JobId> },
    /// It cannot be written as it is: for what is in it, or for its size.
    SplitOrStrip,
    /// It is one result, and took longer than the server allows.
    TimedOut,
    /// It is refused, and there is nothing in it that could be left out.
    Refused { error: Error },
}

impl Settler {
    /// Writes a batch, trying again until it is written, refused, or there is no more time.
    pub(super) async fn write(&mut self, worker: &WorkerId, batch: &mut Batch) -> Tried {
        let mut delay = FIRST_DELAY;
        loop {
            let settled = tokio::select! {
                settled = self.calls.call(WRITE_TIMEOUT, self.calls.storage().settle(worker, &batch.settlements)) => settled,
                () = self.give_up.cancelled() => {
                    self.give_up_on(&batch.settlements);
                    return Tried::Done { busy: HashSet::new() };
                }
            };
            let error = match settled {
                Ok(Settled { applied, busy, freed_queues, .. }) => {
                    if busy.len() < batch.len() {
                        self.refusals = 0;
                        self.accepted = Some(Instant::now());
                    }
                    let busy: HashSet<JobId> = busy.into_iter().collect();
                    self.settled(batch, applied, &busy, freed_queues).await;
                    return Tried::Done { busy };
                }
                Err(error) => error,
            };
            if error.is_gone() {
                self.give_up_on(&batch.settlements);
                self.events.tell(|| Event::WriteFailed { jobs: batch.len(), error: error.to_string() });
                // The engine may be gone at the very end; then nobody needs to know.
                let _ = self.written.send(Written::Gone(error));
                return Tried::Done { busy: HashSet::new() };
            }
            if is_unanswered(&error) {
                batch.doubt();
            }
            if (error.took_too_long() || is_unanswered(&error)) && batch.len() > 1 {
                tracing::warn!(%error, jobs = batch.len(), "results took too long to write; writing fewer at a time");
                return Tried::SplitOrStrip;
            }
            if error.took_too_long() {
                tracing::warn!(%error, "a result took too long to write; trying again later");
                return Tried::TimedOut;
            }
            if !error.is_refusal() && error.is_transient() {
                // It may have been applied all the same, its answer lost.
                batch.doubt();
            }
            let is_answer = error.is_answer();
            if is_answer {
                self.refusals = self.refusals.saturating_add(1);
            }
            let refused = !error.is_transient() || (is_answer && batch.refused_again() >= MAX_REFUSALS);
            if refused && error.is_transient() {
                self.spare().await;
            }
            if refused && (batch.len() > 1 || (!error.is_transient() && can_be_simpler(&batch.settlements))) {
                tracing::error!(%error, jobs = batch.len(), "results were refused; looking for the one to blame");
                return Tried::SplitOrStrip;
            }
            self.events.tell(|| Event::WriteFailed { jobs: batch.len(), error: error.to_string() });
            if refused {
                return Tried::Refused { error };
            }
            tracing::warn!(%error, jobs = batch.len(), ?delay, "results could not be written; trying again");
            if !self.pause(&mut delay).await {
                self.give_up_on(&batch.settlements);
                return Tried::Done { busy: HashSet::new() };
            }
        }
    }

    /// Waits before anything else is tried on a database that accepts nothing.
    pub(super) async fn spare(&self) {
        if let Some(more) = self.refusals.checked_sub(MANY_REFUSALS) {
            let pause = (FIRST_DELAY * 2_u32.pow(more.min(5))).min(MAX_SPARING);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.give_up.cancelled() => {}
            }
        }
    }

    /// Waits before the next try, and longer each time; tells whether there is time for one.
    pub(super) async fn pause(&self, delay: &mut Duration) -> bool {
        let now = *delay;
        *delay = (*delay * 2).min(MAX_DELAY).mul_f64(0.75 + fastrand::f64() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(now) => true,
            () = self.give_up.cancelled() => false,
        }
    }

    pub(super) fn give_up_on(&mut self, batch: &[Settlement]) {
        self.unwritten += batch.len();
        for settlement in batch {
            self.backlog.remove(settlement);
        }
    }
}
