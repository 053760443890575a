//! Where in the line of ready jobs a claim begins to look.
//!
//! Jobs that cannot be taken may stand at the head of the line: of queues that are held, of tasks that this worker does not run,
//! or dead rows that a long transaction keeps. Every claim would walk over them again. So after a look from the very start
//! that took long (a *pass*), the next ones begin at the *cursor*: behind what was seen. What stands before it is passed by, unless it
//! became ready after it was seen, so each claim finds new jobs, however urgent.
//!
//! The next pass begins when nineteen times as long has passed as the last one took. So no more than a twentieth of the time goes to
//! passes, also where nothing is found. Whoever makes jobs ready that are not new tells it; then one pass may come before its time, and
//! the one after it comes so much later. Half of the time may go to passes where queues of ours are freed. Where a look from the
//! start is cheap, as it nearly always is, each one is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use crate::storage::{ClaimRequest, Claimed};

/// A look whose walk took no longer than this is cheap …
const CHEAP: Duration = Duration::from_millis(1);
/// … besides what it takes to find and lock each job that it takes, about.
const EACH: Duration = Duration::from_micros(3);
/// A look that took longer than this is believed at once: a busy machine makes single ones slow. Of others so many in a row are.
const SURELY_DEAR: Duration = Duration::from_millis(20);
const DEAR_LOOKS: u8 = 3;
/// The time between two passes is so many times what one takes.
const PAUSE: u32 = 19;
/// In any case it is no longer than this: what was freed by whoever does not tell it is found at some time.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// What became ready so long before a look began counts as new: clocks differ.
const SLACK: TimeDelta = TimeDelta::seconds(1);
/// For so many sets of tasks cursors are kept: those that have no room for more jobs are not asked for.
const MAX_SETS: usize = 8;

/// A position in the line: jobs are claimed by priority, then by time.
pub type Position = (i16, DateTime<Utc>);

/// For storages whose claims walk over what they cannot take: where the next one begins. One for each worker.
#[derive(Debug, Default)]
pub struct Cursor(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those asked for last come first.
    sets: Vec<Line>,
    /// How often everything was forgotten: what a claim learned that began before does not count.
    forgotten: u64,
    /// How often it was told that jobs are back.
    told: u64,
}

/// The line as those see it who ask for a set of tasks.
#[derive(Debug)]
struct Line {
    of: u64,
    /// How many looks in a row were not cheap.
    dear: u8,
    /// `None` where looks from the start are cheap.
    pass: Option<Pass>,
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    position: Position,
    /// What stands before the position and was ready at this time is passed by.
    since: DateTime<Utc>,
    /// It was broken off at the position, and the next claim goes on from there.
    broken_off: bool,
    /// How long it took so far.
    spent: Duration,
    /// When the passes before it were paid for, or when it began, if that was later.
    began_at: Instant,
    /// When the next one begins by itself.
    next: Instant,
    /// Jobs are back that may have been passed by.
    told: bool,
    /// When to look for the next jobs of queues of ours that were freed.
    freed_at: Option<Instant>,
}

impl Pass {
    fn pause(&self) -> Duration {
        self.spent.saturating_mul(PAUSE).min(MAX_PAUSE)
    }

    fn plan_next(&mut self, now: Instant) {
        let earned_at = self.began_at + self.spent;
        // No more than one that came before its time has to be made up for.
        self.next = earned_at.max(now).min(now + self.pause()) + self.pause();
    }

    /// When the next pass may begin.
    fn due(&self, now: Instant) -> Instant {
        let told = if self.told { self.next.checked_sub(self.pause()).unwrap_or(now) } else { self.next };
        self.freed_at.map_or(told, |freed| told.min(freed))
    }
}

/// A claim's walk over the line.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// How long it took.
    pub took: Duration,
    /// It is known to have gone over many rows, a thousand or more. One that saw all there is and is not long is always cheap.
    pub is_long: bool,
    /// How far it came.
    pub reached: Reached,
}

/// How far a claim has walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// As far as the last job that it took: then it had enough.
    Taken,
    /// As far as this position. What stands behind it may be for the next claim.
    Until(Position),
    /// All that was ready was seen.
    End,
    /// It took too long, and was broken off at this position: the next claim goes on from there, at once.
    BrokenOff(Position),
}

/// Where a claim begins.
#[derive(Debug)]
pub struct Start {
    /// Jobs before this position are passed by, unless they became ready at [`since`](Self::since) or later; `None` for the very start.
    pub position: Option<Position>,
    /// What became ready since then is not passed by.
    pub since: DateTime<Utc>,
    /// Whether the walk may be broken off, because the next one can go on from where it was.
    pub may_break_off: bool,
    of: u64,
    moment: DateTime<Utc>,
    forgotten: u64,
    told: u64,
}

/// Behind everything that can be a position.
const END: Position = (i16::MAX, DateTime::<Utc>::MAX_UTC);

impl Cursor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a claim with this request begins at this moment, which is told by both clocks: no job becomes ready from now on, or is added
    /// as ready at once, for a time before `moment`.
    pub fn begin(&self, request: &ClaimRequest<'_>, moment: DateTime<Utc>, now: Instant) -> Start {
        let mut hasher = DefaultHasher::new();
        for task in request.tasks {
            if !request.limits.iter().any(|(limited, room)| limited == task && *room == 0) {
                task.hash(&mut hasher);
            }
        }
        request.forbidden_flags.hash(&mut hasher);
        let of = hasher.finish();
        let state = &mut *self.state();
        let line = state.line(of);
        // After the clock was set back, new jobs look like old ones.
        line.pass = line.pass.filter(|pass| pass.since <= moment);
        let pass = line.pass.filter(|pass| !request.full_scan && (pass.broken_off || now < pass.due(now)));
        Start {
            position: pass.map(|pass| pass.position),
            // The next part of a pass follows at once, and would come no further if it began with the same new jobs each time.
            since: pass
                .map_or(DateTime::<Utc>::MIN_UTC, |pass| if pass.broken_off { pass.since + SLACK } else { pass.since }),
            may_break_off: !request.full_scan,
            of,
            moment,
            forgotten: state.forgotten,
            told: state.told,
        }
    }

    /// A queue of ours was freed, whose next job may stand before the position: the next pass comes sooner, but no
    /// more than half of the time goes to such passes.
    pub fn queue_was_freed(&self, now: Instant) {
        for pass in self.state().passes() {
            pass.freed_at.get_or_insert(now + pass.spent.min(MAX_PAUSE));
        }
    }

    /// Jobs were made ready that may stand before the position: the next look is from the start.
    pub fn forget(&self) {
        let mut state = self.state();
        state.forgotten += 1;
        state.sets.clear();
    }

    /// The same as soon as there is time for it: such news may come again and again. Tells whether a claim can have passed such jobs by,
    /// and was not told before.
    pub fn forget_soon(&self) -> bool {
        let mut state = self.state();
        state.told += 1;
        state.passes().fold(false, |any, pass| any | !std::mem::replace(&mut pass.told, true))
    }

    /// Learns from an answer and from its walk over the line, and says in it when to look again if something may have been passed by.
    pub fn end(&self, start: &Start, request: &ClaimRequest<'_>, claimed: &mut Claimed, walk: &Walk, now: Instant) {
        let state = &mut *self.state();
        if state.forgotten != start.forgotten {
            claimed.rescan_after = Some(Duration::ZERO);
            return;
        }
        let told_meanwhile = state.told != start.told;
        let line = state.line(start.of);
        // A row that somebody gave a time of beyond the calendar cannot be a position.
        let known = |position: &Position| (1..=9999).contains(&position.1.year());
        let first = claimed.jobs.first().map(|job| (job.priority.0, job.run_at)).filter(known);
        // Before the position that was reached, all that could be taken was taken.
        let (position, broken_off) = match walk.reached {
            Reached::Taken => (first, false),
            Reached::Until(position) => (Some(position).filter(known), false),
            Reached::End => (Some(END), false),
            Reached::BrokenOff(position) => (Some(position).filter(known), known(&position)),
        };
        let since = start.moment - SLACK;
        if let Some(from) = start.position {
            // Another claim may have come further meanwhile; then this one teaches nothing.
            if let Some(pass) = line.pass.as_mut().filter(|pass| pass.position == from) {
                match position {
                    Some(position) if position >= from => {
                        let is_part = std::mem::replace(&mut pass.broken_off, broken_off);
                        (pass.position, pass.since) = (position, since);
                        if is_part {
                            // It is one pass, in parts.
                            pass.spent += walk.took;
                            pass.plan_next(now);
                        }
                    }
                    // There are so many new jobs before the position. From there on, this is another pass.
                    Some(position) if broken_off => {
                        (pass.position, pass.since, pass.broken_off) = (position, since, true);
                        (pass.began_at, pass.spent) = (pass.next, walk.took);
                        pass.plan_next(now);
                    }
                    _ => {}
                }
            }
        } else {
            let jobs = u32::try_from(claimed.jobs.len()).unwrap_or(u32::MAX);
            let took = walk.took.saturating_sub(EACH.saturating_mul(jobs));
            line.dear = if walk.is_long && took > CHEAP { line.dear.saturating_add(1) } else { 0 };
            let is_dear = if walk.is_long || walk.reached != Reached::End {
                broken_off || took > SURELY_DEAR || line.dear >= DEAR_LOOKS
            } else {
                false
            };
            let old = line.pass.map(|pass| (pass.position, pass.since));
            let place = position.map(|position| (position, since)).or(old);
            line.pass = place.filter(|_| is_dear).map(|(position, since)| {
                let began_at = line.pass.map_or(now.checked_sub(walk.took).unwrap_or(now), |pass| pass.next);
                let (spent, told) = (walk.took, told_meanwhile);
                let mut pass = Pass { position, since, broken_off, spent, began_at, next: now, told, freed_at: None };
                pass.plan_next(now);
                pass
            });
        }
        let Some(pass) = line.pass.filter(|_| !request.full_scan) else { return };
        if pass.broken_off {
            claimed.rescan_after = Some(Duration::ZERO);
        } else if claimed.jobs.len() < request.limit {
            // Somebody has to look from the start when it is time, even if nothing tells.
            claimed.rescan_after = Some(pass.due(now).saturating_duration_since(now));
        }
    }
}

impl State {
    fn line(&mut self, of: u64) -> &mut Line {
        let place = self.sets.iter().position(|line| line.of == of);
        let line = place.map_or(Line { of, dear: 0, pass: None }, |place| self.sets.remove(place));
        self.sets.truncate(MAX_SETS - 1);
        self.sets.insert(0, line);
        &mut self.sets[0]
    }

    fn passes(&mut self) -> impl Iterator<Item = &mut Pass> {
        self.sets.iter_mut().filter_map(|line| line.pass.as_mut())
    }
}

#[cfg(test)]
mod tests;
