//! Ranges of numbers and of times.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};

/// Whole numbers from one to another, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The least; `None` for any.
    pub least: Option<i64>,
    /// The greatest; `None` for any.
    pub most: Option<i64>,
}

impl Range {
    /// This number alone.
    #[must_use]
    pub fn only(number: i64) -> Self {
        Self { least: Some(number), most: Some(number) }
    }

    /// Whether this number is in it.
    #[must_use]
    pub fn contains(&self, number: i64) -> bool {
        self.least.is_none_or(|least| number >= least) && self.most.is_none_or(|most| number <= most)
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            least: self.least.into_iter().chain(other.least).max(),
            most: self.most.into_iter().chain(other.most).min(),
        }
    }

    /// The same as a person writes it; `None` for what is no range.
    pub(super) fn of(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<i64>().ok();
        if let Some(rest) = text.strip_prefix(">=") {
            return Some(Self { least: Some(number(rest)?), most: None });
        }
        if let Some(rest) = text.strip_prefix("<=") {
            return Some(Self { least: None, most: Some(number(rest)?) });
        }
        if let Some(rest) = text.strip_prefix('>') {
            return Some(Self { least: Some(number(rest)?.checked_add(1)?), most: None });
        }
        if let Some(rest) = text.strip_prefix('<') {
            return Some(Self { least: None, most: Some(number(rest)?.checked_sub(1)?) });
        }
        match text.split_once("..") {
            Some((least, most)) => Some(Self { least: Some(number(least)?), most: Some(number(most)?) }),
            None => number(text).map(Self::only),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (Some(least), Some(most)) if least == most => write!(f, "{least}"),
            (Some(least), Some(most)) => write!(f, "{least}..{most}"),
            (Some(least), None) => write!(f, ">={least}"),
            (None, Some(most)) => write!(f, "<={most}"),
            (None, None) => write!(f, ">={}", i64::MIN),
        }
    }
}

/// A time, or a length of time from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// This time.
    At(DateTime<Utc>),
    /// So long after now; before it, if it is negative.
    FromNow(TimeDelta),
}

impl When {
    /// The time, if it is `now` now. What is beyond the calendar is its end.
    #[must_use]
    pub fn time(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::FromNow(delta) => now.checked_add_signed(delta).unwrap_or(if delta < TimeDelta::zero() {
                DateTime::<Utc>::MIN_UTC
            } else {
                DateTime::<Utc>::MAX_UTC
            }),
        }
    }
}

/// Times between two; neither is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Later than this.
    pub after: Option<When>,
    /// Earlier than this.
    pub before: Option<When>,
}

/// The seven letters that a length of time may end with, and how many seconds each is.
const UNITS: [(char, i64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl TimeRange {
    /// Whether this time is in it, if it is `now` now.
    #[must_use]
    pub fn contains(&self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.after.is_none_or(|after| time > after.time(now))
            && self.before.is_none_or(|before| time < before.time(now))
    }

    /// The same as a person writes it. A length of time is an age if `is_past`: `>2h` is more than two hours ago.
    pub(super) fn of(text: &str, is_past: bool) -> Option<Self> {
        let (is_greater, rest) = match text.strip_prefix('>') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('<')?),
        };
        if let Some(length) = length_of(rest) {
            let delta = TimeDelta::try_seconds(length)?;
            let when = Some(When::FromNow(if is_past { -delta } else { delta }));
            // The older, the earlier.
            return Some(if is_greater == is_past {
                Self { after: None, before: when }
            } else {
                Self { after: when, before: None }
            });
        }
        let when = Some(When::At(time_of(rest)?));
        Some(if is_greater { Self { after: when, before: None } } else { Self { after: None, before: when } })
    }

    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, is_past: bool) -> fmt::Result {
        let (is_after, when) = match (self.after, self.before) {
            (Some(when), _) => (true, when),
            (None, Some(when)) => (false, when),
            (None, None) => (true, When::At(DateTime::<Utc>::MIN_UTC)),
        };
        match when {
            When::At(time) => {
                let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                write!(f, "{}\"{time}\"", if is_after { '>' } else { '<' })
            }
            When::FromNow(delta) => {
                let delta = if is_past { -delta } else { delta };
                let sign = if delta < TimeDelta::zero() { "-" } else { "" };
                let length = Duration::from_secs(delta.num_seconds().unsigned_abs());
                write!(f, "{}{sign}{}", if is_after == is_past { '<' } else { '>' }, length_text(length))
            }
        }
    }
}

/// Seconds, of a text such as `1h30m` or `-5m`.
fn length_of(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut seconds = 0_i64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit()).filter(|end| *end > 0)?;
        let number: i64 = rest[..end].parse().ok()?;
        let unit = rest[end..].chars().next()?;
        let (_, of_unit) = UNITS.into_iter().find(|(letter, _)| *letter == unit)?;
        seconds = seconds.checked_add(number.checked_mul(of_unit)?)?;
        rest = &rest[end + 1..];
    }
    Some(sign * seconds)
}

fn length_text(length: Duration) -> String {
    let mut left = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let mut text = String::new();
    for (letter, seconds) in UNITS {
        if left >= seconds {
            text = format!("{text}{}{letter}", left / seconds);
            left %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A time in RFC 3339, or a day's beginning in UTC.
fn time_of(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc())
}
