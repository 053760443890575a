//! Durations, times and the like, as people write them.

use std::time::{Duration, SystemTime};

use backfill::RetryPolicy;
use chrono::{DateTime, Utc};

use crate::nearest::did_you_mean;
pub use backfill::text::{length, relative};

/// A duration with units: `2s`, `100ms`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            format!("needs a unit, such as {text}s or {text}ms")
        } else {
            format!("{error}; it looks like 2s, 100ms or 1h30m")
        }
    })
}

/// The same, or seconds without a unit.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => duration(text),
    }
}

/// A number from 1 to this.
pub fn up_to(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| format!("must be a number from 1 to {most}"))
    }
}

/// A time: RFC 3339, or without a zone, which means UTC.
pub fn time(text: &str) -> Result<DateTime<Utc>, String> {
    // Also as PostgreSQL prints it, and to the minute with a zone.
    let known = ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"];
    let parsed = DateTime::parse_from_rfc3339(text).ok();
    if let Some(time) = parsed.or_else(|| known.iter().find_map(|known| DateTime::parse_from_str(text, known).ok())) {
        return Ok(time.to_utc());
    }
    // A day, or a day and a minute.
    let whole = match text.len() {
        10 => format!("{text}T00:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    humantime::parse_rfc3339_weak(&whole).map(|time: SystemTime| time.into()).map_err(|_| {
        "is no time; it looks like 2026-11-21T10:00:00Z, 2026-11-21T10:00:00+01:00, \"2026-11-21 10:00\" or 2026-11-21"
            .to_owned()
    })
}

/// A value that may be for one task: `TASK=VALUE`, or `VALUE` for all.
#[derive(Clone, Debug, PartialEq)]
pub struct ForTask<T> {
    /// The task, or `None` for all.
    pub task: Option<String>,
    /// The value.
    pub value: T,
}

fn for_task<T>(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<ForTask<T>, String> {
    match text.split_once('=') {
        Some((task, text)) => Ok(ForTask { task: Some(task.to_owned()), value: value(text)? }),
        None => Ok(ForTask { task: None, value: value(text)? }),
    }
}

/// `[TASK=]DURATION`.
pub fn task_duration(text: &str) -> Result<ForTask<Duration>, String> {
    for_task(text, duration)
}

/// `TASK=N`.
pub fn task_count(text: &str) -> Result<ForTask<usize>, String> {
    let parsed =
        for_task(text, |text| text.parse::<usize>().map_err(|error| format!("{text:?} is no number: {error}")))?;
    if parsed.task.is_none() { Err("it looks like TASK=3".to_owned()) } else { Ok(parsed) }
}

/// How delays between attempts grow, as `[TASK=]POLICY`.
pub fn task_retry(text: &str) -> Result<ForTask<Retry>, String> {
    for_task(text, retry)
}

/// A retry policy, as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Retry {
    /// `graphile`.
    Graphile,
    /// `fixed:DELAY`.
    Fixed(Duration),
    /// `linear:STEP:CAP`.
    Linear(Duration, Duration),
    /// `exponential:FIRST:FACTOR:CAP`.
    Exponential(Duration, f64, Duration),
}

impl From<Retry> for RetryPolicy {
    fn from(retry: Retry) -> Self {
        match retry {
            Retry::Graphile => Self::graphile(),
            Retry::Fixed(delay) => Self::fixed(delay),
            Retry::Linear(step, cap) => Self::linear(step, cap),
            Retry::Exponential(first, factor, cap) => Self::exponential(first, factor, cap),
        }
    }
}

const POLICIES: [&str; 4] = ["graphile", "fixed", "linear", "exponential"];

fn retry(text: &str) -> Result<Retry, String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["graphile"] => Ok(Retry::Graphile),
        ["fixed", delay] => Ok(Retry::Fixed(duration(delay)?)),
        ["linear", step, cap] => Ok(Retry::Linear(duration(step)?, duration(cap)?)),
        ["exponential", first, factor, cap] => {
            let factor = factor.parse().ok().filter(|factor: &f64| *factor >= 1.0 && factor.is_finite());
            let factor = factor.ok_or("its factor must be a number of at least 1")?;
            Ok(Retry::Exponential(duration(first)?, factor, duration(cap)?))
        }
        _ => {
            let meant = match parts[0] {
                known if POLICIES.contains(&known) => String::new(),
                name => did_you_mean(name, POLICIES),
            };
            Err(format!("it is graphile, fixed:10s, linear:10s:1h or exponential:1s:2:1h{meant}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood_and_what_is_not_is_explained() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2000").unwrap_err(), "needs a unit, such as 2000s or 2000ms");
        assert_eq!((seconds("5"), seconds("500ms")), (Ok(Duration::from_secs(5)), Ok(Duration::from_millis(500))));
        assert!(seconds("-1").is_err() && seconds("often").is_err());
        assert!(duration("soon").unwrap_err().contains("it looks like 2s"));
        let expected: DateTime<Utc> = "2026-11-21T10:00:00Z".parse().unwrap();
        for text in ["2026-11-21T10:00:00Z", "2026-11-21T11:00:00+01:00", "2026-11-21 10:00:00", "2026-11-21T10:00:00"]
        {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        assert!(time("tomorrow").unwrap_err().contains("is no time"));
        assert_eq!(task_count("a/b=3"), Ok(ForTask { task: Some("a/b".to_owned()), value: 3 }));
        assert!(task_count("3").is_err() && task_count("a=x").is_err());
        assert_eq!(task_duration("5s"), Ok(ForTask { task: None, value: Duration::from_secs(5) }));
        assert_eq!(
            retry("exponential:1s:2:1h"),
            Ok(Retry::Exponential(Duration::from_secs(1), 2.0, Duration::from_secs(3600)))
        );
        for wrong in ["exponential:1s:0.5:1h", "exponential:1s:inf:1h", "fixed", "often", "linear:1s"] {
            assert!(retry(wrong).is_err(), "{wrong}");
        }
        assert!(retry("exponetial:1s:2:1h").unwrap_err().ends_with("; did you mean \"exponential\"?"));
        assert!(retry("fixed").unwrap_err().ends_with("1h"), "the name is right");
    }
}
