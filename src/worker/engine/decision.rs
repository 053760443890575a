//! Whether to ask for more jobs, and for how many: a pure function of what the engine sees.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// No claims while more results than this (plus what can run) wait to be written.
pub(super) const MAX_UNWRITTEN: usize = 5_000;
/// The most bytes of payloads that are claimed at once, and beyond which nothing more is claimed ahead.
pub(super) const MAX_BYTES: usize = 32 * 1024 * 1024;
/// How long a claim whose answer was lost may still be on its way to the storage: as long as an operating system tries to send
/// what it has.
pub(super) const DOUBT: Duration = Duration::from_secs(20 * 60);
/// For this long it is likely, and jobs that nobody knows of are looked for before each claim; then every so often.
pub(super) const PROBABLY_IN_DOUBT: Duration = Duration::from_secs(60);
/// From this many jobs claimed ahead, the next claim is sent while one is on its way.
const OVERLAP_FROM: usize = 500;
/// How many claims are on their way at once, at the most.
const MAX_CLAIMS: usize = 2;

/// Why a worker does not ask for jobs at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hold {
    /// The last claim found nothing more, and nothing has told of new jobs since.
    NothingReady,
    /// Every slot has a job, or a claim on its way that counts on it.
    Full,
    /// Every task runs as many jobs as its own limit allows.
    TasksFull,
    /// A claim is on its way, and the next one needs its answer.
    Claiming,
    /// The last claim failed, or found only jobs of queues that other workers were taking; the next one waits a little.
    Waiting,
    /// The worker holds most of the serial queues that have jobs, and waits until it has written results that free some.
    QueuesHeld,
    /// Too many results wait to be written.
    Unwritten,
    /// Too many bytes of payloads wait for a slot.
    LargePayloads,
    /// Jobs that may have been handed off without being heard of are being released first.
    InDoubt,
    /// The heartbeats are not answered: what was claimed now could not be started.
    HeartbeatsUnanswered,
    /// Other workers declared this one dead, and it registers anew.
    Registering,
    /// The worker ends.
    Ending,
}

impl Hold {
    /// Every one.
    pub(in crate::worker) const ALL: [Self; 12] = [
        Self::NothingReady,
        Self::Full,
        Self::TasksFull,
        Self::Claiming,
        Self::Waiting,
        Self::QueuesHeld,
        Self::Unwritten,
        Self::LargePayloads,
        Self::InDoubt,
        Self::HeartbeatsUnanswered,
        Self::Registering,
        Self::Ending,
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hold| hold.as_str() == name)
    }

    /// The name, as it is serialised.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NothingReady => "nothing_ready",
            Self::Full => "full",
            Self::TasksFull => "tasks_full",
            Self::Claiming => "claiming",
            Self::Waiting => "waiting",
            Self::QueuesHeld => "queues_held",
            Self::Unwritten => "unwritten",
            Self::LargePayloads => "large_payloads",
            Self::InDoubt => "in_doubt",
            Self::HeartbeatsUnanswered => "heartbeats_unanswered",
            Self::Registering => "registering",
            Self::Ending => "ending",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingReady => "nothing that it can run is ready",
            Self::Full => "all of its slots are taken",
            Self::TasksFull => "each of its tasks runs as many jobs as it may",
            Self::Claiming => "a claim is on its way",
            Self::Waiting => "the last claim failed, or found only queues that others were taking",
            Self::QueuesHeld => "it holds most of the serial queues that have jobs",
            Self::Unwritten => "too many results wait to be written",
            Self::LargePayloads => "too many bytes of payloads wait for a slot",
            Self::InDoubt => "it releases jobs that it may have been given without hearing of them",
            Self::HeartbeatsUnanswered => "its heartbeats are not answered",
            Self::Registering => "it was declared dead, and registers anew",
            Self::Ending => "it ends",
        })
    }
}

/// What the decision is made by.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is seen of many parts")]
pub(super) struct View {
    pub now: Instant,
    pub ending: bool,
    pub registering: bool,
    /// Unheard jobs have to be released first.
    pub releasing: bool,
    /// A claim may find something.
    pub more: bool,
    pub not_before: Option<Instant>,
    pub lease_over: bool,
    /// How many jobs run at once, at most.
    pub concurrency: usize,
    /// How many run, wait or are asked for.
    pub have: usize,
    pub in_flight: usize,
    /// How many can start within the lead time beyond the free slots.
    pub ahead: usize,
    pub prefetch: usize,
    /// Only what can start at once is to be asked for.
    pub only_slots: bool,
    /// The last claim took as much as it asked for.
    pub deep: bool,
    /// Tasks have limits of their own.
    pub limited: bool,
    /// A claim on its way releases what the worker does not know of.
    pub recovering: bool,
    pub doubt_since: Option<Instant>,
    pub next_doubt: Instant,
    /// Of payloads that wait.
    pub bytes: usize,
    /// How many results are not known to be written.
    pub held: usize,
    pub many_bytes_unwritten: bool,
    /// How many may be claimed in the time that is given.
    pub in_time: Option<usize>,
    /// About so many serial queues have jobs, and there is little else.
    pub queues: Option<usize>,
    /// How many of them are held or asked for.
    pub held_queues: usize,
    /// They were waited for long enough.
    pub queues_awaited: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Hold(Hold),
    Ask(Plan),
}

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub limit: usize,
    pub free_slots: usize,
    /// Whether to release first what the worker does not know of.
    pub recovers: bool,
}

impl View {
    pub fn decide(&self) -> Decision {
        match self.plan() {
            Ok(plan) => Decision::Ask(plan),
            Err(hold) => Decision::Hold(hold),
        }
    }

    fn plan(&self) -> Result<Plan, Hold> {
        let hold_if = |hold: Hold, holds: bool| if holds { Err(hold) } else { Ok(()) };
        hold_if(Hold::Ending, self.ending)?;
        hold_if(Hold::Registering, self.registering)?;
        hold_if(Hold::InDoubt, self.releasing)?;
        // What keeps a full worker from claiming is that it is full, whatever else is true.
        hold_if(Hold::NothingReady, !self.more && self.have < self.concurrency)?;
        hold_if(Hold::Full, !self.more)?;
        hold_if(Hold::Waiting, self.not_before.is_some_and(|earliest| self.now < earliest))?;
        hold_if(Hold::HeartbeatsUnanswered, self.lease_over)?;
        let full = self.concurrency + if self.only_slots { 0 } else { self.ahead.max(self.prefetch) };
        // While many fast jobs wait, two claims for half as many keep the storage busy, each while the other's jobs start.
        // Not where claims have to know of each other: with limits of tasks, a prefetch that was asked for, or a claim whose
        // answer was lost.
        let may_overlap = self.concurrency > 1
            && self.ahead >= OVERLAP_FROM
            && !self.only_slots
            && self.prefetch == 0
            && !self.limited;
        let overlaps = may_overlap && self.deep;
        let queues = self.queues.filter(|_| may_overlap).map(|queues| queues.max(2 * self.concurrency));
        let full = queues.map_or(full, |queues| full.min(queues));
        let recovers =
            self.doubt_since.is_some_and(|since| self.now < since + PROBABLY_IN_DOUBT || self.now >= self.next_doubt);
        let alone = recovers || self.recovering;
        hold_if(Hold::Claiming, self.in_flight >= if overlaps && !alone { MAX_CLAIMS } else { 1 })?;
        // With slow jobs: whenever a slot is free. With fast ones: when half of what was claimed ahead is used up.
        let useful =
            (self.have < self.concurrency && self.in_flight == 0) || (self.have <= full / 2 && !self.only_slots);
        hold_if(Hold::Full, !useful)?;
        hold_if(Hold::LargePayloads, self.bytes > MAX_BYTES && self.have >= self.concurrency)?;
        hold_if(Hold::Unwritten, self.held > full + MAX_UNWRITTEN || self.many_bytes_unwritten)?;
        // The queue of a job that has run is not free before that is written, so until then nobody could take its next one.
        let have = if queues.is_some() { self.have.max(self.held_queues) } else { self.have };
        hold_if(Hold::QueuesHeld, queues.is_some() && have > full / 2 && !self.queues_awaited)?;
        let free = full.saturating_sub(have);
        let limit = if overlaps || queues.is_some() { free.clamp(1, full / 2) } else { free };
        let limit = self.in_time.map_or(limit, |in_time| limit.min(in_time));
        Ok(Plan { limit, free_slots: self.concurrency.saturating_sub(self.have), recovers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker of ten slots, of which four are taken, that has reason to look.
    fn view() -> View {
        let now = Instant::now();
        View {
            now,
            ending: false,
            registering: false,
            releasing: false,
            more: true,
            not_before: None,
            lease_over: false,
            concurrency: 10,
            have: 4,
            in_flight: 0,
            ahead: 0,
            prefetch: 0,
            only_slots: false,
            deep: false,
            limited: false,
            recovering: false,
            doubt_since: None,
            next_doubt: now,
            bytes: 0,
            held: 4,
            many_bytes_unwritten: false,
            in_time: None,
            queues: None,
            held_queues: 0,
            queues_awaited: false,
        }
    }

    fn ask(limit: usize, free_slots: usize) -> Decision {
        Decision::Ask(Plan { limit, free_slots, recovers: false })
    }

    #[test]
    fn a_worker_asks_for_its_free_slots_and_for_what_can_start_soon() {
        assert_eq!(view().decide(), ask(6, 6));
        assert_eq!(View { ahead: 40, ..view() }.decide(), ask(46, 6));
        assert_eq!(View { ahead: 40, only_slots: true, ..view() }.decide(), ask(6, 6));
        assert_eq!(View { ahead: 40, in_time: Some(3), ..view() }.decide(), ask(3, 6));
        let deep = View { ahead: 1_000, deep: true, in_flight: 1, have: 500, ..view() };
        assert_eq!(deep.decide(), ask(505, 0), "two claims keep the storage busy");
        assert_eq!(View { limited: true, ..deep }.decide(), Decision::Hold(Hold::Claiming));
    }

    #[test]
    fn where_there_are_queues_only_half_of_them_are_asked_for_at_a_time() {
        let queues = View { queues: Some(600), ahead: 1_000, held_queues: 0, have: 0, held: 0, ..view() };
        assert_eq!(queues.decide(), ask(300, 10));
        assert_eq!(View { held_queues: 290, ..queues.clone() }.decide(), ask(300, 10));
        assert_eq!(View { held_queues: 301, ..queues.clone() }.decide(), Decision::Hold(Hold::QueuesHeld));
        let awaited = View { held_queues: 700, queues_awaited: true, ..queues.clone() };
        assert_eq!(awaited.decide(), ask(1, 10), "there may be something else");
        assert_eq!(View { ahead: 40, ..queues.clone() }.decide(), ask(50, 10), "not of slow jobs");
        assert_eq!(View { limited: true, ..queues }.decide(), ask(1_010, 10));
    }

    #[test]
    fn each_reason_to_hold_is_told() {
        let later = Some(Instant::now() + Duration::from_secs(1));
        for (hold, view) in [
            (Hold::Ending, View { ending: true, ..view() }),
            (Hold::Registering, View { registering: true, ..view() }),
            (Hold::InDoubt, View { releasing: true, ..view() }),
            (Hold::NothingReady, View { more: false, ..view() }),
            (Hold::Full, View { more: false, have: 10, ..view() }),
            (Hold::Full, View { have: 10, ..view() }),
            (Hold::Waiting, View { not_before: later, ..view() }),
            (Hold::HeartbeatsUnanswered, View { lease_over: true, ..view() }),
            (Hold::Claiming, View { in_flight: 1, ..view() }),
            (Hold::LargePayloads, View { bytes: MAX_BYTES + 1, have: 12, ahead: 40, ..view() }),
            (Hold::Unwritten, View { held: MAX_UNWRITTEN + 11, ..view() }),
            (Hold::QueuesHeld, View { queues: Some(600), held_queues: 301, ahead: 1_000, ..view() }),
            (Hold::Unwritten, View { many_bytes_unwritten: true, ..view() }),
        ] {
            assert_eq!(view.decide(), Decision::Hold(hold), "{view:?}");
        }
    }

    #[test]
    fn each_reason_to_hold_has_a_name_that_is_read_back() {
        for hold in Hold::ALL {
            let name = serde_json::to_value(hold).unwrap();
            assert_eq!((name, Hold::named(hold.as_str())), (hold.as_str().into(), Some(hold)));
            assert!(!hold.to_string().is_empty());
        }
    }

    #[test]
    fn doubt_is_strong_for_a_minute_and_then_comes_now_and_then() {
        let now = Instant::now() + PROBABLY_IN_DOUBT * 3;
        let recovers = |since: Duration, next: Duration| {
            let view = View { now, doubt_since: Some(now - since), next_doubt: now + next, ..view() };
            matches!(view.decide(), Decision::Ask(Plan { recovers: true, .. }))
        };
        assert!(recovers(Duration::from_secs(1), PROBABLY_IN_DOUBT));
        assert!(!recovers(PROBABLY_IN_DOUBT * 2, PROBABLY_IN_DOUBT));
        assert!(recovers(PROBABLY_IN_DOUBT * 2, Duration::ZERO));
    }
}
