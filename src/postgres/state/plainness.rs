//! Which kind of claim to try.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::storage::Claimed;

/// Whether the jobs at the head of the line can be taken as they are.
///
/// To be wrong costs a walk, and the locks of what was found. So after each time it was wrong, twice as many careful claims in
/// a row (that of the same call is the first) have to take plain jobs only until it is believed again. Claims that find nothing
/// prove nothing.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Plainness {
    /// So many claims in a row have yet to show plain jobs only.
    unsure_for: AtomicU32,
    /// How many had to, the last time.
    last_unsure_for: AtomicU32,
}

/// The most claims for which plainness is doubted.
const MAX_UNSURE: u32 = 64;

impl Plainness {
    pub(in crate::postgres) fn is_likely(&self) -> bool {
        self.unsure_for.load(Ordering::Relaxed) == 0
    }

    pub(in crate::postgres) fn was_right(&self) {
        let doubt = self.last_unsure_for.load(Ordering::Relaxed);
        self.last_unsure_for.store(doubt.saturating_sub(1), Ordering::Relaxed);
    }

    pub(in crate::postgres) fn was_wrong(&self) {
        let doubt = (self.last_unsure_for.load(Ordering::Relaxed) * 2).clamp(1, MAX_UNSURE);
        self.last_unsure_for.store(doubt, Ordering::Relaxed);
        self.unsure_for.store(doubt, Ordering::Relaxed);
    }

    /// What a careful claim took. What it left for its bytes, or for a queue that is held, is not known here; then the next plain
    /// claim is wrong.
    pub(in crate::postgres) fn saw(&self, claimed: &Claimed) {
        if claimed.jobs.is_empty() && !claimed.for_free_slots {
            return;
        }
        let is_plain = !claimed.for_free_slots
            && claimed.jobs.iter().all(|job| job.queue.is_none() && job.attempts < job.max_attempts);
        let unsure_for = self.unsure_for.load(Ordering::Relaxed);
        let unsure_for =
            if is_plain { unsure_for.saturating_sub(1) } else { self.last_unsure_for.load(Ordering::Relaxed).max(1) };
        self.unsure_for.store(unsure_for, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::job::{Job, Payload};
    use crate::storage::{ClaimToken, ClaimedJob};

    /// A claim that took one job.
    fn took(change: impl FnOnce(&mut Job)) -> Claimed {
        let mut job = Job::new(1, "t", Payload::empty(), DateTime::UNIX_EPOCH);
        job.attempts = 1;
        change(&mut job);
        Claimed::jobs(vec![ClaimedJob::new(job, ClaimToken::from_number(1))])
    }

    #[test]
    fn plainness_is_doubted_for_longer_each_time_it_was_wrong() {
        let plainness = Plainness::default();
        let plain = took(|_| {});
        for doubted in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(plainness.is_likely());
            plainness.was_wrong();
            for _ in 0..doubted {
                assert!(!plainness.is_likely());
                plainness.saw(&Claimed::default());
                assert!(!plainness.is_likely(), "nothing proves nothing");
                plainness.saw(&plain);
            }
        }
        assert!(plainness.is_likely());
        for _ in 0..64 {
            plainness.was_right();
        }
        plainness.was_wrong();
        plainness.saw(&plain);
        assert!(plainness.is_likely(), "what was wrong long ago is forgotten");
    }

    #[test]
    fn a_job_that_is_not_plain_begins_the_doubt_anew() {
        let others = [
            took(|job| job.queue = Some("q".to_owned())),
            took(|job| job.max_attempts = 1),
            Claimed::default().for_free_slots(true),
        ];
        for other in others {
            let plainness = Plainness::default();
            plainness.was_wrong();
            plainness.was_wrong();
            plainness.saw(&took(|_| {}));
            plainness.saw(&other);
            plainness.saw(&took(|_| {}));
            assert!(!plainness.is_likely(), "{other:?}");
            plainness.saw(&took(|_| {}));
            assert!(plainness.is_likely(), "{other:?}");
        }
    }
}
