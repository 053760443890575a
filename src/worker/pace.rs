//! How many jobs can start within milliseconds.
//!
//! A claim takes about a millisecond. A worker whose jobs take microseconds would idle while it waits for the next
//! claim, so it asks for more than its free slots: for what it can start within [`LEAD`] at the pace just measured.
//! With slow jobs that comes to nothing, and no job waits, locked, behind another.

use std::time::Duration;

/// How far ahead jobs are claimed.
const LEAD: Duration = Duration::from_millis(10);
/// The most jobs that are claimed ahead, however fast they are: what a worker does in about 50 ms of the fastest.
const MAX_AHEAD: usize = 4_000;
/// A job counts for a sixteenth of the average, so one slow job is enough to stop claiming ahead for a while.
const WEIGHT: f64 = 1.0 / 16.0;

/// How long a run of jobs of one serial queue may take.
const RUN: Duration = Duration::from_millis(50);
/// The most jobs of one run.
const MAX_RUN: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The running average of how long a job takes, in seconds; unknown before the first one.
    average: Option<f64>,
}

impl Pace {
    pub(super) fn job_took(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.average = Some(self.average.map_or(time, |average| average + (time - average) * WEIGHT));
    }

    /// Forgets what was measured: the jobs claimed ahead did not start in time.
    pub(super) fn forget(&mut self) {
        self.average = None;
    }

    /// How many jobs of a serial queue to claim together, to be run one after the other. A new job of that queue, however urgent, waits
    /// for them, and so does whoever would take or replace one of them by its key. So a run is short; of unknown jobs it is one.
    pub(super) fn run_length(&self) -> usize {
        let Some(average) = self.average else { return 1 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        let in_time = (RUN.as_secs_f64() / average.max(1e-7)) as usize;
        in_time.clamp(1, MAX_RUN)
    }

    /// How many jobs beyond the free slots can start within the lead time.
    pub(super) fn ahead(&self, concurrency: usize) -> usize {
        let Some(average) = self.average else { return 0 };
        #[expect(clippy::cast_precision_loss, reason = "a concurrency is far below 2^52")]
        let in_time = concurrency as f64 * LEAD.as_secs_f64() / average.max(1e-7);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        (in_time as usize).min(MAX_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(times: &[Duration]) -> Pace {
        let mut pace = Pace::default();
        for time in times {
            pace.job_took(*time);
        }
        pace
    }

    #[test]
    fn nothing_is_claimed_ahead_before_anything_is_known_or_of_slow_jobs() {
        assert_eq!(Pace::default().ahead(24), 0);
        assert_eq!(pace(&[Duration::from_secs(1)]).ahead(24), 0);
    }

    #[test]
    fn fast_jobs_are_claimed_ahead_up_to_the_limit() {
        assert_eq!(pace(&[Duration::from_micros(2)]).ahead(24), MAX_AHEAD);
        assert_eq!(pace(&[Duration::from_millis(5)]).ahead(24), 48);
        assert_eq!(pace(&[Duration::ZERO]).ahead(1), MAX_AHEAD);
    }

    #[test]
    fn runs_of_a_queue_are_as_long_as_fifty_milliseconds_and_of_unknown_jobs_one() {
        assert_eq!(Pace::default().run_length(), 1);
        assert_eq!(pace(&[Duration::from_millis(5)]).run_length(), 10);
        assert_eq!(pace(&[Duration::from_secs(1)]).run_length(), 1);
        assert_eq!(pace(&[Duration::ZERO]).run_length(), MAX_RUN);
    }

    #[test]
    fn one_slow_job_stops_claiming_ahead() {
        let mut pace = pace(&[Duration::from_micros(2)]);
        pace.job_took(Duration::from_secs(5));
        assert_eq!(pace.ahead(24), 0);
    }
}
