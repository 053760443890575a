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

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::storage::{ClaimRequest, Claimed};

/// A place in a line: jobs are claimed by priority, then by time.
pub(in crate::postgres) type Position = (i16, DateTime<Utc>);

/// How a claim went.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Course {
    /// The server's time.
    pub moment: Option<DateTime<Utc>>,
    pub plain_end: Option<Position>,
    /// How long looking for jobs without queues took; for any jobs, if nothing else was looked for.
    pub plain_took: Duration,
    pub queue_end: Option<Position>,
    /// How long looking for jobs of queues took, if they were looked for by themselves.
    pub queue_took: Option<Duration>,
    /// The queues of which something stands before `queue_end`.
    pub seen_queues: Vec<i32>,
    /// Priorities at which jobs stand and that were not known.
    pub seen_levels: Vec<i16>,
    /// Jobs were chosen and locked, and none was changed.
    pub left_out: bool,
}

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

/// Where a look begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::postgres) struct Cursor {
    pub position: Position,
    /// What stands before the position and was ready at this time is passed by.
    pub since: DateTime<Utc>,
}

/// What a claim is told of its looks.
#[derive(Clone, Debug)]
pub(in crate::postgres) struct Looks {
    pub plain: Option<Cursor>,
    /// `None` for no end.
    pub plain_rows: Option<i32>,
    pub queued: Option<Cursor>,
    pub queue_rows: i32,
    /// How many jobs of queues it may take.
    in_all: usize,
    /// A bounded look for jobs without queues sees so many rows at first.
    first_rows: i32,
    /// The queues of which something was passed by.
    pub passed: Arc<Vec<i32>>,
    /// The priorities that are known.
    pub levels: Arc<Vec<i16>>,
    /// Queues of ours that were freed: if the next job of one is for other workers, they have to be told.
    pub freed_queues: Vec<String>,
    /// Of which state of the lines this is.
    generation: u64,
    /// How many queues of ours were freed before.
    freed: u64,
    /// The line of queues was not seen to be short since a look for them was cut, or dear.
    queues_are_long: bool,
    /// This look is back where queues were taken, off the way of the pass.
    is_aside: bool,
    /// Whose state this is of; `None` for a claim that passes nothing by.
    set: Option<u64>,
}

impl Looks {
    /// Whether nothing is passed by and nothing is bounded: as long as that is cheap. (A pass that begins anew passes nothing by
    /// either, but to take jobs as they are would be to walk the whole line of queues that are held.)
    pub fn are_simple(&self) -> bool {
        self.set.is_some()
            && !self.queues_are_long
            && self.plain.is_none()
            && self.plain_rows.is_none()
            && self.queued.is_none()
            && self.freed_queues.is_empty()
    }
}

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

impl Lines {
    /// Plans to look again where queues were taken, if that was passed by since.
    fn go_back_if_moved(&mut self, now: Instant) {
        let from = self.taken_from.as_ref().and_then(|(cursor, _)| *cursor);
        let moved = self.queued.cursor != from;
        if moved {
            self.back_at.get_or_insert(now);
        }
    }

    /// Answers whether the look ended for its number of rows.
    fn learn_of_plain(&mut self, looks: &Looks, claimed: &Claimed, course: &Course, now: Instant) -> bool {
        let took = without_locking(course.plain_took, claimed);
        let cheap = took <= CHEAP || (took <= NOISE && looks.plain_rows.is_some_and(|rows| rows <= looks.first_rows));
        let Some(plain) = self.plain.as_mut().filter(|_| looks.plain_rows.is_some()) else {
            if self.plain_dear.is_sure(took) {
                self.plain = Some(Pass::default());
            }
            return false;
        };
        plain.spend(course.plain_took);
        match course.plain_end {
            Some(end) if end != end_of_line() => {
                plain.look_further(looks.plain_rows.unwrap_or_default());
                plain.go_on(end, course);
                true
            }
            _ if looks.plain.is_none() && cheap => {
                self.plain = None;
                false
            }
            Some(_) if plain.spent <= NOISE => {
                self.plain = None;
                false
            }
            Some(end) => {
                plain.move_to(end, course);
                plain.plan_next(now);
                false
            }
            None => {
                // As many as were asked for, so there is no need to look far.
                plain.rows = 0;
                // What stands before this and is freed, or was added by a transaction that took long, is for the next pass.
                if looks.plain.is_some() {
                    plain.plan_next(now);
                }
                let first = claimed.jobs.iter().find(|job| job.queue.is_none());
                let first = first.map(|job| (job.priority.0, job.run_at));
                if let Some(first) = first.filter(|first| looks.plain.is_none_or(|cursor| *first > cursor.position)) {
                    plain.move_to(first, course);
                }
                false
            }
        }
    }

    /// The same of the queues' line.
    fn learn_of_queues(&mut self, looks: &Looks, claimed: &Claimed, course: &Course, now: Instant) -> bool {
        let Some(took) = course.queue_took else { return false };
        let takes = claimed.jobs.iter().any(|job| job.queue.is_some());
        if takes && self.taken_from.is_none() {
            self.taken_from = Some((looks.queued, Arc::clone(&looks.passed)));
        }
        if looks.is_aside {
            self.back_at = None;
            if takes {
                // And the pass goes on where it is.
                return false;
            }
            // What was freed stands further down the line. The pass begins there once more, but not all the time.
            let due = self.walked_back_at.is_none_or(|last| now >= last + self.queued.spent * 2);
            if !due {
                self.back_at = Some(now + self.queued.spent);
                return false;
            }
            self.walked_back_at = Some(now);
            self.queued = Pass { cursor: looks.queued, since: self.queued.since, ..Pass::default() };
            (self.passed, self.taken_from) = (Arc::clone(&looks.passed), None);
        }
        let took_to_look = without_locking(took, claimed);
        let Some(end) = course.queue_end else {
            self.queued.rows = 0;
            if looks.queued.is_none() {
                self.queues_are_long &= took_to_look > NOISE;
                self.queued_dear.is_sure(took_to_look);
            }
            if looks.queued.is_some() {
                self.queued.plan_next(now);
            }
            return false;
        };
        self.queued.spend(took);
        if end == end_of_line() && self.queued.spent <= NOISE {
            // The whole line is short. Whoever holds these queues may free them at any moment.
            (self.queued, self.passed, self.taken_from, self.back_at) = Default::default();
            self.queues_are_long = false;
            return false;
        }
        if end == end_of_line() {
            self.queues_are_long = true;
            self.pass_by(&course.seen_queues);
            self.queued.move_to(end, course);
            self.queued.plan_next(now);
            return false;
        }
        // The look went as far as that for jobs without queues, which stand before whatever else there is.
        let caught_up = claimed.jobs.iter().any(|job| job.queue.is_none() && (job.priority.0, job.run_at) <= end);
        if caught_up && !takes && looks.queued.is_none() && !self.queued_dear.is_sure(took_to_look) {
            self.queued.rows = 0;
            self.queues_are_long = false;
            return false;
        }
        self.queues_are_long = true;
        if self.passed.len() + course.seen_queues.len() > MAX_PASSED {
            self.queued.plan_next(now);
            return false;
        }
        self.pass_by(&course.seen_queues);
        if takes || caught_up {
            self.queued.move_to(end, course);
            self.queued.rows = 0;
            self.queued.plan_next(now);
        } else {
            self.queued.look_further(looks.queue_rows);
            self.queued.go_on(end, course);
        }
        !takes && !caught_up
    }

    /// A look for queues sees all it may see if it found too few of them. If it found enough, it sees less the next time where its runs
    /// were as long as they may be or where rows are many for each job, and more where that makes longer runs. For jobs of many queues
    /// to be found, few rows have to be seen. For runs of a few, many.
    fn learn_of_window(&mut self, looks: &Looks, request: &ClaimRequest<'_>, claimed: &Claimed) {
        let queues: HashSet<_, foldhash::fast::RandomState> =
            claimed.jobs.iter().filter_map(|job| job.queue.as_deref()).collect();
        if queues.is_empty() {
            return;
        }
        let (jobs, rows) = (claimed.jobs.len(), looks.queue_rows);
        if jobs < request.limit || queues.len() < request.free_slots {
            self.window = None;
            return;
        }
        let units = queues.len() + claimed.jobs.iter().filter(|job| job.queue.is_none()).count();
        // As long as if what may be taken in all were shared by as many as were asked for.
        let is_long = |part: usize| jobs * request.limit >= units * looks.in_all / 4 * part;
        let few = units * 2 < request.limit;
        // There are hardly any runs to be had, or only far down the line.
        let is_sparse = jobs * 2 < units * 3 || jobs < usize::try_from(rows).unwrap_or_default() / 3;
        self.window = Some(if units >= request.limit && is_sparse {
            rows / 2
        } else if jobs >= looks.in_all || (!few && is_long(4)) {
            rows / 4 * 3
        } else if few || !is_long(3) {
            rows / 2 * 3
        } else {
            rows
        });
    }

    fn pass_by(&mut self, queues: &[i32]) {
        if !queues.is_empty() {
            let mut passed = self.passed.to_vec();
            passed.extend(queues);
            passed.sort_unstable();
            passed.dedup();
            self.passed = Arc::new(passed);
        }
    }
}

#[cfg(test)]
mod tests;
