//! Offering to take new jobs at once, and taking them.
//!
//! A worker that has found nothing to claim and has most of its slots free offers to receive the next job (see
//! [`Offer`]). What is handed off starts like what was claimed. It may come when it cannot start any more, because offers end
//! a little later than slots fill up: then it is released.
//!
//! When the storage's listener was lost, jobs may have been handed off that went unnoticed. They are released at once, before anything
//! is claimed or offered again; and whatever was seen of jobs before that counts no longer.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::events::Event;
use super::claiming::{FIRST_CLAIM_DELAY, MAX_CLAIM_DELAY, RECOVERY_TIMEOUT};
use super::{Engine, Mode};
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{Handoff, Offer};

/// So often in a row is tried to release what was not heard of, before anything else is done.
const MOST_FAILURES: u32 = 6;
/// Jobs that come faster than this are better claimed, many at once: so many …
const MANY: u32 = 40;
/// … in this time …
const SHORT: Duration = Duration::from_millis(10);
/// … end the offer for so long.
const REST: Duration = Duration::from_millis(100);

/// What is offered, and what may have become of it.
pub(super) struct Handoffs {
    wanted: watch::Sender<Option<Offer>>,
    /// How many offers were made.
    number: u64,
    /// Something was offered since jobs were last released that nobody heard of.
    ever: bool,
    /// Jobs may have been handed off that nobody heard of.
    unheard: bool,
    /// Releases them.
    pub releasing: Option<BoxFuture<'static, Result<u64>>>,
    /// Not before this moment: it failed.
    again: Option<Instant>,
    /// How often in a row.
    failures: u32,
    /// What was seen before this moment may have been released since.
    released: Option<std::time::Instant>,
    /// Since when so many have come.
    came: (Instant, u32),
    rests_until: Option<Instant>,
    /// A job was taken since the claim in flight was sent, which counted on its slot.
    pub beside_claim: bool,
}

impl Handoffs {
    pub(super) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            number: 0,
            ever: false,
            unheard: false,
            releasing: None,
            again: None,
            failures: 0,
            released: None,
            came: (Instant::now(), 0),
            rests_until: None,
            beside_claim: false,
        }
    }

    pub(super) fn offers(&self) -> watch::Receiver<Option<Offer>> {
        self.wanted.subscribe()
    }

    /// Nothing was heard for a while.
    pub(super) fn listener_lost(&mut self) {
        self.unheard |= std::mem::take(&mut self.ever);
    }

    /// What is offered holds no more.
    pub(super) fn end_offer(&mut self) {
        self.wanted.send_replace(None);
    }

    /// Under a new identity, which holds nothing.
    pub(super) fn begin_anew(&mut self) {
        self.unheard = false;
        self.releasing = None;
    }

    /// What this worker did not know of may have been released.
    pub(super) fn unknown_released(&mut self) {
        self.released = Some(std::time::Instant::now());
    }

    /// Whether jobs have to be released before anything is claimed.
    pub(super) fn is_pending(&self) -> bool {
        self.unheard || self.releasing.is_some()
    }

    /// When something is to be done that is not yet.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let time = if self.unheard { self.again } else { self.rests_until };
        time.filter(|time| *time > Instant::now())
    }

    /// Whether too many come for one by one.
    fn is_too_much(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.came.0 + SHORT {
            self.came = (now, 0);
        }
        self.came.1 += 1;
        self.came.1 > MANY
    }
}

impl Engine {
    /// Offers what is free, or ends the offer.
    pub(super) fn offer_if_idle(&mut self) {
        let now = Instant::now();
        if self.handoff.rests_until.is_some_and(|time| now >= time) {
            self.handoff.rests_until = None;
        }
        let offers = self.handoff.wanted.borrow().is_some();
        // An offer begins with half of the slots, and ends with three quarters, so that it does not end and begin with each job.
        let limit = self.work.now.concurrency * if offers { 3 } else { 2 };
        let may = (self.slots.running.len() + self.buffer.waiting.len()) * 4 < limit
            // What is claimed just now may be more urgent. (To look now and then ends no offer.)
            && (offers || (!self.claims.more && self.claims.is_empty()))
            && self.options.accept_handoffs
            && !self.work.now.offered.is_empty()
            && self.mode == Mode::UntilShutdown
            && self.ending.is_none()
            && self.failure.is_none()
            && self.registration.registering.is_none()
            // To release what is unknown ends an offer.
            && !self.handoff.is_pending()
            && !self.claims.is_recovering()
            && self.handoff.rests_until.is_none()
            // Jobs are handed off that are ready by the storage's clock, and nobody is asked for forbidden flags first.
            && self.client.clock().time().is_none()
            && !self.options.forbidden_flags.is_asked()
            && !self.registration.lease.is_over();
        if may == offers {
            return;
        }
        let handoff = &mut self.handoff;
        handoff.number += u64::from(may);
        handoff.ever |= may;
        let (worker, tasks, number) = (&self.registration.worker, &self.work.now.offered, handoff.number);
        handoff.wanted.send_replace(may.then(|| Offer::new(Arc::clone(worker), Arc::clone(tasks), number)));
    }

    /// Starts a job that was handed off, or releases it.
    pub(super) fn handed_off(&mut self, Handoff { job, worker, seen, .. }: Handoff) {
        if self.slots.held.get(&job.id) == Some(&job.token) {
            // Anybody may notify us of what we hold already.
            return;
        }
        self.events.tell(|| Event::HandedOff { job: Arc::new(job.job.clone()) });
        let is_ours = worker == self.registration.worker && self.registration.registering.is_none();
        let may_be_released = self.handoff.releasing.is_some()
            || self.claims.is_recovering()
            || self.handoff.released.is_some_and(|released| seen <= released);
        let concurrency = self.work.now.concurrency;
        if is_ours
            && self.may_be_handed_off(&job)
            && !may_be_released
            && self.slots.running.len() + self.buffer.waiting.len() < concurrency + self.claims.pace.ahead(concurrency)
            && self.ending.is_none()
            && self.failure.is_none()
            && !self.results.are_many_bytes()
        {
            if self.handoff.is_too_much() {
                self.handoff.rests_until = Some(Instant::now() + REST);
            }
            self.handoff.beside_claim |= !self.claims.is_empty();
            self.take_in(vec![job]);
        } else {
            // If it is held no longer, the fence sees to it that this changes nothing.
            self.release(&worker, &job.into());
            self.events.tell(|| Event::Released { jobs: 1 });
        }
    }

    /// Whether a job that is there may start without being claimed. It is asked of the row that was stored, because a trigger may have
    /// made something else of what was given: then it is claimed like all others, when and where its queue, its time and its flags
    /// allow it.
    fn may_be_handed_off(&self, job: &Job) -> bool {
        job.queue.is_none()
            && job.flags.is_empty()
            && job.attempts < job.max_attempts
            && job.locked_at.is_some_and(|locked_at| job.run_at <= locked_at)
            && self.work.now.offered.contains(&job.task)
    }

    /// Releases jobs that may have been handed off and were not heard of.
    pub(super) fn release_unheard(&mut self) {
        let handoff = &mut self.handoff;
        let now = Instant::now();
        // A claim in flight takes what we do not know of yet.
        if !handoff.unheard
            || handoff.releasing.is_some()
            || handoff.again.is_some_and(|time| now < time)
            || !self.claims.is_empty()
            || self.registration.registering.is_some()
            || self.ending.is_some()
        {
            return;
        }
        let held: Vec<JobId> = self.slots.held.keys().copied().collect();
        let (calls, worker) = (self.calls.clone(), Arc::clone(&self.registration.worker));
        handoff.unheard = false;
        handoff.releasing = Some(Box::pin(async move {
            calls.call(RECOVERY_TIMEOUT, calls.storage().release_untracked(&worker, &held)).await
        }));
    }

    pub(super) fn released(&mut self, released: Result<u64>) {
        let handoff = &mut self.handoff;
        handoff.releasing = None;
        handoff.unknown_released();
        match released {
            Ok(jobs) => {
                (handoff.again, handoff.failures) = (None, 0);
                if jobs > 0 {
                    tracing::warn!(jobs, "released jobs that were handed off and not heard of");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not release handed-off jobs; they stay locked until the next attempt");
                let delay = (FIRST_CLAIM_DELAY * 2_u32.pow(handoff.failures)).min(MAX_CLAIM_DELAY);
                handoff.failures += 1;
                if handoff.failures < MOST_FAILURES {
                    handoff.unheard = true;
                    handoff.again = Some(Instant::now() + delay.mul_f64(0.5 + fastrand::f64() / 2.0));
                } else {
                    // Claims have to go on. They look for such jobs too, before each for a while.
                    (handoff.again, handoff.failures) = (None, 0);
                    self.claims.doubt_since = Some(Instant::now());
                }
            }
        }
        self.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jobs_that_come_too_fast_for_one_by_one_are_noticed() {
        let mut handoff = Handoffs::new();
        for _ in 0..10 {
            for _ in 0..MANY {
                assert!(!handoff.is_too_much());
            }
            tokio::time::advance(SHORT).await;
        }
        for _ in 0..MANY {
            assert!(!handoff.is_too_much());
        }
        assert!(handoff.is_too_much());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_lies_ahead_rings() {
        let mut handoff = Handoffs::new();
        assert_eq!(handoff.deadline(), None);
        let soon = Instant::now() + REST;
        handoff.rests_until = Some(soon);
        assert_eq!(handoff.deadline(), Some(soon));
        tokio::time::advance(REST).await;
        assert_eq!(handoff.deadline(), None);
    }

    #[test]
    fn who_never_offered_has_missed_nothing() {
        let mut handoff = Handoffs::new();
        handoff.listener_lost();
        assert!(!handoff.is_pending());
        handoff.ever = true;
        handoff.listener_lost();
        assert!(handoff.is_pending());
        handoff.begin_anew();
        handoff.listener_lost();
        assert!(!handoff.is_pending(), "an offer is missed once");
    }
}
