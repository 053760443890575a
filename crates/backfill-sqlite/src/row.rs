//! Rows of jobs: every statement that names all their columns, to read or to write them.

use std::borrow::Cow;

use backfill_core::job::{Job, Payload, Priority};
use serde_json::{Value, json};
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Sqlite, SqliteConnection, Type};

use crate::file::{micros, time};

/// A text that reads whatever bytes a row holds: SQLite checks nothing, and one such row must not stop the claims and lists of
/// others. What is no UTF-8 is read with replacement characters.
#[derive(Debug)]
pub(crate) struct Text {
    pub text: String,
    /// Whether characters were replaced.
    pub is_damaged: bool,
}

impl Type<Sqlite> for Text {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl<'r> Decode<'r, Sqlite> for Text {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = String::from_utf8_lossy(<&[u8] as Decode<Sqlite>>::decode(value)?);
        let is_damaged = matches!(text, Cow::Owned(_));
        Ok(Self { text: text.into_owned(), is_damaged })
    }
}

impl From<Text> for Payload {
    fn from(text: Text) -> Self {
        if text.is_damaged { Self::from_damaged(text.text) } else { Self::from_trusted(text.text) }
    }
}

/// One job as the statements of this crate select it.
pub(crate) struct JobRow {
    pub id: i64,
    pub task: Text,
    pub queue: Option<Text>,
    pub payload: Text,
    pub priority: i64,
    pub run_at: i64,
    pub attempts: i64,
    pub max_attempts: i64,
    pub last_error: Option<Text>,
    pub created_at: i64,
    pub updated_at: i64,
    pub key: Option<Text>,
    pub revision: i64,
    pub flags: Option<Text>,
    pub locked_at: Option<i64>,
    pub locked_by: Option<Text>,
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let mut job = Job::new(row.id, row.task.text, row.payload.into(), time(row.created_at));
        job.queue = row.queue.map(|queue| queue.text);
        job.priority = Priority(small(row.priority));
        job.run_at = time(row.run_at);
        job.attempts = small(row.attempts);
        job.max_attempts = small(row.max_attempts);
        job.last_error = row.last_error.map(|error| error.text);
        job.updated_at = time(row.updated_at);
        job.key = row.key.map(|key| key.text);
        job.revision = i32::try_from(row.revision).unwrap_or(i32::MAX);
        job.flags = row.flags.map(|flags| flag_names(&flags.text)).unwrap_or_default();
        job.locked_at = row.locked_at.map(time);
        job.locked_by = row.locked_by.map(|worker| worker.text);
        job
    }
}

/// Whoever edits the file by hand may write any number.
fn small(number: i64) -> i16 {
    i16::try_from(number).unwrap_or(if number < 0 { i16::MIN } else { i16::MAX })
}

fn flag_names(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Flags as they are stored.
fn flags_text(flags: &[String]) -> Option<String> {
    (!flags.is_empty()).then(|| crate::json(flags.to_vec()))
}

/// A statement that answers jobs: what stands before the list of columns, and what after it; before both, if it is not the column,
/// what is read as the payload. A macro, because the checked ones take literals only.
macro_rules! jobs {
    (payload: $payload:literal, $before:literal, $after:literal $(+ $more:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::row::JobRow,
            $before
            + r#"
  id as "id!", task as "task!: crate::row::Text", queue as "queue?: crate::row::Text", "#
            + $payload
            + r#" as "payload!: crate::row::Text", priority as "priority!: i64",
  run_at as "run_at!: i64", attempts as "attempts!: i64", max_attempts as "max_attempts!: i64", last_error as "last_error?: crate::row::Text",
  created_at as "created_at!: i64", updated_at as "updated_at!: i64", key as "key?: crate::row::Text", revision as "revision!: i64",
  flags as "flags?: crate::row::Text", locked_at as "locked_at?: i64", locked_by as "locked_by?: crate::row::Text"
"#
            + $after $(+ $more)*
            $(, $argument)*
        )
    };
    ($before:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        $crate::row::jobs!(payload: "payload", $before, $after $(, $argument)*)
    };
}
pub(crate) use jobs;

// What is written of a job, in five statements: new ones in bulk and alone, replaced ones, and moved ones in bulk and alone. The texts
// of what is written in bulk hold no large payloads.

/// A new job, for [`insert_new_ones`].
pub(crate) fn new_one(job: &Job) -> Value {
    json!([
        job.id,
        job.task,
        job.queue,
        job.payload.as_str(),
        job.priority.0,
        micros(job.run_at),
        job.max_attempts,
        micros(job.created_at),
        flags_text(&job.flags)
    ])
}

/// Inserts new jobs without keys.
pub(crate) async fn insert_new_ones(connection: &mut SqliteConnection, rows: Vec<Value>) -> sqlx::Result<u64> {
    let rows = Value::from(rows).to_string();
    let inserted = sqlx::query!(
        r#"
insert into backfill_jobs (id, task, queue, payload, priority, run_at, max_attempts, created_at, updated_at, flags)
select
  value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 7, value ->> 8
from json_each(?1)
"#,
        rows,
    );
    Ok(inserted.execute(connection).await?.rows_affected())
}

/// Inserts one new job.
pub(crate) async fn insert_new(connection: &mut SqliteConnection, job: &Job) -> sqlx::Result<u64> {
    let (id, payload, flags) = (job.id.number(), job.payload.as_str(), flags_text(&job.flags));
    let (run_at, now) = (micros(job.run_at), micros(job.created_at));
    let inserted = sqlx::query!(
        r#"
insert into backfill_jobs (id, task, queue, payload, priority, run_at, max_attempts, created_at, updated_at, flags, key)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10)
"#,
        id,
        job.task,
        job.queue,
        payload,
        job.priority.0,
        run_at,
        job.max_attempts,
        now,
        flags,
        job.key,
    );
    Ok(inserted.execute(connection).await?.rows_affected())
}

/// Writes a waiting job that a new one with its key has replaced.
pub(crate) async fn update_replaced(connection: &mut SqliteConnection, job: &Job) -> sqlx::Result<Option<JobRow>> {
    let (id, payload, flags) = (job.id.number(), job.payload.as_str(), flags_text(&job.flags));
    let (run_at, now) = (micros(job.run_at), micros(job.updated_at));
    let row = jobs!(
        r#"
update backfill_jobs set
  task = ?2, queue = ?3, payload = ?4, priority = ?5, run_at = ?6, max_attempts = ?7, flags = ?8,
  attempts = 0, last_error = null, revision = revision + 1, updated_at = ?9
where id = ?1
returning
"#,
        "",
        id,
        job.task,
        job.queue,
        payload,
        job.priority.0,
        run_at,
        job.max_attempts,
        flags,
        now,
    );
    row.fetch_optional(connection).await
}

/// A job that was moved, for [`insert_moved_ones`].
pub(crate) fn moved_one(job: &Job) -> Value {
    json!([
        job.task,
        job.queue,
        job.payload.as_str(),
        job.priority.0,
        micros(job.run_at),
        job.attempts,
        job.max_attempts,
        job.last_error,
        micros(job.created_at),
        micros(job.updated_at),
        job.key,
        job.revision,
        flags_text(&job.flags)
    ])
}

/// Inserts moved jobs, as they are.
pub(crate) async fn insert_moved_ones(connection: &mut SqliteConnection, rows: Vec<Value>) -> sqlx::Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let rows = Value::from(rows).to_string();
    let inserted = sqlx::query!(
        r#"
insert into backfill_jobs (
  task, queue, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key, revision, flags
)
select
  value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
  value ->> 9, value ->> 10, value ->> 11, value ->> 12
from json_each(?1)
"#,
        rows
    );
    Ok(inserted.execute(connection).await?.rows_affected())
}

/// Inserts one moved job, as it is.
pub(crate) async fn insert_moved(connection: &mut SqliteConnection, job: &Job) -> sqlx::Result<u64> {
    let (payload, flags) = (job.payload.as_str(), flags_text(&job.flags));
    let (run_at, created_at, updated_at) = (micros(job.run_at), micros(job.created_at), micros(job.updated_at));
    let inserted = sqlx::query!(
        r#"
insert into backfill_jobs (
  task, queue, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key, revision, flags
)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
"#,
        job.task,
        job.queue,
        payload,
        job.priority.0,
        run_at,
        job.attempts,
        job.max_attempts,
        job.last_error,
        created_at,
        updated_at,
        job.key,
        job.revision,
        flags,
    );
    Ok(inserted.execute(connection).await?.rows_affected())
}
