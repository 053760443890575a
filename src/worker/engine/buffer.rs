//! What is claimed ahead, and waits for a slot.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::super::prefetch::Prefetch;
use super::Engine;
use super::jobs::{RELEASE_AFTER, Waiting};

/// Claimed jobs that wait.
pub(super) struct Buffer {
    pub waiting: VecDeque<Waiting>,
    /// Of their payloads.
    pub bytes: usize,
    /// Since when none of them has started.
    pub since: Instant,
    /// Prefetched jobs waited for too long; nothing is prefetched until a job has ended.
    pub prefetch_rests: bool,
}

impl Buffer {
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, since: Instant::now(), prefetch_rests: false }
    }

    /// How many jobs of this task wait.
    pub fn waiting_of(&self, task: &str) -> usize {
        self.waiting.iter().filter(|waiting| waiting.job.task == *task).count()
    }

    /// When jobs have waited for too long.
    pub fn deadline(&self, prefetch: Option<&Prefetch>) -> Option<Instant> {
        match prefetch {
            Some(prefetch) => self.waiting.iter().map(|waiting| waiting.since + prefetch.ttl).min(),
            None => (!self.waiting.is_empty()).then(|| self.since + RELEASE_AFTER),
        }
    }
}

impl Engine {
    /// Releases what has waited for too long.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        tracing::debug!(jobs = self.buffer.waiting.len(), "jobs claimed ahead could not start in time; releasing them");
        self.claims.pace.forget();
        let Some(prefetch) = self.options.prefetch else {
            self.release_waiting();
            return;
        };
        self.buffer.prefetch_rests = true;
        let is_old = |waiting: &Waiting| now >= waiting.since + prefetch.ttl;
        let (old, rest): (VecDeque<Waiting>, VecDeque<Waiting>) = self.buffer.waiting.drain(..).partition(is_old);
        self.buffer.waiting = rest;
        self.buffer.bytes -= old.iter().map(Waiting::bytes).sum::<usize>();
        self.release_unstarted(old);
    }
}
