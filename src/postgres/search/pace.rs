//! How large the next window is.

use std::time::{Duration, Instant};

/// The first window, which tells how fast rows are read here.
const FIRST: i64 = 500;
/// More rows than this are never read under one snapshot.
const MOST: i64 = 100_000;

/// The time that is left, and how fast it goes.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    budget: Option<Duration>,
    window: i64,
    window_started: Instant,
}

impl Pace {
    /// Time runs from now on. Without a budget, one window holds everything.
    pub fn new(budget: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { started: now, budget, window: if budget.is_some() { FIRST } else { i64::MAX }, window_started: now }
    }

    /// Whether a window has an end.
    pub fn is_bounded(&self) -> bool {
        self.budget.is_some()
    }

    /// How many rows the next window has; `None` if the time is up. The first one always is.
    pub fn window(&mut self, is_first: bool) -> Option<i64> {
        let Some(budget) = self.budget else { return Some(i64::MAX) };
        let now = Instant::now();
        if !is_first {
            let left = budget.checked_sub(now - self.started).filter(|left| !left.is_zero())?;
            let took = (now - self.window_started).max(Duration::from_micros(50));
            // As many as half of the time that is left allows, at the pace of the last one; but no leap, which that may have been.
            let pace = left.as_secs_f64() / 2.0 / took.as_secs_f64();
            let next = (as_float(self.window) * pace.clamp(0.1, 8.0)).round();
            self.window = as_count(next).clamp(FIRST, MOST);
        }
        self.window_started = now;
        Some(self.window)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a window is small")]
fn as_float(window: i64) -> f64 {
    window as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a window is small")]
fn as_count(window: f64) -> i64 {
    window as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_bounded_however_fast_rows_are() {
        let mut pace = Pace::new(Some(Duration::from_secs(3600)));
        let windows: Vec<i64> = (0..8).filter_map(|place| pace.window(place == 0)).collect();
        assert_eq!(windows[..3], [FIRST, FIRST * 8, FIRST * 64]);
        assert_eq!(windows[7], MOST);
    }

    #[test]
    fn without_time_there_is_one_window_and_without_a_budget_one_for_everything() {
        let mut pace = Pace::new(Some(Duration::ZERO));
        assert_eq!((pace.window(true), pace.window(false)), (Some(FIRST), None));
        assert_eq!(Pace::new(None).window(true), Some(i64::MAX));
    }
}
