//! One part of a walk: the statements that choose jobs and mark them, in a transaction.

use std::collections::BTreeSet;
use std::time::Instant;

use backfill_core::job::Job;
use backfill_core::storage::{ClaimToken, Claimed, ClaimedJob};
use sqlx::SqliteConnection;

use super::{CHEAP, MANY, MAX_IN_RUNS, Part, Request, Row};
use crate::file::MonotonicClock;
use crate::row::jobs;

/// The next jobs of a serial queue behind its first, up to the first that may not be taken: of another worker's task, of a task with a
/// limit of its own, with a forbidden flag, or in its last attempt.
async fn rest_of_run(
    connection: &mut SqliteConnection,
    request: &Request,
    queue: &str,
    ready_by: i64,
) -> sqlx::Result<Vec<(i64, usize)>> {
    let limit = i64::try_from(request.run_length).unwrap_or(i64::MAX).saturating_sub(1);
    let limited = crate::json(request.rooms.keys().cloned().collect::<Vec<_>>());
    let next = sqlx::query!(
        r#"
select
  job.id as "id!: i64",
  octet_length(job.payload) as "bytes!: i64",
  (
    job.attempts + 1 < job.max_attempts
    and job.task in (select value from json_each(?3))
    and job.task not in (select value from json_each(?5))
    and (
      ?4 is null
      or job.flags is null
      or not exists (
        select 1 from json_each(job.flags) flag where flag.value in (select forbidden.value from json_each(?4) forbidden)
      )
    )
  ) as "may_be_taken!: bool"
from backfill_jobs job indexed by backfill_jobs_queue
where job.queue = ?1
  and job.locked_at is null
  and job.attempts < job.max_attempts
  and job.run_at <= ?2
order by job.priority, job.run_at, job.id
limit ?6 offset 1
"#,
        queue,
        ready_by,
        request.tasks,
        request.forbidden,
        limited,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let taken = next.into_iter().take_while(|job| job.may_be_taken);
    Ok(taken.map(|job| (job.id, usize::try_from(job.bytes).unwrap_or_default())).collect())
}

/// The row of a part of the walk that has this number, if the part is so long. Only the index is read.
async fn row_of_part(
    connection: &mut SqliteConnection,
    request: &Request,
    ready_by: i64,
    number: u32,
) -> sqlx::Result<Option<Row>> {
    let before = i64::from(number) - 1;
    let last = sqlx::query!(
        r#"
with recursive priority (value) as (
  select (
    select job.priority
    from backfill_jobs job indexed by backfill_jobs_line
    where job.locked_at is null and job.attempts < job.max_attempts and job.priority >= ?2
    order by job.priority
    limit 1
  )
  union all
  select (
    select job.priority
    from backfill_jobs job indexed by backfill_jobs_line
    where job.locked_at is null and job.attempts < job.max_attempts and job.priority > priority.value
    order by job.priority
    limit 1
  )
  from priority
  where priority.value is not null
)
select line.priority as "priority!: i64", line.run_at as "run_at!: i64", line.id as "id!: i64"
from priority
cross join backfill_jobs line indexed by backfill_jobs_line
where line.priority = priority.value
  and line.locked_at is null
  and line.attempts < line.max_attempts
  and line.run_at <= ?1
  -- As in `claim`.
  and (line.run_at, line.id) > (
    max(
      case when priority.value = ?2 then ?3 else -9223372036854775808 end,
      case when priority.value < ?6 then ?7 when priority.value = ?6 then ?8 else -9223372036854775808 end
    ),
    case
      when priority.value = ?2 and ?3 >= case when priority.value < ?6 then ?7 when priority.value = ?6 then ?8 else -9223372036854775808 end then ?4
      else -9223372036854775808
    end
  )
limit 1 offset ?5
"#,
        ready_by,
        request.from.0,
        request.from.1,
        request.from.2,
        before,
        request.passed.priority,
        request.passed.since,
        request.passed.until,
    )
    .fetch_optional(connection)
    .await?;
    Ok(last.map(|row| (row.priority, row.run_at, row.id)))
}

#[expect(clippy::too_many_lines, reason = "mostly one statement, best read in one piece")]
pub(super) async fn claim(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    request: Request,
) -> sqlx::Result<Part> {
    let now = clock.now();
    let ready_by = request.now.unwrap_or(now);
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    let begun = Instant::now();
    // The walk: priority by priority, each through its part of the line up to the present, so that jobs of the future are not
    // even looked at. The outer loop of a cross join is the left side, which a recursion gives in its own order; so the
    // candidates come in theirs, and the limit cuts the last ones off. (The index is named so that nothing is ever sorted.)
    let candidates = sqlx::query!(
        r#"
with recursive priority (value) as (
  select (
    select job.priority
    from backfill_jobs job indexed by backfill_jobs_line
    where job.locked_at is null and job.attempts < job.max_attempts and job.priority >= ?6
    order by job.priority
    limit 1
  )
  union all
  select (
    select job.priority
    from backfill_jobs job indexed by backfill_jobs_line
    where job.locked_at is null and job.attempts < job.max_attempts and job.priority > priority.value
    order by job.priority
    limit 1
  )
  from priority
  where priority.value is not null
)
select
  job.id as "id!: i64",
  job.task as "task!: String",
  job.queue as "queue?: crate::row::Text",
  job.priority as "priority!: i64",
  job.run_at as "run_at!: i64",
  octet_length(job.payload) as "bytes!: i64",
  job.attempts + 1 >= job.max_attempts as "is_last!: bool"
from (
  -- One part of the walk, as it stands in the index. Its limit is below everything that leaves rows out, so it bounds the work. (A
  -- part with a limit is never merged with what is around it.)
  select line.id
  from priority
  cross join backfill_jobs line indexed by backfill_jobs_line
  where line.priority = priority.value
    and line.locked_at is null
    and line.attempts < line.max_attempts
    and line.run_at <= ?2
    -- In the priority of the row that the walk begins behind, what is behind it. And where jobs are passed by, what became ready since.
    and (line.run_at, line.id) > (
      max(
        case when priority.value = ?6 then ?7 else -9223372036854775808 end,
        case when priority.value < ?10 then ?11 when priority.value = ?10 then ?12 else -9223372036854775808 end
      ),
      case
        when priority.value = ?6 and ?7 >= case when priority.value < ?10 then ?11 when priority.value = ?10 then ?12 else -9223372036854775808 end then ?8
        else -9223372036854775808
      end
    )
  limit ?9
) part
cross join backfill_jobs job on job.id = part.id
where job.task in (select value from json_each(?3))
  -- Only a registered worker may claim: one that was declared dead must not hold anything that nobody would rescue.
  and exists (select 1 from backfill_pools pool where pool.id = ?1)
  -- Of a serial queue that is free, the first job that is ready, wherever the walk began and whoever may run it.
  and (
    job.queue is null
    or (
      not exists (select 1 from backfill_queues queue where queue.name = job.queue and queue.locked_at is not null)
      and not exists (
        select 1
        from backfill_jobs earlier indexed by backfill_jobs_queue
        where earlier.queue = job.queue
          and earlier.locked_at is null
          and earlier.attempts < earlier.max_attempts
          and (earlier.priority, earlier.run_at, earlier.id) < (job.priority, job.run_at, job.id)
          and earlier.run_at <= ?2
      )
    )
  )
  and (
    ?4 is null
    or job.flags is null
    or not exists (
      select 1 from json_each(job.flags) flag where flag.value in (select forbidden.value from json_each(?4) forbidden)
    )
  )
limit ?5
"#,
        request.worker,
        ready_by,
        request.tasks,
        request.forbidden,
        limit,
        request.from.0,
        request.from.1,
        request.from.2,
        request.rows,
        request.passed.priority,
        request.passed.since,
        request.passed.until,
    )
    .fetch_all(&mut *connection)
    .await?;
    let seen_all = candidates.len() < request.limit;
    let reached = if seen_all { row_of_part(connection, &request, ready_by, request.rows).await? } else { None };
    let walk = begun.elapsed();
    let is_long = reached.is_some()
        || (seen_all && walk > CHEAP && row_of_part(connection, &request, ready_by, MANY).await?.is_some());
    let mut left = None;
    let mut more = candidates.len() >= request.limit;
    let mut for_free_slots = false;
    let mut bytes = 0;
    let mut rooms = request.rooms.clone();
    // Runs count as one.
    let mut side_by_side = 0;
    let mut chosen: Vec<i64> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        // A queue whose name is no text could not be freed again.
        if candidate.queue.as_ref().is_some_and(|queue| queue.is_damaged) {
            continue;
        }
        let room = rooms.get_mut(&candidate.task);
        if room.as_ref().is_some_and(|room| **room == 0) {
            left.get_or_insert((candidate.priority, candidate.run_at, candidate.id));
            continue;
        }
        side_by_side += 1;
        if candidate.is_last && side_by_side > request.free_slots {
            for_free_slots = true;
            more = true;
            break;
        }
        bytes += usize::try_from(candidate.bytes).unwrap_or_default();
        if bytes > request.max_bytes && (request.has_some || !chosen.is_empty()) {
            // It is not taken.
            bytes = bytes.saturating_sub(usize::try_from(candidate.bytes).unwrap_or_default());
            more = true;
            break;
        }
        if let Some(room) = room {
            *room -= 1;
        }
        chosen.push(candidate.id);
        let Some(queue) = candidate.queue.map(|queue| queue.text) else { continue };
        if request.run_length > 1 {
            for (id, size) in rest_of_run(connection, &request, &queue, ready_by).await? {
                if chosen.len() >= MAX_IN_RUNS.max(request.limit) || bytes + size > request.max_bytes {
                    break;
                }
                bytes += size;
                chosen.push(id);
            }
        }
    }
    let part = Part {
        claimed: Claimed::default().more(more).for_free_slots(for_free_slots),
        side_by_side,
        bytes,
        rooms,
        walk,
        is_long,
        reached: reached.filter(|_| !more),
        left,
        left_out: false,
    };
    if chosen.is_empty() {
        return Ok(part);
    }
    let count = chosen.len();
    let chosen = crate::json(chosen);
    let rows = jobs!(
        r#"
update backfill_jobs set attempts = attempts + 1, locked_at = ?2, locked_by = ?3
where id in (select value from json_each(?1))
returning
"#,
        "",
        chosen,
        now,
        request.worker,
    );
    let token = ClaimToken::from_number(now);
    let rows = rows.fetch_all(&mut *connection).await?;
    let mut jobs: Vec<ClaimedJob> = rows.into_iter().map(|row| ClaimedJob::new(Job::from(row), token)).collect();
    jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
    let left_out = jobs.len() < count;
    // A trigger of the user's may have left the jobs out, and a queue without a job would be freed by nobody.
    let queues: BTreeSet<&str> = jobs.iter().filter_map(|job| job.queue.as_deref()).collect();
    if !queues.is_empty() {
        let queues = crate::json(queues.into_iter().map(str::to_owned).collect::<Vec<String>>());
        sqlx::query!(
            r#"
update backfill_queues set locked_at = ?2, locked_by = ?3 where name in (select value from json_each(?1))
"#,
            queues,
            now,
            request.worker,
        )
        .execute(&mut *connection)
        .await?;
    }
    // Where all were, the next claim would choose the same ones.
    let more = more && !jobs.is_empty();
    let claimed = Claimed::jobs(jobs).more(more).for_free_slots(for_free_slots);
    Ok(Part { claimed, left_out, ..part })
}
