//! What may be taken of the candidates.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::super::PostgresStorage;
use super::answer::Reader;
use super::claim;
use crate::error::Result;
use crate::storage::{ClaimRequest, Claimed};

impl PostgresStorage {
    #[expect(clippy::too_many_lines, reason = "one statement, best read in one piece")]
    /// Takes as many of the first jobs as may be taken.
    pub(super) async fn claim_carefully(
        &self,
        conn: &mut PgConnection,
        request: &ClaimRequest<'_>,
        place: (i16, Option<DateTime<Utc>>),
    ) -> Result<(Claimed, Duration)> {
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let (limited, rooms): (Vec<String>, Vec<i64>) =
            request.limits.iter().map(|(task, room)| (task.clone(), i64::try_from(*room).unwrap_or(i64::MAX))).unzip();
        let forbidden = (!request.forbidden_flags.is_empty()).then_some(request.forbidden_flags);
        let mut rows = claim!(
            r#"
-- Reading is_available under the lock: a queue that was taken since the snapshot drops out here.
free_queue as materialized (
  select queue.id
  from graphile_worker._private_job_queues queue
  where queue.id = any (array(select candidate.job_queue_id from candidate))
    and queue.is_available = true
  for update of queue skip locked
),
first_of_queue as materialized (
  select distinct on (candidate.job_queue_id) candidate.id
  from candidate
  join free_queue on free_queue.id = candidate.job_queue_id
  order by candidate.job_queue_id, candidate.priority, candidate.run_at, candidate.id
),
takeable as materialized (
  select candidate.id, candidate.task_id, candidate.priority, candidate.run_at, octet_length(candidate.payload::text) as bytes,
    candidate.is_last
  from walked
  cross join candidate
  where walked.candidates > 0
    and (
      candidate.job_queue_id is null
      or candidate.id = any (array(select first_of_queue.id from first_of_queue))
    )
),
-- The tasks with a limit of their own, as a rule none.
room as materialized (
  select served.id, wanted.room
  from unnest($10::text[], $11::bigint[]) as wanted (identifier, room)
  join served on served.identifier = wanted.identifier
),
-- Of their jobs, what is beyond it. A claim that meets the limit takes something, and the next one leaves the task
-- out, so this never turns in circles.
excess as materialized (
  select ranked.id
  from (
    select takeable.id, takeable.task_id,
      row_number() over (partition by takeable.task_id order by takeable.priority, takeable.run_at, takeable.id) as place
    from takeable
    where takeable.task_id = any (array(select room.id from room))
  ) as ranked
  join room on room.id = ranked.task_id
  where ranked.place > room.room
),
wanted as not materialized (
  select takeable.* from takeable where takeable.id <> all (array(select excess.id from excess))
),
totals as materialized (
  select sum(wanted.bytes) as bytes, bool_or(wanted.is_last) as has_last from wanted
),
-- What would be too many bytes together, but for the first: rarely anything, and then nothing is summed up one by one.
heavy as materialized (
  select summed.id
  from (
    select wanted.id, wanted.bytes,
      sum(wanted.bytes) over (order by wanted.priority, wanted.run_at, wanted.id) as so_far
    from wanted
    where (select totals.bytes from totals) > $8
  ) as summed
  where summed.so_far > $8 and summed.so_far > summed.bytes
),
-- From the first job on that has its last attempt before it and would have to wait for a slot: also rare.
risky as materialized (
  select ranked.id
  from (
    select placed.id, bool_or(placed.is_last and placed.place > $9) over (order by placed.place) as is_behind
    from (
      select wanted.id, wanted.is_last,
        row_number() over (order by wanted.priority, wanted.run_at, wanted.id) as place
      from wanted
      where (select totals.has_last from totals)
    ) as placed
  ) as ranked
  where ranked.is_behind
),
chosen as materialized (
  select wanted.id
  from wanted
  where wanted.id <> all (array(select heavy.id from heavy))
    and wanted.id <> all (array(select risky.id from risky))
),
locked_queue as (
  update graphile_worker._private_job_queues queue
  set locked_by = $1, locked_at = now()
  where queue.id = any (array(
    select candidate.job_queue_id from candidate
    where candidate.job_queue_id is not null
      and candidate.id = any (array(select chosen.id from chosen))
  ))
  returning queue.id, queue.queue_name
),
-- `= any (array(…))` rather than a join: the planner expects ten elements and always uses the primary key, with
-- or without statistics.
job as (
  update graphile_worker._private_jobs job
  set attempts = job.attempts + 1, locked_by = $1, locked_at = now()
  where job.id = any (array(select chosen.id from chosen))
  returning job.id, job.task_id, job.job_queue_id, job.payload, job.priority, job.run_at, job.attempts, job.max_attempts,
    job.last_error, job.created_at, job.updated_at, job.key, job.revision, job.flags
)
-- Rows of several kinds, as `answer` reads them.
select
  null::bigint as "id?",
  null::integer as "task_id?",
  null::integer as "queue_id?",
  walked.candidates as "candidates?",
  null::text as "text?",
  null::smallint as "priority?",
  now() as "run_at?: crate::storage::postgres::row::Timestamp",
  null::smallint as "attempts?",
  null::smallint as "max_attempts?",
  null::text as "last_error?",
  null::timestamptz as "created_at?: crate::storage::postgres::row::Timestamp",
  null::timestamptz as "updated_at?: crate::storage::postgres::row::Timestamp",
  null::text as "key?",
  case when exists (select from risky) then 2 when exists (select from heavy) then 1 end as "revision?",
  null::text as "flags?",
  walked.took as "walk?"
from walked
union all
select null, served.id, null, null, served.identifier, null, null, null, null, null, null, null, null, null, null, null
from served
union all
select null, null, locked_queue.id, null, locked_queue.queue_name, null, null, null, null, null, null, null, null, null, null,
  null
from locked_queue
union all
select job.id, job.task_id, job.job_queue_id, null, job.payload::text, job.priority, job.run_at, job.attempts,
  job.max_attempts, job.last_error, job.created_at, job.updated_at, job.key, job.revision, job.flags::text, null
from job
"#,
            request.pool.as_str(),
            request.tasks,
            limit,
            forbidden,
            request.now,
            place.0,
            place.1,
            i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
            i64::try_from(request.free_slots).unwrap_or(i64::MAX),
            &limited,
            &rooms,
        )
        .fetch(self.schema.on(conn));
        let mut reader = Reader::new(request);
        while let Some(row) = rows.try_next().await.map_err(|e| self.error("claim jobs", e))? {
            reader.take(row);
        }
        let (claimed, walk) = reader.end();
        Ok((claimed.unwrap_or_default(), walk))
    }
}
