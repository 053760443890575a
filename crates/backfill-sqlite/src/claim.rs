//! Taking jobs.
//!
//! A transaction has the file to itself, so choosing and marking are two statements, and what is between them is plain Rust.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill_core::Result;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::{ClaimRequest, Claimed};
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::file::{File, micros};
use crate::row::jobs;

/// What asking another thread may take on a busy machine is no part of the walk.
const NOISE: Duration = Duration::from_millis(20);

/// The most jobs that one claim takes because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

/// A request, in a shape that can be sent to the thread that writes.
struct Request {
    pool: String,
    tasks: String,
    limit: usize,
    run_length: usize,
    max_bytes: usize,
    free_slots: usize,
    rooms: HashMap<String, usize>,
    forbidden: Option<String>,
    now: Option<i64>,
    /// Where to begin: a priority, and a time within that.
    from: (i64, i64),
}

impl SqliteStorage {
    pub(crate) async fn claim_jobs(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        let rooms: HashMap<String, usize> = request.limits.iter().cloned().collect();
        // A task without room would only fill the list of candidates.
        let tasks: Vec<String> = request.tasks.iter().filter(|task| rooms.get(*task) != Some(&0)).cloned().collect();
        if request.limit == 0 || tasks.is_empty() {
            return Ok(Claimed::default());
        }
        let forbidden = (!request.forbidden_flags.is_empty()).then(|| crate::json(request.forbidden_flags.to_vec()));
        let beginning = self.frontier.begin(request, Instant::now());
        let wanted = Request {
            pool: request.pool.to_string(),
            tasks: crate::json(tasks),
            limit: request.limit,
            run_length: request.run_length,
            max_bytes: request.max_bytes,
            free_slots: request.free_slots,
            rooms,
            forbidden,
            now: request.now.map(micros),
            from: beginning.place.map_or((i64::MIN, i64::MIN), |(priority, time)| (i64::from(priority), micros(time))),
        };
        let file = Arc::clone(&self.file);
        let (mut claimed, walk) = self
            .file
            .writer
            .write("claim jobs", move |connection| Box::pin(async move { claim(&file, connection, wanted).await }))
            .await?;
        self.frontier.end(&beginning, request, &mut claimed, walk, Instant::now());
        Ok(claimed)
    }
}

/// The next jobs of a serial queue behind its first, up to the first that may not be taken: of another worker's task, of a task with a
/// limit of its own, with a forbidden flag, or in its last attempt.
async fn rest_of_run(
    connection: &mut SqliteConnection,
    request: &Request,
    queue: &str,
    ready_by: i64,
) -> sqlx::Result<Vec<(JobId, usize)>> {
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

#[expect(clippy::too_many_lines, reason = "mostly one statement, best read in one piece")]
async fn claim(file: &File, connection: &mut SqliteConnection, request: Request) -> sqlx::Result<(Claimed, Duration)> {
    let now = file.now();
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
  job.queue as "queue?: String",
  octet_length(job.payload) as "bytes!: i64",
  job.attempts + 1 >= job.max_attempts as "is_last!: bool"
from priority
cross join backfill_jobs job indexed by backfill_jobs_line
where job.priority = priority.value
  and job.locked_at is null
  and job.attempts < job.max_attempts
  and job.run_at <= ?2
  -- The frontier: in its priority the walk begins at its time.
  and job.run_at >= case when priority.value = ?6 then ?7 else -9223372036854775808 end
  and job.task in (select value from json_each(?3))
  -- Only a registered pool may claim: one that was taken for dead must not hold anything that nobody would rescue.
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
        request.pool,
        ready_by,
        request.tasks,
        request.forbidden,
        limit,
        request.from.0,
        request.from.1,
    )
    .fetch_all(&mut *connection)
    .await?;
    let walk = begun.elapsed().saturating_sub(NOISE);
    let mut more = candidates.len() >= request.limit;
    let mut for_free_slots = false;
    let mut bytes = 0;
    let mut rooms = request.rooms.clone();
    let mut queues = BTreeSet::new();
    // Runs count as one.
    let mut side_by_side = 0;
    let mut chosen: Vec<JobId> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let room = rooms.get_mut(&candidate.task);
        if room.as_ref().is_some_and(|room| **room == 0) {
            continue;
        }
        side_by_side += 1;
        if candidate.is_last && side_by_side > request.free_slots {
            for_free_slots = true;
            more = true;
            break;
        }
        bytes += usize::try_from(candidate.bytes).unwrap_or_default();
        if bytes > request.max_bytes && !chosen.is_empty() {
            more = true;
            break;
        }
        if let Some(room) = room {
            *room -= 1;
        }
        chosen.push(candidate.id);
        let Some(queue) = candidate.queue else { continue };
        if request.run_length > 1 {
            for (id, size) in rest_of_run(connection, &request, &queue, ready_by).await? {
                if chosen.len() >= MAX_IN_RUNS.max(request.limit) || bytes + size > request.max_bytes {
                    break;
                }
                bytes += size;
                chosen.push(id);
            }
        }
        queues.insert(queue);
    }
    if chosen.is_empty() {
        return Ok((Claimed { jobs: Vec::new(), more, for_free_slots, look_again: None }, walk));
    }
    if !queues.is_empty() {
        let queues = crate::json(queues.into_iter().collect::<Vec<String>>());
        sqlx::query!(
            r#"
update backfill_queues set locked_at = ?2, locked_by = ?3 where name in (select value from json_each(?1))
"#,
            queues,
            now,
            request.pool,
        )
        .execute(&mut *connection)
        .await?;
    }
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
        request.pool,
    );
    let mut jobs: Vec<Job> = rows.fetch_all(connection).await?.into_iter().map(Job::from).collect();
    jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
    Ok((Claimed { jobs, more, for_free_slots, look_again: None }, walk))
}
