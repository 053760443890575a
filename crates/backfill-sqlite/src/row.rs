//! Reading rows.

use backfill_core::job::{Job, Payload, Priority};

use crate::file::time;

/// One job as the statements of this crate select it.
pub(crate) struct JobRow {
    pub id: i64,
    pub task: String,
    pub queue: Option<String>,
    pub payload: String,
    pub priority: i64,
    pub run_at: i64,
    pub attempts: i64,
    pub max_attempts: i64,
    pub last_error: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub key: Option<String>,
    pub revision: i64,
    pub flags: Option<String>,
    pub locked_at: Option<i64>,
    pub locked_by: Option<String>,
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let mut job = Job::new(row.id, row.task, Payload::from_trusted(row.payload), time(row.created_at));
        job.queue = row.queue;
        job.priority = Priority(small(row.priority));
        job.run_at = time(row.run_at);
        job.attempts = small(row.attempts);
        job.max_attempts = small(row.max_attempts);
        job.last_error = row.last_error;
        job.updated_at = time(row.updated_at);
        job.key = row.key;
        job.revision = i32::try_from(row.revision).unwrap_or(i32::MAX);
        job.flags = row.flags.as_deref().map(flag_names).unwrap_or_default();
        job.locked_at = row.locked_at.map(time);
        job.locked_by = row.locked_by;
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
  id as "id!", task as "task!", queue as "queue?", payload as "payload!", priority as "priority!: i64",
  run_at as "run_at!: i64", attempts as "attempts!: i64", max_attempts as "max_attempts!: i64", last_error as "last_error?",
  created_at as "created_at!: i64", updated_at as "updated_at!: i64", key as "key?", revision as "revision!: i64",
  flags as "flags?", locked_at as "locked_at?: i64", locked_by as "locked_by?"
"#
            + $after
            $(, $argument)*
        )
    };
}
pub(crate) use jobs;
