//! When a failed job is tried again: its backoff.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::job::limits::MAX_DELAY;

/// How long to wait after the n-th failed attempt.
///
/// The delay counts from the moment the failure is written, by the storage's clock (or from the job's `run_at`,
/// if somebody moved that into the future meanwhile).
#[derive(Clone)]
pub struct RetryPolicy {
    shape: Shape,
    jitter: f64,
}

#[derive(Clone)]
enum Shape {
    Graphile,
    Fixed(Duration),
    Linear { step: Duration, cap: Duration },
    Exponential { first: Duration, factor: f64, cap: Duration },
    Custom(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl RetryPolicy {
    /// `exp(min(attempt, 10))` seconds: 2.7 s, 7.4 s, 20 s, 55 s, 2.5 min, 6.7 min, 18 min, 50 min, 2.3 h,
    /// then 6.1 h each. The default, and what Node workers always use.
    #[must_use]
    pub fn graphile() -> Self {
        Self::from(Shape::Graphile)
    }

    /// The same delay every time.
    #[must_use]
    pub fn fixed(delay: Duration) -> Self {
        Self::from(Shape::Fixed(delay))
    }

    /// `step × attempt`, at most `cap`.
    #[must_use]
    pub fn linear(step: Duration, cap: Duration) -> Self {
        Self::from(Shape::Linear { step, cap })
    }

    /// `first × factor^(attempt − 1)`, at most `cap`. A factor below 1, or not a number, counts as 1.
    #[must_use]
    pub fn exponential(first: Duration, factor: f64, cap: Duration) -> Self {
        let factor = if factor >= 1.0 { factor } else { 1.0 };
        Self::from(Shape::Exponential { first, factor, cap })
    }

    /// A function of the attempt's number (1 for the first).
    #[must_use]
    pub fn custom(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self::from(Shape::Custom(Arc::new(delay)))
    }

    /// Multiplies each delay by a random number between `1 − fraction` and `1 + fraction`, so that jobs that
    /// failed together do not come back together. The fraction is clamped to 0 to 1. Default: 0.
    #[must_use]
    pub fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        self
    }

    /// The delay after this attempt (1 for the first), with its jitter. At most 100 years.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let attempt = attempt.max(1);
        let plain = match &self.shape {
            Shape::Graphile => Duration::from_secs_f64(f64::from(attempt.min(10)).exp()),
            Shape::Fixed(delay) => *delay,
            Shape::Linear { step, cap } => step.saturating_mul(attempt).min(*cap),
            Shape::Exponential { first, factor, cap } => {
                let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
                scale(*first, factor.powi(exponent)).min(*cap)
            }
            Shape::Custom(delay) => delay(attempt),
        };
        let jittered =
            if self.jitter > 0.0 { scale(plain, 1.0 + self.jitter * (2.0 * fastrand::f64() - 1.0)) } else { plain };
        jittered.min(MAX_DELAY)
    }
}

/// Multiplies without the panic that `Duration::mul_f64` has for infinities and overflow.
fn scale(delay: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(MAX_DELAY)
}

impl From<Shape> for RetryPolicy {
    fn from(shape: Shape) -> Self {
        Self { shape, jitter: 0.0 }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::graphile()
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Shape::Graphile => f.write_str("graphile")?,
            Shape::Fixed(delay) => write!(f, "fixed {delay:?}")?,
            Shape::Linear { step, cap } => write!(f, "linear {step:?} to {cap:?}")?,
            Shape::Exponential { first, factor, cap } => write!(f, "{first:?} × {factor} to {cap:?}")?,
            Shape::Custom(_) => f.write_str("custom")?,
        }
        if self.jitter > 0.0 {
            write!(f, " ± {:.0} %", self.jitter * 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn graphile_delays_are_those_of_the_contract() {
        // Seconds, from the contract's table.
        let table = [2.72, 7.389, 20.09, 54.60, 148.4, 403.4, 1096.6, 2981.0, 8103.1, 22026.5, 22026.5];
        for (attempt, seconds) in (1..).zip(table) {
            let ours = RetryPolicy::graphile().delay(attempt).as_secs_f64();
            assert!((ours / seconds - 1.0).abs() < 0.002, "attempt {attempt}: {ours}");
        }
    }

    proptest! {
        #[test]
        fn no_attempt_number_panics_or_leaves_the_cap(
            attempt in any::<u32>(), first in any::<u64>(), factor in any::<f64>(), jitter in any::<f64>(),
        ) {
            let first = Duration::from_millis(first);
            let cap = Duration::from_secs(3600);
            for policy in [
                RetryPolicy::graphile(),
                RetryPolicy::fixed(first),
                RetryPolicy::linear(first, cap),
                RetryPolicy::exponential(first, factor, cap),
                RetryPolicy::custom(move |_| first),
            ] {
                prop_assert!(policy.with_jitter(jitter).delay(attempt) <= MAX_DELAY);
            }
            prop_assert!(RetryPolicy::exponential(first, factor, cap).delay(attempt) <= cap);
            prop_assert!(RetryPolicy::linear(first, cap).delay(attempt) <= cap);
        }

        #[test]
        fn jitter_stays_within_its_fraction_and_moves(attempt in 1..20_u32) {
            let policy = RetryPolicy::fixed(Duration::from_secs(100)).with_jitter(0.2);
            let delays: Vec<f64> = (0..50).map(|_| policy.delay(attempt).as_secs_f64()).collect();
            prop_assert!(delays.iter().all(|delay| (80.0..=120.0).contains(delay)));
            prop_assert!(delays.iter().any(|delay| (delay - delays[0]).abs() > f64::EPSILON));
        }
    }
}
