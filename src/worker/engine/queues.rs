//! How many serial queues there are, and how many of them the worker holds.
//!
//! Where there are fewer queues than a claim asks for, it would take them all, and the next one could begin only when all of that was
//! run and written: the storage and the worker would take turns. So of fast jobs, a claim takes half of the queues, and the jobs of the
//! other half run and are written meanwhile. How many there are is not told by the storage, but learned from what claims find.

use std::time::Duration;

use tokio::time::Instant;

/// How long a claim waits for half of the queues to be free.
const CROWDED: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// About so many queues have jobs that this worker can take, and there is little else.
    about: Option<usize>,
    /// So many were claimed and are not known to be freed.
    held: usize,
    /// Until when a claim waits for half of them.
    wait: Option<Instant>,
}

/// What a claim took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// How many jobs without a queue.
    pub plain: usize,
    /// Jobs of how many queues.
    pub queues: usize,
    /// How many it was to take.
    pub limit: usize,
    /// It saw others, which it could not take.
    pub more: bool,
}

impl Found {
    /// How many of the jobs can run side by side: a queue counts for one.
    pub fn side_by_side(self) -> usize {
        self.plain + self.queues
    }

    /// Many of the jobs that were seen could not be taken. It is because of their queues.
    pub fn few(self) -> bool {
        self.more && self.side_by_side() < self.limit / 4 * 3
    }
}

impl Queues {
    pub fn about(&self) -> Option<usize> {
        self.about
    }

    pub fn held(&self) -> usize {
        self.held
    }

    pub fn take(&mut self, queues: usize) {
        self.held += queues;
    }

    /// Results are written that free so many; `all` if the worker holds nothing any more.
    pub fn free(&mut self, queues: usize, all: bool) {
        self.held = if all { 0 } else { self.held.saturating_sub(queues) };
    }

    /// Until when to wait for half of them.
    pub fn wait(&self) -> Option<Instant> {
        self.wait
    }

    /// A claim waits, but not for long: there may be something else than queues, and results that cannot be written. The moment until
    /// which it waits.
    pub fn begin_waiting(&mut self, now: Instant) -> Instant {
        *self.wait.get_or_insert(now + CROWDED)
    }

    pub fn asked(&mut self) {
        self.wait = None;
    }

    /// Learns from a claim; `alone` if no other one is on its way.
    pub fn learn(&mut self, found: Found, alone: bool) {
        if found.few() && found.queues > 0 && alone {
            // Results may be on their way that free some, so a lower number is not believed at once.
            let in_hand = self.held + found.side_by_side();
            self.about = Some(self.about.map_or(in_hand, |about| in_hand.max(about - about / 8)));
        } else if found.side_by_side() >= found.limit {
            // There may be more than were known. Claims of too few are dear, so that is learned soon; too many are found out at once.
            self.about = self.about.filter(|_| found.queues > 0).map(|about| about + about / 8 + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(queues: usize, limit: usize, more: bool) -> Found {
        Found { plain: 0, queues, limit, more }
    }

    #[test]
    fn a_claim_that_leaves_jobs_behind_tells_how_many_queues_there_are() {
        let mut queues = Queues::default();
        queues.learn(found(1_000, 1_000, true), true);
        assert_eq!(queues.about(), None, "it took all that it was to take");
        queues.learn(found(100, 1_000, true), false);
        assert_eq!(queues.about(), None, "another claim may hold the rest");
        queues.learn(found(100, 1_000, true), true);
        assert_eq!(queues.about(), Some(100));
        queues.take(100);
        queues.learn(found(60, 1_000, true), true);
        assert_eq!(queues.about(), Some(160), "with those in hand");
        queues.free(100, false);
        queues.learn(found(20, 1_000, true), true);
        assert_eq!(queues.about(), Some(140), "fewer are not believed at once");
    }

    #[test]
    fn claims_that_are_filled_find_more_queues_until_there_is_something_else() {
        let mut queues = Queues::default();
        queues.learn(found(80, 1_000, true), true);
        queues.learn(found(40, 40, true), true);
        assert_eq!(queues.about(), Some(91));
        queues.learn(Found { plain: 45, ..found(0, 45, true) }, true);
        assert_eq!(queues.about(), None, "jobs without queues are there");
    }

    #[test]
    fn what_is_held_is_never_less_than_nothing_and_a_wait_is_begun_once() {
        let mut queues = Queues::default();
        queues.take(3);
        queues.free(5, false);
        assert_eq!(queues.held(), 0);
        queues.take(3);
        queues.free(1, true);
        assert_eq!(queues.held(), 0, "nothing is held, whatever was counted");
        let now = Instant::now();
        assert_eq!(queues.begin_waiting(now), queues.begin_waiting(now + CROWDED / 2));
        queues.asked();
        assert_eq!(queues.wait(), None);
    }
}
