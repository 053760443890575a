//! When to look for jobs although nothing tells of any.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Mode;

/// How many moments at which jobs become ready are remembered; polling finds the others.
const MAX_DUE: usize = 1_000;

/// The moments of the next looks.
pub(super) struct Looks {
    every: Duration,
    next_poll: Instant,
    /// The storage may have passed jobs by, and finds them then.
    rescan_at: Option<Instant>,
    /// Moments at which jobs of ours are known to become ready.
    due: BTreeSet<Instant>,
}

impl Looks {
    pub fn new(every: Duration) -> Self {
        let mut looks = Self { every, next_poll: Instant::now(), rescan_at: None, due: BTreeSet::new() };
        looks.schedule_poll();
        looks
    }

    fn schedule_poll(&mut self) {
        self.next_poll = Instant::now() + self.every.mul_f64(0.9 + fastrand::f64() / 5.0);
    }

    /// A job is ready then, which no wakeup will tell.
    pub fn expect(&mut self, due: Instant) {
        self.due.insert(due);
        if self.due.len() > MAX_DUE {
            self.due.pop_last();
        }
    }

    /// The storage may have passed jobs by until then.
    pub fn rescan_at(&mut self, time: Instant) {
        self.rescan_at = Some(self.rescan_at.map_or(time, |earlier| earlier.min(time)));
    }

    pub fn deadline(&self) -> Option<Instant> {
        [Some(self.next_poll), self.due.first().copied(), self.rescan_at].into_iter().flatten().min()
    }

    /// Whether it is time to look.
    pub fn on_deadline(&mut self, now: Instant, mode: Mode) -> bool {
        let mut look = false;
        if now >= self.next_poll {
            self.schedule_poll();
            // A run that ends when idle has looked already; a poll must not keep it alive.
            look = mode == Mode::UntilShutdown;
        }
        while self.due.first().is_some_and(|due| now >= *due) {
            self.due.pop_first();
            look = true;
        }
        if self.rescan_at.is_some_and(|time| now >= time) {
            self.rescan_at = None;
            look = true;
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_comes_at_the_first_of_poll_due_time_and_rescan() {
        let mut looks = Looks::new(Duration::from_secs(10));
        let now = Instant::now();
        looks.expect(now + Duration::from_secs(3));
        looks.rescan_at(now + Duration::from_secs(5));
        looks.rescan_at(now + Duration::from_secs(7));
        for seconds in [3, 5] {
            let deadline = looks.deadline().expect("one");
            assert_eq!(deadline, now + Duration::from_secs(seconds));
            assert!(!looks.on_deadline(deadline - Duration::from_millis(1), Mode::UntilShutdown));
            assert!(looks.on_deadline(deadline, Mode::UntilShutdown));
        }
        let poll = looks.deadline().expect("a poll");
        assert!(poll >= now + Duration::from_secs(9) && poll <= now + Duration::from_secs(11));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!looks.on_deadline(Instant::now(), Mode::UntilIdle), "a run that ends when idle has looked");
    }
}
