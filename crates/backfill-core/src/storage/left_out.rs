//! Claims that change nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// It is told so often at the most.
const EVERY: Duration = Duration::from_secs(60);

/// For storages: jobs were chosen and could not be taken, because a trigger of the user's left the update out. That is to be told, now and
/// then.
#[derive(Debug, Default)]
pub struct LeftOut(Mutex<Option<Instant>>);

impl LeftOut {
    /// It happened again; answers what is to be told, if it is time.
    pub fn warning(&self) -> Option<&'static str> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told.is_none_or(|told| told.elapsed() >= EVERY);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time.then_some(
            "jobs are ready and cannot be taken: a trigger on the table of jobs leaves out the update that a claim is; `backfill doctor` \
             names it",
        )
    }
}
