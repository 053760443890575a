//! Storing one job that has neither key nor queue: what most calls of `add` do.
//!
//! It is what [`add_plain`](super::add_plain) does, in two thirds of the time of a call: most of the other statement's time for
//! a single job is spent on making its parts for arrays, names and queues ready.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::connection::row::Timestamp;
use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::{Job, NewJob, RunAt};

/// How the statements begin that store one job: `store_one!(Answer, "the rest", task, arguments…)`. It is a macro because the checked
/// macros take literals only.
///
/// The first argument is the task's name; the rest can use the relation `task`, its row. It is empty if another transaction is the
/// first to use the name at this very moment. And it has to store nothing where `guard` stands.
///
/// Locking: none but of the task's name if it is new, against other first users of it. Table locks are those of inserts in both
/// tables, taken before the snapshot: `cleanup`, which locks the names' table, relies on it.
macro_rules! store_one {
    ($answer:ty, $rest:literal, $task:expr $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $answer,
            r#"
with
-- Only if it is missing: a conflicting insert would burn an id of a 32-bit sequence.
new_task as (
  insert into graphile_worker._private_tasks (identifier)
  select $1::text
  where not exists (select from graphile_worker._private_tasks known where known.identifier = $1)
  on conflict do nothing
  returning id
),
task as (
  select new_task.id from new_task
  union all
  select known.id from graphile_worker._private_tasks known where known.identifier = $1
),
-- Whether a trigger may change rows, or leave them out, before they are stored. (Bits of tgtype: 1 for each row, 2 before, 4 insert,
-- 16 update.) Then nothing is stored here; see `add_guarded`.
guard as materialized (
  select exists (
    select from pg_catalog.pg_trigger trigger
    where trigger.tgrelid = 'graphile_worker._private_jobs'::regclass
      and trigger.tgenabled <> 'D'
      and trigger.tgtype::integer & 3 = 3
      and trigger.tgtype::integer & 20 <> 0
  ) as stands
),
"#
            + $rest,
            $task
            $(, $argument)*
        )
    };
}
pub(super) use store_one;

impl PostgresStorage {
    /// Stores a job without key and queue, which is at this place of a batch; `None` if another transaction was the first to use
    /// its task's name at this very moment, or a trigger wants another way.
    pub(super) async fn insert_one(&self, conn: &mut PgConnection, job: &NewJob, place: usize) -> Result<Option<Job>> {
        let (time, delay) = match job.run_at {
            None => (None, 0),
            Some(RunAt::Time(time)) => (Some(time), 0),
            Some(RunAt::In(delay)) => (None, micros(delay)),
        };
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let with_true = |flag: &String| (flag.clone(), serde_json::Value::Bool(true));
        let flags =
            (!job.flags.is_empty()).then(|| job.flags.iter().map(with_true).collect::<serde_json::Value>().to_string());
        let stored = store_one!(
            Stored,
            r#"
job as (
  insert into graphile_worker._private_jobs as job (task_id, payload, run_at, max_attempts, priority, flags)
  select
    task.id,
    $2::text::json,
    coalesce($3::timestamptz, now() + $4::bigint * interval '1 microsecond'),
    $5::smallint,
    $6::smallint,
    $7::text::jsonb
  from task
  where not (select guard.stands from guard)
  returning job.id, job.run_at
)
select
  job.id,
  job.run_at as "run_at: Timestamp",
  now() as "now!: Timestamp",
  -- The text is Graphile's; it differs each time, because equal notifications of one transaction are merged. Messages tell of their
  -- lines themselves (`messages/write.rs`).
  case when current_setting('backfill.lines', true) is distinct from 'told'
    then pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":1}')
  end is null as "notified!"
from job
"#,
            job.task,
            job.payload.as_str(),
            time as Option<DateTime<Utc>>,
            delay.saturating_add(place),
            job.max_attempts,
            job.priority.0,
            flags,
        )
        .fetch_optional(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("store a job", e))?;
        Ok(stored.map(|stored| job.stored(stored.id, stored.run_at.0, stored.now.0)))
    }
}

struct Stored {
    id: i64,
    run_at: Timestamp,
    now: Timestamp,
    #[expect(dead_code, reason = "it is read by the database, which notifies nobody otherwise")]
    notified: bool,
}
