//! Where in the line of ready jobs a claim begins to look.
//!
//! Jobs that cannot be taken may stand at the head of the line: of queues that are held, of tasks that this worker does not run,
//! or dead rows that a long transaction keeps. Every claim would walk over them again. So after a look from the very start
//! that took long, the next ones begin at the *cursor*: where that one found its first job. What becomes ready before
//! it meanwhile (a better priority, a queue that was freed) is found by the next look from the start, which comes when no more
//! than a twentieth of the time is spent on such looks (a fifth after the first of them, if it may have been unlucky; half where
//! queues of ours are freed). Where a look from the start is cheap, as it nearly always is, each one is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Utc};

use crate::storage::{ClaimRequest, Claimed};

/// A look whose walk took no longer than this is cheap …
const CHEAP: Duration = Duration::from_millis(1);
/// … besides what it takes to find and lock each job that it takes, about.
const EACH: Duration = Duration::from_micros(3);
/// The time between two looks from the start is so many times what one takes.
const PAUSE: u32 = 19;
/// After the first long look, which may only have been unlucky, it is shorter …
const FIRST_PAUSE: u32 = 4;
/// … unless it took longer than bad luck does (pages that had to be read, a machine that was busy).
const UNLUCKY: Duration = Duration::from_millis(150);
/// In any case it is no longer than this.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A position in the line: jobs are claimed by priority, then by time.
pub type Position = (i16, DateTime<Utc>);

/// For storages whose claims walk over what they cannot take: where the next one begins. One for each worker.
#[derive(Debug, Default)]
pub struct Cursor(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// For which tasks and flags it holds.
    of: u64,
    position: Option<Position>,
    next_full: Option<Instant>,
    /// How long the last walk from the start took.
    walk: Duration,
    /// It was broken off at the position, and the next claim goes on from there.
    broken_off: bool,
}

/// How far a claim has walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The storage does not know it, or has not walked on because it had enough.
    Unknown,
    /// All that was ready was seen, up to this position.
    End(Position),
    /// It took too long, and was broken off at this position: the next claim goes on from there, at once.
    BrokenOff(Position),
}

/// Where a claim begins.
#[derive(Debug)]
pub struct Start {
    /// Jobs before this position are passed by; `None` for the very start.
    pub position: Option<Position>,
    /// Whether the walk may be broken off, because the next one can go on from where it was.
    pub may_break_off: bool,
    of: u64,
}

impl Cursor {
    /// Where a claim with this request begins at this moment.
    pub fn begin(&self, request: &ClaimRequest<'_>, now: Instant) -> Start {
        let mut hasher = DefaultHasher::new();
        (request.tasks, request.forbidden_flags).hash(&mut hasher);
        let of = hasher.finish();
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A claim with limits of tasks leaves out what another may take.
        let usable = !request.full_scan && request.limits.is_empty() && state.of == of;
        let early = state.next_full.is_some_and(|next| now < next);
        let may_break_off = !request.full_scan && request.limits.is_empty();
        Start { position: state.position.filter(|_| usable && (early || state.broken_off)), may_break_off, of }
    }

    /// A queue of ours was freed, whose next job may stand before the position: the next look from the start comes sooner, but no
    /// more than half of the time goes to such looks.
    pub fn queue_was_freed(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = now + state.walk;
        state.next_full = state.next_full.map(|next| next.min(soon));
    }

    /// Jobs were made ready that may stand before the position: the next look is from the start.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Learns from an answer, whose walk over the line took so long, and says in it when to look again if something may have been
    /// passed by.
    pub fn end(&self, start: &Start, request: &ClaimRequest<'_>, claimed: &mut Claimed, walk: Duration, now: Instant) {
        self.end_at(start, request, claimed, walk, Reached::Unknown, now);
    }

    /// The same for a storage that knows how far it has walked, so that the next claims pass by what this one has seen even if it
    /// took nothing.
    pub fn end_at(
        &self,
        start: &Start,
        request: &ClaimRequest<'_>,
        claimed: &mut Claimed,
        walk: Duration,
        reached: Reached,
        now: Instant,
    ) {
        let (reached, broken_off) = match reached {
            Reached::Unknown => (None, false),
            Reached::End(position) => (Some(position), false),
            Reached::BrokenOff(position) => (Some(position), true),
        };
        // A row that somebody gave a time of beyond the calendar cannot be a position.
        let first = claimed.jobs.first().map(|job| (job.priority.0, job.run_at));
        let known = |position: &Position| (1..=9999).contains(&position.1.year());
        let (first, reached) = (first.filter(known), reached.filter(known));
        let broken_off = broken_off && reached.is_some();
        // Before the position that was reached, all that could be taken was taken.
        let position = reached.or(first);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if start.position.is_some() {
            if state.of == start.of && state.position.is_some() {
                state.position = position.or(state.position);
                if state.broken_off {
                    // It is one walk, in parts.
                    state.walk += walk;
                    state.next_full = Some(now + (state.walk * PAUSE).min(MAX_PAUSE));
                }
                state.broken_off = broken_off;
            }
            if broken_off {
                claimed.rescan_after = Some(Duration::ZERO);
            } else if claimed.jobs.len() < request.limit {
                let next = state.next_full.unwrap_or(now);
                claimed.rescan_after = Some(next.saturating_duration_since(now));
            }
        } else if request.limits.is_empty() {
            let jobs = u32::try_from(claimed.jobs.len()).unwrap_or(u32::MAX);
            if broken_off {
                let next_full = Some(now + (walk * PAUSE).min(MAX_PAUSE));
                *state = State { of: start.of, position, next_full, walk, broken_off };
                claimed.rescan_after = Some(Duration::ZERO);
            } else if walk.saturating_sub(EACH.saturating_mul(jobs)) <= CHEAP {
                *state = State::default();
            } else {
                let same = state.of == start.of;
                let position = position.or(state.position.filter(|_| same));
                let sure = (same && state.next_full.is_some()) || walk > UNLUCKY;
                let times = if sure { PAUSE } else { FIRST_PAUSE };
                let next_full = Some(now + (walk * times).min(MAX_PAUSE));
                *state = State { of: start.of, position, next_full, walk, broken_off: false };
                if reached.is_some() && claimed.jobs.len() < request.limit {
                    // Somebody has to look from the start when it is time, even if nothing tells.
                    claimed.rescan_after = next_full.map(|next| next.saturating_duration_since(now));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Job, Payload, Priority};
    use crate::storage::{ClaimToken, ClaimedJob, WorkerId};

    fn found(priority: i16) -> Claimed {
        let mut job = Job::new(1, "t", Payload::empty(), DateTime::UNIX_EPOCH);
        job.priority = Priority(priority);
        Claimed { jobs: vec![ClaimedJob::new(job, ClaimToken::from_number(1))], ..Claimed::default() }
    }

    #[test]
    fn after_a_long_look_the_next_begin_where_it_found_something_until_there_is_time_for_another() {
        let (worker, tasks) = (WorkerId::random(), ["t".to_owned()]);
        let request = ClaimRequest::new(&worker, &tasks, 10);
        let cursor = Cursor::default();
        let begun = Instant::now();
        let look = |at_ms, walk, mut claimed: Claimed, request: &ClaimRequest<'_>| {
            let now = begun + Duration::from_millis(at_ms);
            let start = cursor.begin(request, now);
            cursor.end(&start, request, &mut claimed, Duration::from_millis(walk), now);
            (start.position.map(|position| position.0), claimed.rescan_after.map(|pause| pause.as_millis()))
        };
        assert_eq!(look(0, 0, found(1), &request), (None, None));
        assert_eq!(look(1, 100, found(5), &request), (None, None), "a cheap look is always from the start");
        let later = "what it may have passed by is looked for later";
        assert_eq!(look(1, 0, found(7), &request), (Some(5), Some(400)), "{later}");
        assert_eq!(look(101, 0, Claimed::default(), &request), (Some(7), Some(300)), "it moves on");
        assert_eq!(look(400, 0, found(8), &request), (Some(7), Some(1)));
        assert_eq!(look(401, 100, Claimed::default(), &request), (None, None), "now there is time");
        let free = "what was free before the position still is not there, and it was no accident";
        assert_eq!(look(402, 0, found(9), &request), (Some(8), Some(1_899)), "{free}");
        cursor.queue_was_freed(begun + Duration::from_millis(500));
        assert_eq!(look(501, 0, found(9), &request), (Some(9), Some(99)), "it may be one of that queue");
        assert_eq!(look(600, 100, found(9), &request), (None, None));
        let others = ["u".to_owned()];
        assert_eq!(
            look(2_600, 100, found(9), &ClaimRequest::new(&worker, &others, 10)),
            (None, None),
            "of other tasks"
        );
        assert_eq!(look(2_601, 100, found(5), &request), (None, None), "and back");
        assert_eq!(look(2_602, 100, found(5), &request.full_scan(true)), (None, None), "nothing is passed by");
        let limits = [("t".to_owned(), 3)];
        assert_eq!(look(2_603, 100, found(5), &request.limits(&limits)), (None, None), "others leave out other jobs");
        assert_eq!(look(2_604, 0, found(6), &request), (Some(5), Some(1_898)));
        assert_eq!(look(99_000, 0, found(5), &request), (None, None));
        assert_eq!(
            look(99_001, 100, found(5), &request),
            (None, None),
            "it was cheap, so each is from the start again"
        );
        cursor.forget();
        assert_eq!(look(99_002, 0, found(5), &request), (None, None), "jobs were made ready");
        assert_eq!(look(99_003, 200, found(5), &request), (None, None));
        assert_eq!(look(99_004, 0, found(6), &request), (Some(5), Some(3_799)), "such a look was no accident");
    }

    #[test]
    fn what_was_seen_in_vain_is_passed_by_and_a_walk_that_was_broken_off_goes_on() {
        let (worker, tasks) = (WorkerId::random(), ["t".to_owned()]);
        let request = ClaimRequest::new(&worker, &tasks, 10);
        let cursor = Cursor::default();
        let begun = Instant::now();
        let look = |at_ms, walk, reached, request: &ClaimRequest<'_>| {
            let now = begun + Duration::from_millis(at_ms);
            let start = cursor.begin(request, now);
            let mut claimed = Claimed::default();
            cursor.end_at(&start, request, &mut claimed, Duration::from_millis(walk), reached, now);
            (start.position.map(|position| position.0), claimed.rescan_after.map(|pause| pause.as_millis()))
        };
        let end = |priority| Reached::End((priority, DateTime::UNIX_EPOCH));
        let broken_off = |priority| Reached::BrokenOff((priority, DateTime::UNIX_EPOCH));
        // In vain, and again and again: no more than a twentieth of the time.
        assert_eq!(look(0, 200, end(3), &request), (None, Some(3_800)));
        assert_eq!(look(1, 0, end(3), &request), (Some(3), Some(3_799)), "what was seen is not walked over again");
        assert_eq!(look(3_799, 0, end(3), &request), (Some(3), Some(1)));
        assert_eq!(look(3_800, 200, end(3), &request), (None, Some(3_800)));
        // In parts, which take longer than there is between two looks from the start.
        assert_eq!(look(8_000, 1_000, broken_off(1), &request), (None, Some(0)));
        assert_eq!(look(14_000, 1_000, broken_off(2), &request), (Some(1), Some(0)), "it comes to an end");
        assert_eq!(look(20_000, 1_000, end(3), &request), (Some(2), Some(5_000)));
        assert_eq!(look(20_001, 0, end(3), &request), (Some(3), Some(4_999)));
        assert_eq!(look(25_000, 0, end(3), &request), (None, None), "it was cheap, so each is from the start again");
        let mut claimed = found(1);
        let start = cursor.begin(&request, begun);
        cursor.end_at(&start, &request, &mut claimed, Duration::from_millis(200), end(3), begun);
        assert_eq!(look(1, 0, end(3), &request), (Some(3), Some(3_799)), "nor what stands behind a job that was found");
        let start = cursor.begin(&request.full_scan(true), begun);
        assert!(!start.may_break_off, "nothing is passed by");
    }
}
