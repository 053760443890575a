//! Reading rows.

use std::borrow::Cow;

use backfill_core::job::{Job, Payload, Priority};
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Sqlite, Type};

use crate::file::time;

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
pub(crate) fn flags_text(flags: &[String]) -> Option<String> {
    (!flags.is_empty()).then(|| crate::json(flags.to_vec()))
}

/// A statement that answers jobs: what stands before the list of columns, and what after it. A macro, because the checked ones
/// take literals only.
macro_rules! jobs {
    ($before:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::row::JobRow,
            $before
            + r#"
  id as "id!", task as "task!: crate::row::Text", queue as "queue?: crate::row::Text", payload as "payload!: crate::row::Text", priority as "priority!: i64",
  run_at as "run_at!: i64", attempts as "attempts!: i64", max_attempts as "max_attempts!: i64", last_error as "last_error?: crate::row::Text",
  created_at as "created_at!: i64", updated_at as "updated_at!: i64", key as "key?: crate::row::Text", revision as "revision!: i64",
  flags as "flags?: crate::row::Text", locked_at as "locked_at?: i64", locked_by as "locked_by?: crate::row::Text"
"#
            + $after
            $(, $argument)*
        )
    };
}
pub(crate) use jobs;
