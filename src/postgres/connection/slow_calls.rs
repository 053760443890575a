//! Claims and results after one of them took too long.
//!
//! A call that nobody waits for any more (its limit is over, its connection was given up) may still wait at the server, for a
//! lock as long as that is held, and keep a connection all the time. And a role may give its statements less time than a claim
//! needs that has to walk by a million jobs of others. So after such a call, claims and results have a transaction for some time,
//! in which the server ends what waits for too long, and which has time enough for the rest. Nobody else pays for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::errors::is_locked;
use crate::error::Result;
use crate::job::JobId;
use crate::storage::Settlement;

/// How long a call that took too long is remembered.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// Jobs whose rows somebody kept locked when their results were to be written: the next try does not wait for them.
#[derive(Clone, Debug, Default)]
pub(in crate::postgres) struct LockedRows(Arc<Mutex<HashSet<JobId>>>);

impl LockedRows {
    pub(in crate::postgres) fn knows_any(&self, settled: &[Settlement]) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty() && settled.iter().any(|settlement| known.contains(&settlement.claim.id))
    }

    /// Of these, those are busy now.
    pub(in crate::postgres) fn learn(&self, settled: &[Settlement], busy: &[JobId]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for settlement in settled {
            known.remove(&settlement.claim.id);
        }
        known.extend(busy);
    }
}

#[derive(Clone, Debug, Default)]
pub(in crate::postgres) struct SlowCallGuard(Arc<Mutex<Option<Instant>>>);

/// A call under way. Dropped before it is answered, it took too long.
pub(in crate::postgres) struct GuardedCall<'a>(Option<&'a SlowCallGuard>);

impl SlowCallGuard {
    pub(in crate::postgres) fn begin(&self) -> GuardedCall<'_> {
        GuardedCall(Some(self))
    }

    /// Whether a call took too long lately.
    pub(in crate::postgres) fn is_on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn turn_on(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl GuardedCall<'_> {
    pub(in crate::postgres) fn answered<T>(mut self, answer: Result<T>) -> Result<T> {
        if let Some(guard) = self.0.take()
            && answer.as_ref().is_err_and(|error| error.took_too_long() || (guard.is_on() && is_locked(error)))
        {
            guard.turn_on();
        }
        answer
    }
}

impl Drop for GuardedCall<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.0 {
            guard.turn_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_call_that_is_not_answered_is_remembered() {
        let guard = SlowCallGuard::default();
        assert!(guard.begin().answered(Ok(())).is_ok());
        let refused = Err::<(), _>(Error::Internal("x".to_owned()));
        assert!(guard.begin().answered(refused).is_err());
        assert!(!guard.is_on());
        drop(guard.begin());
        assert!(guard.is_on());
    }
}
