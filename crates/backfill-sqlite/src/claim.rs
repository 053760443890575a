//! Taking jobs.
//!
//! A transaction has the file to itself, so choosing and marking are two statements, and what is between them is plain Rust.
//!
//! For that reason none may take long, however many jobs stand in the line that cannot be taken. So a claim walks over the line in
//! *parts* of so many rows, each in a transaction of its own, and others write between them. After a second it answers what it has, and
//! the next claim goes on from there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill_core::Result;
use backfill_core::job::Job;
use backfill_core::storage::{ClaimRequest, ClaimToken, Claimed, ClaimedJob, Position, Reached, Start, Walk};
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::file::{MonotonicClock, micros, time};
use crate::row::jobs;

/// The most jobs that one claim takes because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

/// How many rows one part of a walk looks at, whatever it takes of them: some ten milliseconds.
pub(crate) const PART: u32 = 20_000;
/// How long a walk goes on, if the next claim can go on from there.
pub(crate) const WALK: Duration = Duration::from_secs(1);

/// A walk over so many rows is a long one, if it takes longer than this.
const MANY: u32 = 1_000;
const CHEAP: Duration = Duration::from_millis(1);

/// A row's place in the line: its priority, its time, its number.
type Row = (i64, i64, i64);

/// Before every row.
const FIRST: Row = (i64::MIN, i64::MIN, i64::MIN);

/// What a walk passes by: what stands before a position in the line, unless it became ready since.
#[derive(Clone, Copy)]
struct Passed {
    priority: i64,
    /// Of that priority, what is earlier than this.
    until: i64,
    /// Of more urgent ones.
    since: i64,
}

impl Passed {
    fn by(start: &Start) -> Self {
        let since = micros(start.since);
        start.position.map_or(Self { priority: i64::MIN, until: i64::MIN, since: i64::MIN }, |(priority, time)| Self {
            priority: i64::from(priority),
            until: micros(time).min(since),
            since,
        })
    }
}

/// The position of a row; none for one that somebody gave a priority of beyond all.
fn position(row: Row) -> Option<Position> {
    i16::try_from(row.0).ok().map(|priority| (priority, time(row.1)))
}

/// What one part of a walk has taken, and how far it came.
struct Part {
    claimed: Claimed,
    /// How many of the jobs can run at once.
    side_by_side: usize,
    bytes: usize,
    rooms: HashMap<String, usize>,
    walk: Duration,
    is_long: bool,
    /// Its last row, if more are behind it and there is room for more jobs.
    reached: Option<Row>,
    /// The first that it left because its task has no room for more.
    left: Option<Row>,
    /// Jobs were chosen that the update did not change.
    left_out: bool,
}

/// A request, in a shape that can be sent to the thread that writes.
#[derive(Clone)]
struct Request {
    worker: String,
    tasks: String,
    limit: usize,
    run_length: usize,
    max_bytes: usize,
    free_slots: usize,
    /// Whether there is a job already, so that none is taken however large it is.
    has_some: bool,
    rooms: HashMap<String, usize>,
    forbidden: Option<String>,
    now: Option<i64>,
    passed: Passed,
    /// Where to begin: behind this row.
    from: Row,
    /// How many rows to look at.
    rows: u32,
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
        // What is added from now on is ready later than this, whatever the worker's own clock says.
        let present = self.file.now();
        let moment = time(request.now.map_or(present, |now| micros(now).min(present)));
        let start = self.cursor.begin(request, moment, Instant::now());
        let mut wanted = Request {
            worker: request.worker.to_string(),
            tasks: crate::json(tasks),
            limit: request.limit,
            run_length: request.run_length,
            max_bytes: request.max_bytes,
            free_slots: request.free_slots,
            has_some: false,
            rooms,
            forbidden,
            now: request.now.map(micros),
            passed: Passed::by(&start),
            from: FIRST,
            rows: self.part,
        };
        let mut all = Claimed::default();
        let mut walk = Walk { took: Duration::ZERO, is_long: false, reached: Reached::End };
        let mut left = None;
        loop {
            let (clock, part) = (Arc::clone(self.file.clock()), wanted.clone());
            let part = self
                .file
                .writer
                .write("claim jobs", move |connection| Box::pin(async move { claim(&clock, connection, part).await }))
                .await;
            let part = match part {
                Ok(part) => part,
                // What was taken is held, so it has to be told. The next claim meets the error again, if it lasts.
                Err(error) if !all.jobs.is_empty() => {
                    tracing::warn!(%error, "a claim could not go on");
                    all.more = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            walk.took += part.walk;
            walk.is_long |= part.is_long;
            all.jobs.extend(part.claimed.jobs);
            all.more = part.claimed.more;
            all.for_free_slots = part.claimed.for_free_slots;
            left = left.or(part.left);
            if let Some(warning) = part.left_out.then(|| self.left_out.warning()).flatten() {
                tracing::warn!("{warning}");
            }
            let Some(row) = part.reached else { break };
            // The next one begins with all jobs of that time, so this one has to come further than that. A row that somebody gave a
            // priority of beyond all is walked over from the start.
            let place = position(row).filter(|place| Some(*place) != start.position);
            if let Some(place) = place.filter(|_| walk.took >= self.walk && start.may_break_off) {
                walk.reached = Reached::BrokenOff(place);
                break;
            }
            wanted.has_some |= part.side_by_side > 0;
            wanted.limit -= part.side_by_side.min(wanted.limit);
            wanted.free_slots = wanted.free_slots.saturating_sub(part.side_by_side);
            wanted.max_bytes = wanted.max_bytes.saturating_sub(part.bytes);
            wanted.rooms = part.rooms;
            wanted.from = row;
        }
        let left = left.and_then(position);
        walk.reached = match (walk.reached, left) {
            // It ended there because it had enough.
            (Reached::End, _) if all.jobs.len() >= request.limit || all.more => Reached::Taken,
            // What had no room may have some at the next claim.
            (Reached::End, Some(left)) => Reached::Until(left),
            (Reached::BrokenOff(place), Some(left)) => Reached::BrokenOff(place.min(left)),
            (reached, _) => reached,
        };
        self.cursor.end(&start, request, &mut all, &walk, Instant::now());
        Ok(all)
    }
}

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
async fn claim(clock: &MonotonicClock, connection: &mut SqliteConnection, request: Request) -> sqlx::Result<Part> {
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

#[cfg(test)]
mod tests;
