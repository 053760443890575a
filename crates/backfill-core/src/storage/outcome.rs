//! How a job ended.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{ClaimRef, Rescued};
use crate::job::limits::later;
use crate::job::{Job, Payload, RunAt};

/// The longest text that is kept as `last_error`, in bytes (32 KiB); more is cut, and the text says so.
pub const MAX_ERROR_BYTES: usize = 32 * 1024;

/// What the `last_error` of a job begins with that was cut off by the end of its worker, and by which the next such end knows it.
pub const INTERRUPTED: &str = "the worker shut down before the job ended";

/// How a job ended. Made by its constructors; more kinds, and more in each, may come.
///
/// A storage need not match on it: [`Outcome::change`] is what it writes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: delete it.
    #[non_exhaustive]
    Completed {},
    /// Failed: keep its attempt, and try again at this time if any are left.
    #[non_exhaustive]
    Failed {
        /// Becomes `last_error`.
        error: String,
        /// When to try again. A delay counts from now, or from the job's `run_at` if that is later.
        retry: RunAt,
        /// Takes the payload's place (the items of a batch that are left).
        payload: Option<Payload>,
    },
    /// Failed for good: use up its attempts.
    #[non_exhaustive]
    Dead {
        /// Becomes `last_error`.
        error: String,
    },
    /// Run again at this time; give the attempt back.
    #[non_exhaustive]
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
    #[non_exhaustive]
    Interrupted {
        /// Becomes `last_error`; begins with [`INTERRUPTED`].
        error: String,
        /// It is not ready before this time from now has passed. Zero, unless it may be running on still.
        wait: Duration,
        /// Takes the payload's place (the items of a batch that are left).
        payload: Option<Payload>,
    },
    /// Not done, and no failure of the job's: ready again where it stood, or so much later. It keeps its attempt as used, and others are
    /// told.
    #[non_exhaustive]
    Requeued {
        /// How long after now it is ready; zero: at once, and in its old place.
        after: Duration,
        /// Becomes `last_error`, if given.
        error: Option<String>,
    },
    /// Never started: give the attempt back and leave the rest as it was.
    Released,
}

impl Outcome {
    /// Done.
    #[must_use]
    pub fn completed() -> Self {
        Self::Completed {}
    }

    /// Failed: tried again at this time, if any attempts are left.
    #[must_use]
    pub fn failed(error: impl Into<String>, retry: impl Into<RunAt>) -> Self {
        Self::Failed { error: error.into(), retry: retry.into(), payload: None }
    }

    /// Failed for good.
    #[must_use]
    pub fn dead(error: impl Into<String>) -> Self {
        Self::Dead { error: error.into() }
    }

    /// To run again at this time, without using up an attempt.
    #[must_use]
    pub fn snoozed(until: impl Into<RunAt>) -> Self {
        Self::Snoozed { until: until.into() }
    }

    /// Ready again where it stood, with its attempt used; or so much later, if the time is not zero.
    #[must_use]
    pub fn requeued(after: Duration) -> Self {
        Self::Requeued { after, error: None }
    }

    /// What it says about what went wrong, to be made fit for where it is stored.
    pub fn error_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Failed { error, .. } | Self::Dead { error } | Self::Interrupted { error, .. } => Some(error),
            Self::Requeued { error, .. } => error.as_mut(),
            Self::Completed {} | Self::Snoozed { .. } | Self::Released => None,
        }
    }

    /// Whether the job is done.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed { .. })
    }

    /// What a storage writes of a job that ended so; `None` if it deletes the job.
    #[must_use]
    pub fn change(&self) -> Option<Change<'_>> {
        let change = |kind, error: Option<&String>, when, payload| Change {
            kind,
            error: error.map(|text| clean_error(text)),
            when,
            payload,
        };
        Some(match self {
            Self::Completed {} => return None,
            Self::Failed { error, retry, payload } => change("failed", Some(error), Some(*retry), payload.as_ref()),
            Self::Dead { error } => change("dead", Some(error), None, None),
            Self::Interrupted { error, wait, payload } => {
                let wait = (!wait.is_zero()).then_some(RunAt::In(*wait));
                change("interrupted", Some(error), wait, payload.as_ref())
            }
            Self::Snoozed { until } => change("snoozed", None, Some(*until), None),
            Self::Requeued { after, error } => {
                change("requeued", error.as_ref(), (!after.is_zero()).then_some(RunAt::In(*after)), None)
            }
            Self::Released => change("returned", None, None, None),
        })
    }

    /// Writes this into a job that is kept, for storages that keep a job as a whole: its claim still stands, and it is unlocked by this.
    /// A completed job is deleted instead.
    pub fn apply(&self, claim: &ClaimRef, job: &mut Job, now: DateTime<Utc>) {
        job.locked_at = None;
        job.locked_by = None;
        // Its key was taken while it ran: it was replaced or removed, and must stay unavailable.
        let taken_over = claim.had_key && job.key.is_none();
        let mut gets_attempt_back = false;
        match self {
            Self::Completed {} => {}
            Self::Failed { retry, .. } => {
                job.run_at = match retry {
                    RunAt::Time(time) => *time,
                    RunAt::In(delay) => later(job.run_at.max(now), *delay),
                };
            }
            Self::Dead { .. } => job.attempts = job.max_attempts,
            Self::Snoozed { until } => {
                job.run_at = until.by(now);
                gets_attempt_back = true;
            }
            Self::Interrupted { wait, .. } => {
                let again = job.last_error.as_ref().is_some_and(|last| last.starts_with(INTERRUPTED));
                if again {
                    let spread = Rescued::spread(job.attempts) * fastrand::f64();
                    job.run_at = later(job.run_at.max(now), wait.saturating_add(Duration::from_secs_f64(spread)));
                } else if !wait.is_zero() {
                    job.run_at = later(job.run_at.max(now), *wait);
                }
                gets_attempt_back = !again;
            }
            Self::Requeued { after, .. } if after.is_zero() => {}
            Self::Requeued { after, .. } => job.run_at = later(now, *after),
            Self::Released => gets_attempt_back = true,
        }
        if gets_attempt_back && !taken_over {
            job.attempts = (job.attempts - 1).max(0);
        }
        if let Some(Change { error, payload, .. }) = self.change() {
            job.last_error = error.or(job.last_error.take());
            job.payload = payload.unwrap_or(&job.payload).clone();
        }
    }

    /// A job that was cut off, and what it said about that, if anything.
    #[must_use]
    pub fn interrupted(said: &str) -> Self {
        let error = if said.is_empty() { INTERRUPTED.to_owned() } else { format!("{INTERRUPTED}: {said}") };
        Self::Interrupted { error, wait: Duration::ZERO, payload: None }
    }

    /// The same, with this in the payload's place; of a job that failed or was cut off.
    #[must_use]
    pub fn left(mut self, left: Option<Payload>) -> Self {
        if let Self::Failed { payload, .. } | Self::Interrupted { payload, .. } = &mut self {
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
        matches!(self, Self::Released | Self::Interrupted { .. } | Self::Requeued { .. })
    }
}

/// What a storage writes of a job that is not done: see [`Outcome`] for the rules of each kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change<'a> {
    /// `failed`, `dead`, `interrupted`, `snoozed`, `requeued` or `returned`.
    pub kind: &'static str,
    /// Becomes `last_error`; fit to be stored.
    pub error: Option<String>,
    /// When it is due. A delay counts from now; of a job that failed or was cut off, from its `run_at` if that is later.
    pub when: Option<RunAt>,
    /// Takes the payload's place.
    pub payload: Option<&'a Payload>,
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
