//! Reading rows that anybody may have written.

use chrono::{DateTime, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Postgres, Type};

use crate::job::{Job, Payload, Priority};

/// A `timestamptz` that reads every value PostgreSQL has.
///
/// The driver's own decoding panics on `infinity` and on years that the calendar library does not know; a row
/// edited by hand must not stop a worker, so such times saturate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamp(pub DateTime<Utc>);

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        <DateTime<Utc> as PgHasArrayType>::array_type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if matches!(value.format(), PgValueFormat::Text) {
            return Ok(Self(<DateTime<Utc> as Decode<Postgres>>::decode(value)?));
        }
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        Ok(Self(from_postgres_micros(micros)))
    }
}

/// Microseconds since 2000-01-01 UTC, as the wire has them.
fn from_postgres_micros(micros: i64) -> DateTime<Utc> {
    const EPOCH_UNIX_SECONDS: i64 = 946_684_800;
    micros
        .checked_add(EPOCH_UNIX_SECONDS * 1_000_000)
        .and_then(DateTime::from_timestamp_micros)
        .unwrap_or(if micros < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC })
}

/// One job as the statements in this room select it.
#[derive(Debug)]
pub(super) struct JobRow {
    pub id: i64,
    pub task: String,
    pub queue: Option<String>,
    pub payload: String,
    pub priority: i16,
    pub run_at: Timestamp,
    pub attempts: i16,
    pub max_attempts: i16,
    pub last_error: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub key: Option<String>,
    pub revision: i32,
    pub flags: Option<String>,
    pub locked_at: Option<Timestamp>,
    pub locked_by: Option<String>,
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let mut job = Job::new(row.id, row.task, Payload::from_trusted(row.payload), row.created_at.0);
        job.queue = row.queue;
        job.priority = Priority(row.priority);
        job.run_at = row.run_at.0;
        job.attempts = row.attempts;
        job.max_attempts = row.max_attempts;
        job.last_error = row.last_error;
        job.updated_at = row.updated_at.0;
        job.key = row.key;
        job.revision = row.revision;
        job.flags = row.flags.as_deref().map(flag_names).unwrap_or_default();
        job.locked_at = row.locked_at.map(|time| time.0);
        job.locked_by = row.locked_by;
        job
    }
}

/// Flags are stored as an object of `true`s; whatever else somebody wrote there means no flags.
fn flag_names(json: &str) -> Vec<String> {
    match serde_json::from_str(json) {
        Ok(serde_json::Value::Object(flags)) => {
            let mut names: Vec<String> = flags.into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names
        }
        _ => Vec::new(),
    }
}

/// Selects whole jobs: `jobs!("with …", "from … as job join … task … queue …", args…)`.
///
/// The relations must be called `job` (a row of `_private_jobs`), `task` and `queue`. It is a macro because the
/// checked macros take literals only.
macro_rules! jobs {
    ($with:literal, $from:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::storage::postgres::row::JobRow,
            $with
            + r#"
select
  job.id as "id!",
  task.identifier as "task!",
  queue.queue_name as "queue?",
  job.payload::text as "payload!",
  job.priority as "priority!",
  job.run_at as "run_at!: crate::storage::postgres::row::Timestamp",
  job.attempts as "attempts!",
  job.max_attempts as "max_attempts!",
  job.last_error as "last_error?",
  job.created_at as "created_at!: crate::storage::postgres::row::Timestamp",
  job.updated_at as "updated_at!: crate::storage::postgres::row::Timestamp",
  job.key as "key?",
  job.revision as "revision!",
  job.flags::text as "flags?",
  job.locked_at as "locked_at?: crate::storage::postgres::row::Timestamp",
  job.locked_by as "locked_by?"
"#
            + $from
            $(, $argument)*
        )
    };
}
pub(super) use jobs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_saturate() {
        assert_eq!(from_postgres_micros(0).to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(from_postgres_micros(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(from_postgres_micros(i64::MIN), DateTime::<Utc>::MIN_UTC);
    }

    #[test]
    fn absurd_flags_are_no_flags() {
        assert_eq!(flag_names(r#"{"b":true,"a":true}"#), ["a", "b"]);
        for absurd in ["[1]", "3", "null", "\"x\""] {
            assert!(flag_names(absurd).is_empty());
        }
    }
}
