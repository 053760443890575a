//! Lengths of time in tests: as people write them, and within a tolerance.

use std::fmt::{self, Write as _};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::cron::time_phrase;

/// A length of time: a [`Duration`], or a text such as `"1d12h"` or `"90s"`, with `s`, `m`, `h`, `d` and `w`.
///
/// # Panics
/// A text that is none panics, with the text.
pub trait IntoDuration {
    /// The length.
    fn into_duration(self) -> Duration;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Duration {
        self
    }
}

impl IntoDuration for &str {
    #[track_caller]
    fn into_duration(self) -> Duration {
        time_phrase(self).unwrap_or_else(|problem| panic!("{self:?} {problem}"))
    }
}

/// A length of time within a tolerance, both included. Made by [`within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    expected: Duration,
    tolerance: Duration,
}

/// So long, with so much more or less.
///
/// ```
/// use backfill::testing::within;
/// use std::time::Duration;
///
/// assert_eq!(within("1h", "5s"), within(Duration::from_secs(3600), Duration::from_secs(5)));
/// ```
///
/// # Panics
/// For a text that is no length of time.
#[track_caller]
pub fn within(expected: impl IntoDuration, tolerance: impl IntoDuration) -> Span {
    Span { expected: expected.into_duration(), tolerance: tolerance.into_duration() }
}

impl Span {
    /// Whether it is so long from `now` to `time`. A time in the past is none from now.
    pub(super) fn fits(&self, now: DateTime<Utc>, time: DateTime<Utc>) -> bool {
        self.expected.abs_diff((time - now).to_std().unwrap_or_default()) <= self.tolerance
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ± {}", human(self.expected), human(self.tolerance))
    }
}

/// As people write it. What is less than ten seconds has its milliseconds.
pub(super) fn human(time: Duration) -> String {
    if time < Duration::from_secs(10) && time.subsec_millis() > 0 {
        return format!("{}ms", time.as_millis());
    }
    let mut left = time.as_secs();
    let mut text = String::new();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if left >= length {
            let _ = write!(text, "{}{unit}", left / length);
            left %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The same in whole seconds, so that a text does not change with the milliseconds of a run.
pub(super) fn about(time: Duration) -> String {
    human(Duration::from_secs(time.as_millis().saturating_add(500).try_into().unwrap_or(u64::MAX) / 1_000))
}

/// When something is due: `in 1h`, or `now`.
pub(super) fn due(now: DateTime<Utc>, time: DateTime<Utc>) -> String {
    let left = (time - now).to_std().unwrap_or_default();
    let text = about(left);
    if text == "0s" { "now".to_owned() } else { format!("in {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for text in ["1d1h", "90s", "2w", "1h30m5s"] {
            assert_eq!(human(text.into_duration()).as_str().into_duration(), text.into_duration(), "{text}");
        }
        assert_eq!(human(Duration::from_millis(2_500)), "2500ms");
        assert_eq!(human(Duration::ZERO), "0s");
        assert_eq!(about(Duration::from_millis(3_599_700)), "1h");
    }

    #[test]
    fn a_span_fits_up_to_its_tolerance() {
        let (now, span) = (Utc::now(), within("1h", "5s"));
        let at = |seconds| now + TimeDelta::seconds(seconds);
        assert!(span.fits(now, at(3_595)) && span.fits(now, at(3_605)));
        assert!(!span.fits(now, at(3_594)) && !span.fits(now, at(3_606)));
        assert!(within("0s", "1s").fits(now, at(-60)), "what is overdue is due now");
        assert_eq!(due(now, at(-60)), "now");
    }

    #[test]
    #[should_panic(expected = "\"an hour\" is no time phrase")]
    fn a_text_that_is_no_length_panics_with_the_text() {
        let _ = within("an hour", "5s");
    }
}
