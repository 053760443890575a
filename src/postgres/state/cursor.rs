//! Where the looks of a claim begin, and how far they go.
//!
//! A claim looks along two lines: that of the jobs without a queue, and that of the jobs of serial queues. What stands at the head of a
//! line and cannot be taken (jobs of other workers' tasks, of queues that are held) would be looked at by each claim. So each look ends
//! after so many rows, and the next one goes on from there, at its *cursor*. What stands before a cursor is passed by, unless it
//! became ready after the *pass* began, which is the way of a cursor from the start of a line to its end. So new jobs are seen by
//! every claim, however urgent. What was freed meanwhile is seen by the next pass, which begins when no more than a twentieth of the
//! time goes to passes: after one that reached the end, or that has found what was asked for.
//!
//! The look for queues goes no further than the last of as many jobs without queues as were asked for.
//!
//! Rows that are dead, and that somebody's snapshot keeps, are counted by no limit. A cursor stands behind them. To find the priorities
//! before the cursor would be to walk over them again: so the known ones are told to each claim, which looks at the new jobs of each, and
//! between them only into the index.
//!
//! Of a serial queue of which something was passed by nothing is taken that stands behind: the cursor carries these queues along. A
//! queue of this worker's own that was passed by while it was held is looked for as soon as it is free, from where it was taken.
//!
//! Where a look from the start is cheap, as it nearly always is, there is no cursor. A busy machine makes one look in a few slow, so
//! one that is not very slow needs two more after it to count.

mod learning;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::looks::{Course, Cursor, Looks, Position};
use crate::storage::{ClaimRequest, Claimed};

/// A look that took no longer than this is cheap …
const CHEAP: Duration = Duration::from_millis(1);
/// … besides what it takes to find and lock each job that it takes, about.
const EACH: Duration = Duration::from_micros(10);
/// A look that took this much longer than a cheap one is believed at once. Of others so many in a row are.
const SURELY_DEAR: Duration = Duration::from_millis(40);
const DEAR_LOOKS: u8 = 3;
/// The time between two passes is so many times what one takes.
const PAUSE: u32 = 19;
/// A look that reached the end after few rows is cheap too, unless it took longer than a busy machine explains.
const NOISE: Duration = Duration::from_millis(20);
/// How many rows a bounded look sees at first, and at the most.
const FIRST_ROWS: i32 = 1_000;
const MAX_ROWS: i32 = 20_000;
/// Besides what a claim asks for, and what this worker has claimed and holds, so many rows are looked at.
const SPARE_ROWS: i32 = 64;
/// What became ready so long before a pass began counts as new: the transaction that added it may have been under way.
const SLACK: TimeDelta = TimeDelta::seconds(1);
/// Of no more queues than this something may be passed by; then the pass is over.
const MAX_PASSED: usize = 100_000;
/// So many priorities are remembered, at least.
const MAX_LEVELS: usize = 1_000;
/// So many freed queues are remembered of which others were not told.
const MAX_UNTOLD: usize = 1_000;
/// For so many sets of tasks cursors are kept: with limits of tasks, those that are full are not asked for.
const MAX_SETS: usize = 8;

/// The cursors of one worker.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Cursors {
    sets: Mutex<Vec<(u64, Lines)>>,
    /// The priorities at which jobs have stood.
    levels: Mutex<Arc<Vec<i16>>>,
    /// Queues of ours that were freed and of which others were not told, if they have to be.
    untold: Mutex<BTreeSet<String>>,
    /// How many states of lines there were.
    generations: AtomicU64,
    forgetting: Mutex<Forgetting>,
    /// How many were.
    freed: AtomicU64,
}

/// Whether all passes are to begin anew, and when they last did. As with any pass, no more than a twentieth of the time goes to that, or
/// workers that give jobs back again and again would never come to an end of a long line.
#[derive(Debug, Default)]
struct Forgetting {
    is_wanted: bool,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Lines {
    /// Another one with each new pass: what a claim learned that began before does not count.
    generation: u64,
    /// `None` where looks are cheap, and not bounded.
    plain: Option<Pass>,
    queued: Pass,
    /// Of looks that are not bounded, and of those for queues that begin at the start.
    plain_dear: Dear,
    queued_dear: Dear,
    /// The line of queues was not seen to be short since a look for them was cut, or dear.
    queues_are_long: bool,
    /// So many rows a look for queues sees, if fewer than it may see were enough.
    window: Option<i32>,
    passed: Arc<Vec<i32>>,
    /// Where the looks for queues began when the first were taken in this pass: at the start, if that was before it.
    taken_from: Option<(Option<Cursor>, Arc<Vec<i32>>)>,
    /// When to look there again.
    back_at: Option<Instant>,
    /// When the pass began there anew.
    walked_back_at: Option<Instant>,
}

impl Lines {
    /// A worker that has just started knows nothing of the lines, and looks carefully.
    fn new(generation: u64) -> Self {
        Self {
            generation,
            plain: Some(Pass::default()),
            queued: Pass::default(),
            plain_dear: Dear::default(),
            queued_dear: Dear::default(),
            queues_are_long: false,
            window: None,
            passed: Arc::default(),
            taken_from: None,
            back_at: None,
            walked_back_at: None,
        }
    }
}

/// How many looks in a row were not cheap.
#[derive(Clone, Copy, Debug, Default)]
struct Dear(u8);

impl Dear {
    /// Whether looks are dear, now that one took so long (besides what it takes to lock jobs).
    fn is_sure(&mut self, took: Duration) -> bool {
        self.0 = if took <= CHEAP { 0 } else { self.0.saturating_add(1) };
        let sure = self.0 >= DEAR_LOOKS || took >= SURELY_DEAR;
        if sure {
            self.0 = 0;
        }
        sure
    }
}

/// The way along a line, from its start.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    cursor: Option<Cursor>,
    /// When it began, by the server's clock.
    since: Option<DateTime<Utc>>,
    rows: i32,
    spent: Duration,
    /// When the next one begins, of one that is over.
    next: Option<Instant>,
}

impl Pass {
    fn begin_anew_if_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| now >= next);
        if due {
            *self = Self::default();
        }
        due
    }

    fn move_to(&mut self, position: Position, course: &Course) {
        let moment = course.moment.unwrap_or_else(Utc::now);
        let since = *self.since.get_or_insert(moment - SLACK);
        // A row may have a time of beyond the calendar.
        let position = (position.0, position.1.clamp(DateTime::UNIX_EPOCH, end_of_line().1));
        self.cursor = Some(Cursor { position, since });
    }

    /// A look ended here for its number of rows, and the next one goes on.
    fn go_on(&mut self, position: Position, course: &Course) {
        if self.cursor.is_some_and(|cursor| position < cursor.position) {
            // There are so many new jobs. Now they are passed by as well, or each way to the end would lead back to them.
            self.since = None;
        } else {
            self.next = None;
        }
        self.move_to(position, course);
    }

    /// Of the looks of a pass that is over nothing counts: they are those for new jobs.
    fn spend(&mut self, took: Duration) {
        if self.next.is_none() {
            self.spent += took;
        }
    }

    /// The pass is over, or finds what was asked for; if it has to go on after all, that is undone. Later looks do not put it off.
    fn plan_next(&mut self, now: Instant) {
        self.next.get_or_insert(now + self.spent * PAUSE);
    }

    /// When nothing was found in so many rows, the next look may see more.
    fn look_further(&mut self, rows: i32) {
        self.rows = rows.saturating_mul(4).min(MAX_ROWS);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a look took besides locking what was found.
fn without_locking(took: Duration, claimed: &Claimed) -> Duration {
    let jobs = u32::try_from(claimed.jobs.len()).unwrap_or(u32::MAX);
    took.saturating_sub(EACH.saturating_mul(jobs))
}

/// Behind everything.
fn end_of_line() -> Position {
    let day = NaiveDate::from_ymd_opt(9999, 12, 31).unwrap_or_default();
    (i16::MAX, day.and_time(NaiveTime::MIN).and_utc())
}

impl Cursors {
    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn with<T>(&self, set: u64, act: impl FnOnce(&mut Lines) -> T) -> T {
        let mut sets = lock(&self.sets);
        let place = sets.iter().position(|(known, _)| *known == set);
        let (_, lines) = place.map_or_else(|| (set, Lines::new(self.next_generation())), |place| sets.remove(place));
        sets.truncate(MAX_SETS - 1);
        sets.insert(0, (set, lines));
        act(&mut sets[0].1)
    }

    /// How a claim with this request looks at this moment, which may take so many jobs of queues.
    pub(in crate::postgres) fn begin(&self, request: &ClaimRequest<'_>, in_all: i32, now: Instant) -> Looks {
        self.forget_if_it_is_time(now);
        let freed = self.freed.load(Ordering::Relaxed);
        let freed_queues: Vec<String> = std::mem::take(&mut *lock(&self.untold)).into_iter().collect();
        if request.full_scan {
            return Looks {
                plain: None,
                plain_rows: None,
                queued: None,
                queue_rows: i32::MAX,
                in_all: usize::MAX,
                first_rows: i32::MAX,
                passed: Arc::default(),
                levels: Arc::default(),
                freed_queues,
                generation: 0,
                freed: 0,
                queues_are_long: false,
                is_aside: false,
                set: None,
            };
        }
        let mut hasher = DefaultHasher::new();
        (request.tasks, request.forbidden_flags).hash(&mut hasher);
        let set = hasher.finish();
        let levels = Arc::clone(&self.levels.lock().unwrap_or_else(PoisonError::into_inner));
        self.with(set, |lines| {
            if lines.plain.as_mut().is_some_and(|plain| plain.begin_anew_if_due(now)) {
                lines.generation = self.next_generation();
            }
            if lines.queued.begin_anew_if_due(now) {
                lines.generation = self.next_generation();
                (lines.passed, lines.taken_from, lines.back_at) = (Arc::default(), None, None);
            }
            // Those that another claim takes at this moment, and those of queues that are held, stand at the head of the line.
            let want = i32::try_from(request.limit).unwrap_or(i32::MAX);
            let first_rows = want.saturating_mul(2).saturating_add(SPARE_ROWS);
            let most = in_all.saturating_mul(3).saturating_add(SPARE_ROWS);
            let few = lines.window.unwrap_or(most).clamp(first_rows, most.max(first_rows));
            lines.window = lines.window.map(|_| few);
            let first_rows = first_rows.max(FIRST_ROWS);
            let on_the_way = (lines.queued.cursor, Arc::clone(&lines.passed));
            let is_due = lines.back_at.is_some_and(|back| now >= back);
            let aside = is_due.then(|| lines.taken_from.clone().unwrap_or_default());
            let is_aside = aside.is_some();
            let queue_rows = if is_aside { few } else { lines.queued.rows.max(few) };
            let (queued, passed) = aside.unwrap_or(on_the_way);
            Looks {
                plain: lines.plain.as_ref().and_then(|plain| plain.cursor),
                plain_rows: lines.plain.as_ref().map(|plain| plain.rows.max(first_rows)),
                queued,
                queue_rows,
                in_all: usize::try_from(in_all).unwrap_or_default(),
                first_rows,
                passed,
                levels,
                freed_queues,
                generation: lines.generation,
                freed,
                queues_are_long: lines.queues_are_long,
                is_aside,
                set: Some(set),
            }
        })
    }

    fn know(&self, levels: &[i16]) {
        if levels.is_empty() {
            return;
        }
        let mut known = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_LEVELS {
            let mut all = known.to_vec();
            all.extend(levels);
            all.sort_unstable();
            all.dedup();
            *known = Arc::new(all);
        }
    }

    /// A queue of ours was freed, whose next job may have been passed by: the claim after this looks where it was taken.
    pub fn queues_were_freed<'a>(&self, queues: impl Iterator<Item = &'a str>, now: Instant) {
        {
            let mut untold = lock(&self.untold);
            for queue in queues {
                if untold.len() < MAX_UNTOLD && !untold.contains(queue) {
                    untold.insert(queue.to_owned());
                }
            }
        }
        self.freed.fetch_add(1, Ordering::Relaxed);
        for (_, lines) in lock(&self.sets).iter_mut() {
            lines.go_back_if_moved(now);
        }
    }

    /// A claim failed that was to tell others of freed queues, or has not seen the whole line.
    pub(in crate::postgres) fn nobody_was_told(&self, queues: &[String]) {
        lock(&self.untold).extend(queues.iter().cloned());
    }

    /// Jobs were made ready that may have been passed by.
    pub fn forget(&self) {
        lock(&self.sets).clear();
    }

    /// The same as soon as there is time for it: such news may come again and again.
    pub fn forget_soon(&self) {
        lock(&self.forgetting).is_wanted = true;
    }

    fn forget_if_it_is_time(&self, now: Instant) {
        let mut forgetting = lock(&self.forgetting);
        let last = *forgetting.last.get_or_insert(now);
        if forgetting.is_wanted {
            let mut sets = lock(&self.sets);
            let spent = sets
                .iter()
                .map(|(_, lines)| lines.plain.map_or(Duration::ZERO, |plain| plain.spent) + lines.queued.spent);
            if now >= last + spent.max().unwrap_or_default() * PAUSE {
                sets.clear();
                *forgetting = Forgetting { is_wanted: false, last: Some(now) };
            }
        }
    }

    /// Learns from an answer, and says in it when to look again if something may have been passed by: at once, if the looks ended
    /// before they found what was asked for.
    pub(in crate::postgres) fn end(
        &self,
        looks: &Looks,
        request: &ClaimRequest<'_>,
        claimed: &mut Claimed,
        course: &Course,
        now: Instant,
    ) {
        if course.queue_end.is_some_and(|end| end != end_of_line()) {
            self.nobody_was_told(&looks.freed_queues);
        }
        let Some(set) = looks.set else { return };
        self.know(&course.seen_levels);
        self.with(set, |lines| {
            if lines.generation != looks.generation {
                claimed.rescan_after = Some(Duration::ZERO);
                return;
            }
            let freed_meanwhile = self.freed.load(Ordering::Relaxed) != looks.freed;
            let goes_on =
                lines.learn_of_plain(looks, claimed, course, now) | lines.learn_of_queues(looks, claimed, course, now);
            lines.learn_of_window(looks, request, claimed);
            if freed_meanwhile {
                // It was still held when this claim passed it by.
                lines.go_back_if_moved(now);
            }
            if goes_on {
                claimed.rescan_after = Some(Duration::ZERO);
            } else if claimed.jobs.len() < request.limit {
                let passes = [lines.plain.as_ref().and_then(|plain| plain.next), lines.queued.next, lines.back_at];
                claimed.rescan_after =
                    passes.into_iter().flatten().min().map(|next| next.saturating_duration_since(now));
            }
        });
    }
}

#[cfg(test)]
mod tests;
