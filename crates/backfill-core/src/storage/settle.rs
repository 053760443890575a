//! Saying how claimed jobs ended.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::job::{Job, JobId, Payload, RunAt};

/// The longest text that is kept as `last_error`, in bytes (32 KiB); more is cut, and the text says so.
pub const MAX_ERROR_BYTES: usize = 32 * 1024;

/// What the `last_error` of a job begins with that was cut off by the end of its worker, and by which the next such end knows it.
pub const INTERRUPTED: &str = "the worker shut down before the job ended";

/// One claim of one job: the fence.
///
/// A claim is named by the job, the worker, and the moment of the claim. A settlement applies only while the
/// stored job still carries all three, so a worker that was paused past its lease cannot settle a job that
/// somebody else (or even itself, later) has claimed since. The moment is used rather than the attempt's number
/// because enqueuers and administrators may change that number under a running job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimRef {
    /// The job.
    pub id: JobId,
    /// When it was claimed, by the storage's clock.
    pub locked_at: DateTime<Utc>,
    /// Its serial queue, which is released with it.
    pub queue: Option<String>,
    /// Whether it had a key when it was claimed. If the stored job has none by now, somebody replaced or removed
    /// it while it ran; it must then never become available again.
    pub had_key: bool,
}

impl ClaimRef {
    /// The claim of a job as [`claim`](super::Storage::claim) answered it.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self {
            id: job.id,
            locked_at: job.locked_at.unwrap_or_default(),
            queue: job.queue.clone(),
            had_key: job.key.is_some(),
        }
    }

    /// The same for a job that is not the last of a run of its serial queue: settling it leaves the queue held.
    #[must_use]
    pub fn keeping_queue(mut self) -> Self {
        self.queue = None;
        self
    }
}

/// How one claimed job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// Which claim.
    pub claim: ClaimRef,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a job ended. A storage knows them all: another one is another contract.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done: delete it.
    Completed,
    /// Failed: keep its attempt, and try again at this time if any are left.
    Failed {
        /// Becomes `last_error`.
        error: String,
        /// When to try again. A delay counts from now, or from the job's `run_at` if that is later.
        retry: RunAt,
        /// Takes the payload's place (the items of a batch that are left).
        payload: Option<Payload>,
    },
    /// Failed for good: use up its attempts.
    Dead {
        /// Becomes `last_error`.
        error: String,
    },
    /// Run again at this time; give the attempt back.
    Snoozed {
        /// When.
        until: RunAt,
    },
    /// Cut off because its worker had to end, which is no failure of the job's. It keeps its place among the ready jobs, and gets
    /// its attempt back.
    ///
    /// A job that was cut off the last time too (its stored `last_error` begins with [`INTERRUPTED`]) may be what brings its
    /// workers to an end: it keeps the attempt as used, so that it runs out of them, and comes back apart from others, as
    /// after a rescue ([`Rescued::spread`](super::Rescued::spread)).
    Interrupted {
        /// Becomes `last_error`; begins with [`INTERRUPTED`].
        error: String,
        /// It is not ready before this time from now has passed. Zero, unless it may be running on still.
        wait: Duration,
        /// Takes the payload's place (the items of a batch that are left).
        payload: Option<Payload>,
    },
    /// Never started: give the attempt back and leave the rest as it was.
    Released,
}

impl Outcome {
    /// A job that was cut off, and what it said about that, if anything.
    #[must_use]
    pub fn interrupted(said: &str) -> Self {
        let error = if said.is_empty() { INTERRUPTED.to_owned() } else { format!("{INTERRUPTED}: {said}") };
        Self::Interrupted { error, wait: Duration::ZERO, payload: None }
    }

    /// The same, with this in the payload's place.
    #[must_use]
    pub fn left(mut self, left: Option<Payload>) -> Self {
        if let Self::Interrupted { payload, .. } = &mut self {
            *payload = left;
        }
        self
    }

    /// The same, ready only when this time has passed.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        if let Self::Interrupted { wait, .. } = &mut self {
            *wait = time;
        }
        self
    }

    /// Whether the job is ready again by this, and somebody else may take it.
    #[must_use]
    pub fn releases(&self) -> bool {
        matches!(self, Self::Released | Self::Interrupted { .. })
    }
}

/// What became of results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// The jobs whose claim still stood; their results are written.
    pub applied: Vec<JobId>,
    /// The jobs that somebody else keeps from being written at this moment, as by a row lock. Nothing is known of them: ask again.
    pub busy: Vec<JobId>,
}

impl Settled {
    /// Nothing was kept from being written.
    #[must_use]
    pub fn applied(applied: Vec<JobId>) -> Self {
        Self { applied, busy: Vec::new() }
    }

    /// The same, but for these.
    #[must_use]
    pub fn busy(mut self, busy: Vec<JobId>) -> Self {
        self.busy = busy;
        self
    }
}

/// Makes any text fit for `last_error`: no NUL (PostgreSQL cannot store one), not empty, not too long.
#[must_use]
pub fn clean_error(text: &str) -> String {
    if text.is_empty() {
        return "Error".to_owned();
    }
    let whole = text.len();
    // What is cut off is told, and fits in too: so this changes nothing the second time.
    let mut end = if whole > MAX_ERROR_BYTES { MAX_ERROR_BYTES - 64 } else { whole };
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut clean = text[..end].replace('\0', "\u{fffd}");
    if end < whole {
        use std::fmt::Write as _;
        let _ = write!(clean, "… ({whole} bytes, cut to {end})");
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn error_texts_are_made_storable() {
        assert_eq!(clean_error(""), "Error");
        assert_eq!(clean_error("a\0b"), "a\u{fffd}b");
        let long = clean_error(&"é".repeat(10 * 1024 * 1024));
        assert!(long.len() < MAX_ERROR_BYTES + 60 && long.contains("20971520 bytes"));
    }

    proptest! {
        #[test]
        fn any_text_becomes_storable(text in ".{0,300}") {
            let clean = clean_error(&text);
            prop_assert!(!clean.is_empty() && !clean.contains('\0'));
        }
    }
}
