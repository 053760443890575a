//! For how long the storage has been within reach: only a worker that was can tell who missed heartbeats.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Since when the storage has been within reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reachability {
    since: Instant,
    last: Instant,
    /// By the wall clock too, because the other one stands still while a machine sleeps.
    last_by_wall: SystemTime,
    /// A longer time without an answer is a loss.
    gap: Duration,
}

impl Reachability {
    pub fn begins(heartbeat_interval: Duration) -> Self {
        let now = Instant::now();
        let gap = heartbeat_interval.mul_f64(1.5);
        Self { since: now, last: now, last_by_wall: SystemTime::now(), gap }
    }

    /// The storage answered.
    pub fn heard(&mut self) {
        let now = Instant::now();
        let by_wall = self.last_by_wall.elapsed().unwrap_or_default();
        if (now - self.last).max(by_wall) > self.gap {
            self.since = now;
        }
        self.last = now;
        self.last_by_wall = SystemTime::now();
    }

    /// How long ago the last answer was.
    fn quiet(&self) -> Duration {
        self.last.elapsed().max(self.last_by_wall.elapsed().unwrap_or_default())
    }

    /// For how long it has lasted without a gap: heartbeats that others missed before it began prove nothing.
    pub fn lasts(&self) -> Duration {
        if self.quiet() > self.gap { Duration::ZERO } else { self.since.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
    const DEAD_AFTER: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn missed_heartbeats_count_only_after_contact_all_the_time() {
        let mut contact = Reachability::begins(HEARTBEAT_INTERVAL);
        for _ in 0..3 {
            assert!(contact.lasts() < DEAD_AFTER, "a new worker has heard nobody yet");
            advance(HEARTBEAT_INTERVAL).await;
            contact.heard();
        }
        assert!(contact.lasts() >= DEAD_AFTER, "nothing was lost");

        // The storage is away for a minute.
        advance(Duration::from_secs(8)).await;
        assert!(contact.lasts() < DEAD_AFTER, "not while it is away");
        advance(Duration::from_secs(52)).await;
        contact.heard();
        assert!(contact.lasts() < DEAD_AFTER, "the others need time to be heard again");
        for _ in 0..2 {
            advance(HEARTBEAT_INTERVAL).await;
            contact.heard();
            assert!(contact.lasts() < DEAD_AFTER);
        }
        advance(HEARTBEAT_INTERVAL).await;
        contact.heard();
        assert!(contact.lasts() >= DEAD_AFTER, "now it is they who missed heartbeats");
    }
}
