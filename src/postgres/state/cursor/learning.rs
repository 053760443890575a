//! What the looks of a claim teach.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::{CHEAP, Course, Lines, Looks, MAX_PASSED, NOISE, Pass, end_of_line, without_locking};
use crate::storage::{ClaimRequest, Claimed};

impl Lines {
    /// Plans to look again where queues were taken, if that was passed by since.
    pub(super) fn go_back_if_moved(&mut self, now: Instant) {
        let from = self.taken_from.as_ref().and_then(|(cursor, _)| *cursor);
        let moved = self.queued.cursor != from;
        if moved {
            self.back_at.get_or_insert(now);
        }
    }

    /// Answers whether the look ended for its number of rows.
    pub(super) fn learn_of_plain(&mut self, looks: &Looks, claimed: &Claimed, course: &Course, now: Instant) -> bool {
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
    pub(super) fn learn_of_queues(&mut self, looks: &Looks, claimed: &Claimed, course: &Course, now: Instant) -> bool {
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
    pub(super) fn learn_of_window(&mut self, looks: &Looks, request: &ClaimRequest<'_>, claimed: &Claimed) {
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

    pub(super) fn pass_by(&mut self, queues: &[i32]) {
        if !queues.is_empty() {
            let mut passed = self.passed.to_vec();
            passed.extend(queues);
            passed.sort_unstable();
            passed.dedup();
            self.passed = Arc::new(passed);
        }
    }
}
