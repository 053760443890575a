//! Limits that the schema sets on a job, and the checks that refuse bad input before it is sent.
//!
//! The numbers are the `CHECK` constraints of the shared schema. PostgreSQL counts characters, not bytes, and
//! so do we.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use super::{JobSpec, Payload, RunAt};
use crate::error::{Error, Result};

/// Longest task name, in characters.
pub const MAX_TASK_NAME_CHARS: usize = 128;
/// Longest queue name, in characters.
pub const MAX_QUEUE_NAME_CHARS: usize = 128;
/// Longest job key, in characters.
pub const MAX_KEY_CHARS: usize = 512;
/// Largest value of `max_attempts` (a `smallint` in the schema).
pub const MAX_MAX_ATTEMPTS: u32 = i16::MAX as u32;
/// Attempts a job gets when nobody says otherwise: Graphile's default.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 25;
/// The longest delay of a new job, and the longest that is written for a retry: 100 years, far inside what a timestamp can hold.
pub const MAX_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Default cap on one payload's JSON text, in bytes (8 MiB).
///
/// A queue row is read, copied and written several times; data larger than this belongs in a store of its
/// own, with a reference to it in the payload. The cap also keeps every bound parameter far below the 4 GiB
/// at which PostgreSQL's wire protocol would wrap around.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// Refuses a spec that the schema will not take, with the value and the reason; returns the number of attempts.
pub(super) fn check(spec: &JobSpec) -> Result<i16> {
    check_task_name(&spec.task)?;
    if let Some(queue) = spec.queue.name() {
        check_text("queue name", queue, MAX_QUEUE_NAME_CHARS)?;
    }
    if let Some(key) = &spec.key {
        check_text("job key", key, MAX_KEY_CHARS)?;
    }
    let max_attempts = i16::try_from(spec.max_attempts).ok().filter(|attempts| *attempts >= 1);
    let Some(max_attempts) = max_attempts else {
        return Err(Error::InvalidJob {
            what: "max_attempts",
            value: spec.max_attempts.to_string(),
            problem: format!("must be from 1 to {MAX_MAX_ATTEMPTS}"),
        });
    };
    for flag in &spec.flags {
        check_no_nul("flag", flag)?;
    }
    match spec.run_at {
        Some(RunAt::Time(time)) => check_time(time)?,
        Some(RunAt::In(delay)) => check_delay(delay)?,
        None => {}
    }
    Ok(max_attempts)
}

/// Times that PostgreSQL and the calendar library both hold.
pub(crate) fn check_time(time: DateTime<Utc>) -> Result<()> {
    if (-4000..=9999).contains(&time.year()) {
        return Ok(());
    }
    Err(Error::InvalidJob {
        what: "run_at",
        value: time.to_rfc3339(),
        problem: "must lie in the years -4000 to 9999".to_owned(),
    })
}

/// Delays that are no mistake.
pub(crate) fn check_delay(delay: Duration) -> Result<()> {
    if delay <= MAX_DELAY {
        return Ok(());
    }
    Err(Error::InvalidJob {
        what: "run_at",
        value: format!("{delay:?} from now"),
        problem: "must be within a hundred years".to_owned(),
    })
}

/// A time that is this much later, or the last there is.
#[must_use]
pub fn later(time: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    let delay = TimeDelta::from_std(delay.min(MAX_DELAY)).ok();
    delay.and_then(|delay| time.checked_add_signed(delay)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Refuses a task name that the schema could not hold.
///
/// # Errors
/// [`Error::InvalidJob`].
pub fn check_task_name(name: &str) -> Result<()> {
    check_text("task name", name, MAX_TASK_NAME_CHARS)
}

/// Refuses a flag that the schema could not hold.
///
/// # Errors
/// [`Error::InvalidJob`].
pub fn check_flag(flag: &str) -> Result<()> {
    check_no_nul("flag", flag)
}

/// Refuses an identifier of a crontab entry that the schema could not hold, or that nobody could type.
///
/// # Errors
/// [`Error::InvalidJob`].
pub fn check_identifier(identifier: &str) -> Result<()> {
    check_text("crontab identifier", identifier, MAX_KEY_CHARS)
}

pub(super) fn check_payload(task: &str, payload: &Payload, max_bytes: usize) -> Result<()> {
    let bytes = payload.as_str().len();
    if bytes > max_bytes {
        return Err(Error::PayloadTooLarge { task: task.to_owned(), bytes, limit: max_bytes });
    }
    Ok(())
}

fn check_text(what: &'static str, value: &str, max_chars: usize) -> Result<()> {
    let problem = if value.is_empty() {
        "must not be empty".to_owned()
    } else {
        // Counting is only needed when the bytes could be too many characters.
        let chars = if value.len() > max_chars { value.chars().count() } else { 0 };
        if chars <= max_chars {
            return check_no_nul(what, value);
        }
        format!("has {chars} characters; at most {max_chars} are allowed")
    };
    Err(Error::InvalidJob { what, value: shorten(value), problem })
}

fn check_no_nul(what: &'static str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::InvalidJob {
            what,
            value: shorten(value),
            problem: "contains a NUL character, which PostgreSQL cannot store".to_owned(),
        });
    }
    Ok(())
}

/// The value as an error shows it: whole when short, its start when long.
pub(crate) fn shorten(value: &str) -> String {
    const SHOWN: usize = 60;
    if value.chars().count() <= SHOWN {
        return value.to_owned();
    }
    let mut start: String = value.chars().take(SHOWN).collect();
    start.push('…');
    start
}

#[cfg(test)]
mod tests {
    use super::super::NewJob;
    use super::*;

    fn check(spec: JobSpec, max_payload_bytes: usize) -> Result<NewJob> {
        spec.check(max_payload_bytes)
    }

    fn refused(spec: JobSpec) -> String {
        check(spec, DEFAULT_MAX_PAYLOAD_BYTES).unwrap_err().to_string()
    }

    #[test]
    fn limits_count_characters_not_bytes() {
        check(JobSpec::new("ü".repeat(128), ()), 10).unwrap();
        assert!(refused(JobSpec::new("ü".repeat(129), ())).contains("129 characters; at most 128"));
        check(JobSpec::new("t", ()).key("é".repeat(512)), 10).unwrap();
        assert!(refused(JobSpec::new("t", ()).key("k".repeat(513))).contains("at most 512"));
    }

    #[test]
    fn empty_names_are_refused() {
        assert!(refused(JobSpec::new("", ())).contains("task name"));
        assert!(refused(JobSpec::new("t", ()).key("")).contains("job key"));
        assert!(refused(JobSpec::new("t", ()).serial_queue("")).contains("queue name"));
    }

    #[test]
    fn attempts_outside_the_smallint_are_refused_with_the_value() {
        assert!(refused(JobSpec::new("t", ()).max_attempts(0)).contains('0'));
        assert!(refused(JobSpec::new("t", ()).max_attempts(32_768)).contains("32768"));
        check(JobSpec::new("t", ()).max_attempts(32_767), 10).unwrap();
    }

    #[test]
    fn nul_is_refused_wherever_postgresql_would_choke_on_it() {
        for spec in [
            JobSpec::new("a\0", ()),
            JobSpec::new("t", ()).key("a\0"),
            JobSpec::new("t", ()).serial_queue("a\0"),
            JobSpec::new("t", ()).flag("a\0"),
        ] {
            assert!(refused(spec).contains("NUL"));
        }
    }

    #[test]
    fn delays_of_more_than_a_hundred_years_are_refused() {
        for delay in [MAX_DELAY + Duration::from_nanos(1), Duration::MAX] {
            assert!(refused(JobSpec::new("t", ()).run_in(delay)).contains("within a hundred years"));
        }
        check(JobSpec::new("t", ()).run_in(MAX_DELAY), 10).unwrap();
    }

    #[test]
    fn payload_cap_names_size_and_limit() {
        let error = check(JobSpec::new("t", "x".repeat(100)), 50).unwrap_err().to_string();
        assert!(error.contains("102") && error.contains("50"), "{error}");
    }

    #[test]
    fn unserialisable_payload_is_refused() {
        let mut bad = std::collections::HashMap::new();
        bad.insert(vec![1_u8], 1);
        assert!(refused(JobSpec::new("t", bad)).contains("could not be serialised"));
    }
}
