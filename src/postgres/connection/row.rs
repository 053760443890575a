//! Rows of jobs: reading what anybody may have written, and storing jobs as they were elsewhere.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, PgConnection, Postgres, Type};

use super::Database;
use crate::job::{Job, Payload, Priority};
use crate::storage::ClaimToken;

/// A `timestamptz` that reads every value PostgreSQL has.
///
/// The driver's own decoding panics on `infinity` and on years that the calendar library does not know; a row
/// edited by hand must not stop a worker, so such times saturate.
#[derive(Clone, Copy, Debug)]
pub(in crate::postgres) struct Timestamp(pub DateTime<Utc>);

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

/// A text that reads whatever bytes a row holds. A database whose encoding is `SQL_ASCII` checks nothing, and one such row must not
/// stop the claims and lists of others: what is no UTF-8 is read with replacement characters.
#[derive(Clone, Debug, Default)]
pub(in crate::postgres) struct Text {
    pub text: String,
    /// Whether characters were replaced.
    pub is_damaged: bool,
}

impl Type<Postgres> for Text {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(ty)
    }
}

impl PgHasArrayType for Text {
    fn array_type_info() -> PgTypeInfo {
        <String as PgHasArrayType>::array_type_info()
    }

    fn array_compatible(ty: &PgTypeInfo) -> bool {
        <String as PgHasArrayType>::array_compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for Text {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = String::from_utf8_lossy(value.as_bytes()?);
        let is_damaged = matches!(text, Cow::Owned(_));
        Ok(Self { text: text.into_owned(), is_damaged })
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, is_damaged: false }
    }
}

impl From<Text> for Payload {
    fn from(text: Text) -> Self {
        if text.is_damaged { Self::from_damaged(text.text) } else { Self::from_trusted(text.text) }
    }
}

/// A text that may be null, whether a statement reads it as [`Text`] or not.
#[derive(Debug, Default)]
pub(in crate::postgres) struct MaybeText(pub Option<Text>);

impl From<Option<Text>> for MaybeText {
    fn from(text: Option<Text>) -> Self {
        Self(text)
    }
}

impl From<Option<String>> for MaybeText {
    fn from(text: Option<String>) -> Self {
        Self(text.map(Text::from))
    }
}

impl MaybeText {
    pub fn into_string(self) -> Option<String> {
        self.0.map(|text| text.text)
    }
}

/// The earliest time that PostgreSQL has, within a day: what is read can be sent back.
pub(in crate::postgres) const EARLIEST: DateTime<Utc> = match chrono::NaiveDate::from_ymd_opt(-4712, 1, 2) {
    Some(date) => date.and_time(chrono::NaiveTime::MIN).and_utc(),
    None => DateTime::<Utc>::MIN_UTC,
};

/// Microseconds since 2000-01-01 UTC, as the wire has them.
fn from_postgres_micros(micros: i64) -> DateTime<Utc> {
    const EPOCH_UNIX_SECONDS: i64 = 946_684_800;
    micros
        .checked_add(EPOCH_UNIX_SECONDS * 1_000_000)
        .and_then(DateTime::from_timestamp_micros)
        .unwrap_or(if micros < 0 { EARLIEST } else { DateTime::<Utc>::MAX_UTC })
        .max(EARLIEST)
}

/// One job as the statements in this room select it.
#[derive(Debug)]
pub(in crate::postgres) struct JobRow {
    pub id: i64,
    pub task: Text,
    pub queue: Option<Text>,
    pub payload: Text,
    pub priority: i16,
    pub run_at: Timestamp,
    pub attempts: i16,
    pub max_attempts: i16,
    pub last_error: Option<Text>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub key: Option<Text>,
    pub revision: i32,
    pub flags: Option<Text>,
    pub locked_at: Option<Timestamp>,
    pub locked_by: Option<Text>,
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let mut job = Job::new(row.id, row.task.text, row.payload.into(), row.created_at.0);
        job.queue = row.queue.map(|queue| queue.text);
        job.priority = Priority(row.priority);
        job.run_at = row.run_at.0;
        job.attempts = row.attempts;
        job.max_attempts = row.max_attempts;
        job.last_error = row.last_error.map(|error| error.text);
        job.updated_at = row.updated_at.0;
        job.key = row.key.map(|key| key.text);
        job.revision = row.revision;
        job.flags = row.flags.map(|flags| flag_names(&flags.text)).unwrap_or_default();
        job.locked_at = row.locked_at.map(|time| time.0);
        job.locked_by = row.locked_by.map(|worker| worker.text);
        job
    }
}

/// The token of a claim: its moment, of which no job has two.
pub(in crate::postgres) fn token(locked_at: DateTime<Utc>) -> ClaimToken {
    ClaimToken::from_number(locked_at.timestamp_micros())
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
/// checked macros take literals only. `payload: "…"` before it reads something else as the payload.
macro_rules! jobs {
    ($with:literal, $from:literal $(, $argument:expr)* $(,)?) => {
        $crate::postgres::connection::row::jobs!(payload: "job.payload::text", $with, $from $(, $argument)*)
    };
    (payload: $payload:literal, $with:literal, $from:literal $(+ $more:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::postgres::connection::row::JobRow,
            $with
            + r#"
select
  -- A database that checks no texts sends bytes that are no UTF-8 only to a client that asks for no encoding. Asked once, before the
  -- first row is sent, and for this transaction.
  case when (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is null then job.id else job.id end as "id!",
  task.identifier as "task!: crate::postgres::connection::row::Text",
  queue.queue_name as "queue?: crate::postgres::connection::row::Text",
  "#
            + $payload
            + r#" as "payload!: crate::postgres::connection::row::Text",
  job.priority as "priority!",
  job.run_at as "run_at!: crate::postgres::connection::row::Timestamp",
  job.attempts as "attempts!",
  job.max_attempts as "max_attempts!",
  job.last_error as "last_error?: crate::postgres::connection::row::Text",
  job.created_at as "created_at!: crate::postgres::connection::row::Timestamp",
  job.updated_at as "updated_at!: crate::postgres::connection::row::Timestamp",
  job.key as "key?: crate::postgres::connection::row::Text",
  job.revision as "revision!",
  job.flags::text as "flags?: crate::postgres::connection::row::Text",
  job.locked_at as "locked_at?: crate::postgres::connection::row::Timestamp",
  job.locked_by as "locked_by?: crate::postgres::connection::row::Text"
"#
            + $from $(+ $more)*
            $(, $argument)*
        )
    };
}
pub(in crate::postgres) use jobs;

/// Jobs that are moved, one array per value.
#[derive(Default)]
pub(in crate::postgres) struct Moved<'a> {
    pub task: Vec<&'a str>,
    pub queue: Vec<Option<&'a str>>,
    pub payload: Vec<&'a str>,
    pub priority: Vec<i16>,
    pub run_at: Vec<DateTime<Utc>>,
    pub attempts: Vec<i16>,
    pub max_attempts: Vec<i16>,
    pub last_error: Vec<Option<&'a str>>,
    pub created_at: Vec<DateTime<Utc>>,
    pub updated_at: Vec<DateTime<Utc>>,
    pub key: Vec<Option<&'a str>>,
    pub revision: Vec<i32>,
    pub flags: Vec<Option<String>>,
}

impl<'a> Moved<'a> {
    pub fn of(jobs: impl Iterator<Item = &'a Job>) -> Self {
        let mut columns = Self::default();
        for job in jobs {
            columns.task.push(&job.task);
            columns.queue.push(job.queue.as_deref());
            columns.payload.push(job.payload.as_str());
            columns.priority.push(job.priority.0);
            columns.run_at.push(job.run_at);
            columns.attempts.push(job.attempts);
            columns.max_attempts.push(job.max_attempts);
            columns.last_error.push(job.last_error.as_deref());
            columns.created_at.push(job.created_at);
            columns.updated_at.push(job.updated_at);
            columns.key.push(job.key.as_deref());
            columns.revision.push(job.revision);
            columns.flags.push((!job.flags.is_empty()).then(|| serde_json::Value::from(job.flags.clone()).to_string()));
        }
        columns
    }
}

impl Database {
    /// Stores jobs that are moved, whose tasks and queues are named; returns how many were stored.
    pub(in crate::postgres) async fn insert_moved(
        &self,
        conn: &mut PgConnection,
        moved: &Moved<'_>,
    ) -> sqlx::Result<i64> {
        sqlx::query_scalar!(
            r#"
with stored as (
  insert into graphile_worker._private_jobs (
    task_id, job_queue_id, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key,
    revision, flags
  )
  select
    task.id, queue.id, moved.payload::json, moved.priority, moved.run_at, moved.attempts, moved.max_attempts,
    moved.last_error, moved.created_at, moved.updated_at, moved.key, moved.revision,
    (select jsonb_object_agg(flag, true) from jsonb_array_elements_text(moved.flags::jsonb) as flag)
  from unnest(
    $1::text[], $2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::smallint[], $7::smallint[], $8::text[],
    $9::timestamptz[], $10::timestamptz[], $11::text[], $12::integer[], $13::text[]
  ) with ordinality as moved (
    task, queue, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key, revision, flags,
    place
  )
  join graphile_worker._private_tasks task on task.identifier = moved.task
  left join graphile_worker._private_job_queues queue on queue.queue_name = moved.queue
  where moved.queue is null or queue.id is not null
  order by moved.place
  returning id
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || count(*)::text || '}')
  from stored
  having count(*) > 0
)
select count(stored.id) as "stored!" from stored left join notified on true
"#,
            &moved.task as &[&str],
            &moved.queue as &[Option<&str>],
            &moved.payload as &[&str],
            &moved.priority,
            &moved.run_at,
            &moved.attempts,
            &moved.max_attempts,
            &moved.last_error as &[Option<&str>],
            &moved.created_at,
            &moved.updated_at,
            &moved.key as &[Option<&str>],
            &moved.revision,
            &moved.flags as &[Option<String>],
        )
        .fetch_one(self.schema.on(conn))
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_saturate() {
        assert_eq!(from_postgres_micros(0).to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(from_postgres_micros(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(from_postgres_micros(i64::MIN), EARLIEST);
        assert_eq!(EARLIEST.to_rfc3339(), "-4712-01-02T00:00:00+00:00");
    }

    #[test]
    fn absurd_flags_are_no_flags() {
        assert_eq!(flag_names(r#"{"b":true,"a":true}"#), ["a", "b"]);
        for absurd in ["[1]", "3", "null", "\"x\""] {
            assert!(flag_names(absurd).is_empty());
        }
    }
}
