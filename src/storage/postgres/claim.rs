//! Taking jobs.
//!
//! One statement chooses, locks and marks jobs. What makes it safe beside any number of other claimers, ours or
//! Node's:
//!
//! - Candidate jobs are locked with `for update skip locked`: two claimers never consider the same row.
//! - A serial queue is guarded by its *queue row*: it is locked the same way, must still be free when the lock is
//!   held, and is marked in the same statement as the job. Whoever does not get the row leaves the queue's jobs
//!   alone. At most one job per queue is kept, whatever the batch size.
//! - Nobody waits: every lock is taken or skipped, so claimers cannot deadlock.
//!
//! Only the queue rows of the candidates are locked. (Node's fetch locks every free queue's row, so that two
//! fetches at once see no queues at all and one goes away empty.)

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgConnection;

use super::PostgresStorage;
use super::row::{JobRow, Timestamp};
use crate::error::Result;
use crate::job::Job;
use crate::storage::{ClaimRequest, Claimed, Place, PoolId};

impl PostgresStorage {
    #[expect(clippy::too_many_lines, reason = "one statement, best read in one piece")]
    /// Takes jobs from this place of the line on, and tells how long it walked to find them.
    pub(super) async fn claim_jobs(
        &self,
        conn: &mut PgConnection,
        request: &ClaimRequest<'_>,
        place: Option<Place>,
    ) -> Result<(Claimed, Duration)> {
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let (limited, rooms): (Vec<String>, Vec<i64>) =
            request.limits.iter().map(|(task, room)| (task.clone(), i64::try_from(*room).unwrap_or(i64::MAX))).unzip();
        let forbidden = (!request.forbidden_flags.is_empty()).then_some(request.forbidden_flags);
        let rows = sqlx::query_as!(
            Row,
            r#"
-- Only a registered pool may claim: one that was taken for dead must not hold anything that nobody would rescue. The
-- lock keeps a rescuer (who deletes the row) out until we commit, and does not disturb the sign of life (which does not
-- touch the key).
with registered as materialized (
  select pool.id
  from graphile_worker.backfill_pools pool
  where pool.id = $1
    and pool.seen_at > 'epoch'
    -- The answer is sent before the transaction ends. Where nobody takes it (a process that is stopped, a machine that is
    -- gone), the server's system gives the connection up after these milliseconds, and with it all locks; it would wait for a
    -- quarter of an hour, or for ever. For this transaction only, so nothing stays behind in a pooler.
    and set_config('tcp_user_timeout', '10000', true) is not null
  for key share
),
served as materialized (
  -- The moment from which the walk is timed: whoever was waited for above is not part of it.
  select task.id, task.identifier, wanted.room, clock_timestamp() as begun
  from graphile_worker._private_tasks task
  left join unnest($4::text[], $5::bigint[]) as wanted (identifier, room) on wanted.identifier = task.identifier
  where task.identifier = any ($2)
    and exists (select from registered)
),
-- The walk over jobs_main_index. The queue's state is asked row by row (a scalar subquery cannot be turned into
-- a hash of all queues), so the cost does not grow with the number of queues.
candidate as materialized (
  select job.id, job.job_queue_id, job.task_id, job.priority, job.run_at, job.payload,
    job.attempts + 1 >= job.max_attempts as is_last
  from graphile_worker._private_jobs job
  where job.is_available = true
    and job.run_at <= coalesce($7::timestamptz, now())
    -- The frontier: both columns of the index at once, so that the walk begins there.
    and (job.priority, job.run_at) >= ($8::smallint, coalesce($9::timestamptz, '-infinity'))
    and job.task_id = any (array(select served.id from served))
    and (
      job.job_queue_id is null
      or (
        select queue.is_available
        from graphile_worker._private_job_queues queue
        where queue.id = job.job_queue_id
      )
    )
    and ($6::text[] is null or job.flags is null or not job.flags ?| $6::text[])
  order by job.priority, job.run_at
  -- A limit that the planner cannot see counts as a tenth of everything, so the walk in the index's order always looks
  -- better than sorting, whether or not the table has statistics.
  limit (select $3::bigint)
  for update of job skip locked
),
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
-- How long the walk took: reading how many there are makes it end.
walked as materialized (
  select (select count(*) from candidate) as candidates, clock_timestamp() - (select min(served.begun) from served) as took
),
-- The bytes are not those that are stored, which may be compressed to a hundredth. To unpack them is no part of the walk.
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
-- Of tasks with a limit of their own, what is beyond it. (No task has one, as a rule, and then nothing is ranked.) A claim
-- that meets the limit takes something, and the next one leaves the task out, so this never turns in circles.
excess as materialized (
  select ranked.id
  from (
    select takeable.id, takeable.task_id,
      row_number() over (partition by takeable.task_id order by takeable.priority, takeable.run_at, takeable.id) as place
    from takeable
    where takeable.task_id = any (array(select served.id from served where served.room is not null))
  ) as ranked
  join served on served.id = ranked.task_id
  where ranked.place > served.room
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
    where (select totals.bytes from totals) > $10
  ) as summed
  where summed.so_far > $10 and summed.so_far > summed.bytes
),
-- From the first job on that has its last attempt before it and would have to wait for a slot: also rare.
risky as materialized (
  select ranked.id
  from (
    select placed.id, bool_or(placed.is_last and placed.place > $11) over (order by placed.place) as is_behind
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
-- Four kinds of rows, joined and sorted by who reads them: one that always comes (how many candidates there were, even
-- when none could be taken, and the moment of the claim), the names of the tasks, the names of the queues, and the jobs.
select
  null::bigint as "id?",
  null::integer as "task_id?",
  null::integer as "queue_id?",
  (select walked.candidates from walked) as "candidates?",
  null::text as "text?",
  null::smallint as "priority?",
  now() as "run_at?: Timestamp",
  null::smallint as "attempts?",
  null::smallint as "max_attempts?",
  null::text as "last_error?",
  null::timestamptz as "created_at?: Timestamp",
  null::timestamptz as "updated_at?: Timestamp",
  null::text as "key?",
  -- Whether jobs were left: 2 for their last attempts, 1 for their bytes.
  case when exists (select from risky) then 2 when exists (select from heavy) then 1 end as "revision?",
  null::text as "flags?",
  (extract(epoch from (select walked.took from walked)) * 1000000)::bigint as "walk?"
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
            &limited,
            &rooms,
            forbidden,
            request.now,
            place.map_or(i16::MIN, |place| place.0),
            place.map(|place| place.1),
            i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
            i64::try_from(request.free_slots).unwrap_or(i64::MAX),
        )
        .fetch_all(self.schema.on(conn))
        .await
        .map_err(|e| self.error("claim jobs", e))?;
        Ok(read(request.pool, limit, rows))
    }
}

/// One of the kinds of rows that a claim answers; which one, its empty fields tell.
struct Row {
    id: Option<i64>,
    task_id: Option<i32>,
    queue_id: Option<i32>,
    candidates: Option<i64>,
    /// The payload of a job, or the name of a task or queue.
    text: Option<String>,
    priority: Option<i16>,
    /// Of the row that always comes, the moment of the claim. (And `revision` tells whether jobs were left.)
    run_at: Option<Timestamp>,
    attempts: Option<i16>,
    max_attempts: Option<i16>,
    last_error: Option<String>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    key: Option<String>,
    revision: Option<i32>,
    flags: Option<String>,
    /// In microseconds.
    walk: Option<i64>,
}

/// The jobs in the order in which they should start, whether there may be more, and how long the walk took.
fn read(pool: &PoolId, limit: i64, rows: Vec<Row>) -> (Claimed, Duration) {
    let (mut tasks, mut queues, mut of_jobs) = (HashMap::new(), HashMap::new(), Vec::with_capacity(rows.len()));
    let (mut more, mut for_free_slots, mut locked_at, mut walk) = (false, false, None, Duration::ZERO);
    for row in rows {
        match (row.id, row.task_id, row.queue_id) {
            (Some(_), _, _) => of_jobs.push(row),
            (None, Some(task), _) => drop(tasks.insert(task, row.text.unwrap_or_default())),
            (None, None, Some(queue)) => drop(queues.insert(queue, row.text.unwrap_or_default())),
            (None, None, None) => {
                more = row.candidates.unwrap_or_default() >= limit || row.revision.is_some();
                for_free_slots = row.revision == Some(2);
                locked_at = row.run_at;
                walk = Duration::from_micros(row.walk.and_then(|micros| micros.try_into().ok()).unwrap_or_default());
            }
        }
    }
    let mut jobs: Vec<Job> = of_jobs.into_iter().filter_map(|row| job(pool, locked_at, &tasks, &queues, row)).collect();
    jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
    (Claimed { jobs, more, for_free_slots, look_again: None }, walk)
}

fn job(
    pool: &PoolId,
    locked_at: Option<Timestamp>,
    tasks: &HashMap<i32, String>,
    queues: &HashMap<i32, String>,
    row: Row,
) -> Option<Job> {
    Some(Job::from(JobRow {
        id: row.id?,
        task: tasks.get(&row.task_id?)?.clone(),
        queue: row.queue_id.and_then(|queue| queues.get(&queue).cloned()),
        payload: row.text?,
        priority: row.priority?,
        run_at: row.run_at?,
        attempts: row.attempts?,
        max_attempts: row.max_attempts?,
        last_error: row.last_error,
        created_at: row.created_at?,
        updated_at: row.updated_at?,
        key: row.key,
        revision: row.revision?,
        flags: row.flags,
        locked_at,
        locked_by: Some(pool.as_str().to_owned()),
    }))
}
