//! Taking by lines.
//!
//! A line is walked priority by priority: of each, what is ready is one piece of the index, so delayed jobs are never read.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use backfill_core::Result;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::ClaimToken;
use backfill_core::storage::messages::{DocumentKey, Holder, Take, Taken, TakenJob};
use sqlx::SqliteConnection;

use super::groups::{MAX_GROUPS, alone, choose_in_line, group, head_of, next_queue};
use super::lease::end;
use crate::SqliteStorage;
use crate::file::{MonotonicClock, micros, time};
use crate::row::{Text, jobs};

/// What a take asks for, for the thread that writes.
struct Asked {
    /// A worker, which must be registered.
    worker: Option<String>,
    holder: String,
    lines: Vec<(String, usize)>,
    max_bytes: usize,
    ready_by: Option<i64>,
    in_line: bool,
    unless: Vec<DocumentKey>,
}

/// What was taken, before anybody knows by which holds.
enum Took {
    Jobs(Vec<Job>, i64),
    StoppedBy(DocumentKey),
}

impl SqliteStorage {
    pub(super) async fn take_jobs(&self, request: &Take<'_>) -> Result<Taken> {
        let asked = Asked {
            worker: match request.holder {
                Holder::Worker(worker) => Some(worker.to_string()),
                Holder::Lease { .. } => None,
            },
            holder: request.holder_name(),
            lines: request.lines.to_vec(),
            max_bytes: request.max_bytes,
            ready_by: request.ready_by.map(micros),
            in_line: request.in_line,
            unless: request.unless.to_vec(),
        };
        // An empty look writes nothing and waits for nobody, unless an ended lease may stand in front.
        if !request.in_line && self.has_nothing(&asked).await? {
            return Ok(Taken::default());
        }
        let lasts = match request.holder {
            Holder::Worker(_) => None,
            Holder::Lease { lasts, .. } => Some(lasts),
        };
        let clock = Arc::clone(self.file.clock());
        let took = self.file.writer.write("take jobs", move |connection| {
            Box::pin(async move { take(&clock, connection, asked, lasts).await })
        });
        match took.await? {
            Took::StoppedBy(document) => Ok(Taken::stopped_by(document)),
            Took::Jobs(jobs, locked_at) => {
                let token = ClaimToken::from_number(locked_at);
                let taken = jobs.into_iter().map(|job| {
                    let hold = request.hold(&job, token);
                    TakenJob::new(job, hold)
                });
                Ok(Taken::jobs(taken.collect()))
            }
        }
    }

    /// Whether none of the lines has a job that could be taken, and nothing forbids to look.
    async fn has_nothing(&self, asked: &Asked) -> Result<bool> {
        if !asked.unless.is_empty() {
            return Ok(false);
        }
        let fail = crate::errors::failed("look for jobs");
        let mut connection = self.file.read("look for jobs").await?;
        let ready_by = asked.ready_by.unwrap_or_else(|| self.file.now());
        for (line, limit) in &asked.lines {
            if *limit == 0 {
                continue;
            }
            let mut priority = None;
            while let Some(next) = next_priority(&mut connection, line, priority).await.map_err(&fail)? {
                if !head(&mut connection, line, next, ready_by, 1).await.map_err(&fail)?.is_empty() {
                    return Ok(false);
                }
                priority = Some(next);
            }
        }
        Ok(true)
    }
}

async fn take(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    asked: Asked,
    lasts: Option<std::time::Duration>,
) -> sqlx::Result<Took> {
    let now = clock.now();
    for document in asked.unless {
        let there = sqlx::query_scalar!(
            r#"
select count(*) as "count!: i64" from backfill_documents where kind = ?1 and key = ?2 and (until is null or until > ?3)
"#,
            document.kind,
            document.key,
            now
        );
        if there.fetch_one(&mut *connection).await? > 0 {
            return Ok(Took::StoppedBy(document));
        }
    }
    if let Some(worker) = &asked.worker {
        let there =
            sqlx::query_scalar!(r#"select count(*) as "count!: i64" from backfill_pools where id = ?1"#, worker);
        if there.fetch_one(&mut *connection).await? == 0 {
            return Ok(Took::Jobs(Vec::new(), now));
        }
    }
    if asked.in_line {
        // What an ended lease holds stands before what is behind it.
        end(connection, now, None).await?;
    }
    let ready_by = asked.ready_by.unwrap_or(now);
    let mut room = Room { bytes: asked.max_bytes, any: false };
    // A queue may be of several lines.
    let (mut chosen, mut queues) = (Vec::new(), BTreeSet::new());
    for (line, limit) in &asked.lines {
        chosen.extend(if asked.in_line {
            choose_in_line(connection, line, *limit, ready_by, &mut room).await?
        } else {
            choose(connection, line, *limit, ready_by, &mut room, &mut queues).await?
        });
    }
    if chosen.is_empty() {
        return Ok(Took::Jobs(Vec::new(), now));
    }
    let locked_at = lasts.map_or(now, |lasts| micros(backfill_core::job::limits::later(time(now), lasts)));
    mark(connection, &asked.lines, chosen, (now, locked_at), &asked.holder, asked.in_line).await
}

/// Marks the chosen ones, and their queues or turns.
async fn mark(
    connection: &mut SqliteConnection,
    lines: &[(String, usize)],
    chosen: Vec<JobId>,
    (now, locked_at): (i64, i64),
    holder: &str,
    in_line: bool,
) -> sqlx::Result<Took> {
    let ids = crate::json(JobId::numbers(&chosen));
    let rows = jobs!(
        r#"
update backfill_jobs set attempts = attempts + 1, locked_at = ?2, locked_by = ?3
where id in (select value from json_each(?1))
returning
"#,
        "",
        ids,
        locked_at,
        holder,
    );
    let mut jobs: Vec<Job> = rows.fetch_all(&mut *connection).await?.into_iter().map(Job::from).collect();
    let line_of = |job: &Job| lines.iter().position(|(line, _)| *line == job.task);
    if in_line {
        let place_of: std::collections::HashMap<JobId, usize> =
            chosen.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        jobs.sort_by_key(|job| place_of.get(&job.id).copied());
    } else {
        jobs.sort_by_key(|job| (line_of(job), job.priority, job.run_at, job.id));
    }
    for job in jobs.iter().filter(|job| job.queue.is_some()) {
        let (task, queue) = (&job.task, &job.queue);
        if in_line {
            sqlx::query!(
                "insert into backfill_turns (task, queue, taken_at) values (?1, ?2, ?3) on conflict do update set taken_at = ?3",
                task,
                queue,
                now
            )
            .execute(&mut *connection)
            .await?;
        } else {
            sqlx::query!(
                "update backfill_queues set locked_at = ?2, locked_by = ?3 where name = ?1",
                queue,
                locked_at,
                holder
            )
            .execute(&mut *connection)
            .await?;
        }
    }
    Ok(Took::Jobs(jobs, locked_at))
}

/// What may be chosen, and what it needs.
pub(super) struct Head {
    pub id: i64,
    pub queue: Option<Text>,
    pub bytes: i64,
}

/// The next priority in which a line has jobs that may be taken, some time.
pub(super) async fn next_priority(
    connection: &mut SqliteConnection,
    line: &str,
    after: Option<i64>,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"
select min(priority) as "priority?: i64"
from backfill_jobs indexed by backfill_jobs_task_line
where task = ?1 and locked_at is null and attempts < max_attempts and priority > ?2
"#,
        line,
        after.unwrap_or(i64::MIN),
    )
    .fetch_one(connection)
    .await
}

/// The first ready jobs of one priority.
pub(super) async fn head(
    connection: &mut SqliteConnection,
    line: &str,
    priority: i64,
    ready_by: i64,
    limit: i64,
) -> sqlx::Result<Vec<Head>> {
    sqlx::query_as!(
        Head,
        r#"
select id as "id!: i64", queue as "queue?: crate::row::Text", octet_length(payload) as "bytes!: i64"
from backfill_jobs indexed by backfill_jobs_task_line
where task = ?1 and locked_at is null and attempts < max_attempts and priority = ?2 and run_at <= ?3
order by run_at, id
limit ?4
"#,
        line,
        priority,
        ready_by,
        limit,
    )
    .fetch_all(connection)
    .await
}

/// The first ready jobs of a line; of each serial queue one, if nobody holds it. What waits behind others in a queue costs nothing beyond
/// the head of the line.
async fn choose(
    connection: &mut SqliteConnection,
    line: &str,
    limit: usize,
    ready_by: i64,
    room: &mut Room,
    queues: &mut BTreeSet<String>,
) -> sqlx::Result<Vec<JobId>> {
    let mut chosen = Vec::new();
    let (mut priority, mut seen) = (None, 0);
    let most = if next_queue(connection, line, "").await?.is_some() { head_of(limit) } else { usize::MAX };
    while let Some(next) =
        next_priority(connection, line, priority).await?.filter(|_| chosen.len() < limit && seen < most)
    {
        priority = Some(next);
        let wanted = if most == usize::MAX { limit - chosen.len() } else { most - seen };
        let heads = head(connection, line, next, ready_by, i64::try_from(wanted).unwrap_or(i64::MAX)).await?;
        for head in heads {
            if chosen.len() >= limit {
                break;
            }
            seen += 1;
            if let Some(Text { text: queue, .. }) = &head.queue
                && (!queues.insert(queue.clone()) || !is_free(connection, line, queue).await?)
            {
                continue;
            }
            if !room.takes(head.bytes) {
                return Ok(chosen);
            }
            chosen.push(JobId::from_number(head.id));
        }
    }
    if seen < most || chosen.len() >= limit {
        return Ok(chosen);
    }
    // The head is full of what waits behind others: so what has no queue, and each queue by its name.
    let known: HashSet<JobId> = chosen.iter().copied().collect();
    let alone = alone(connection, line, ready_by, limit).await?;
    for head in alone.into_iter().flat_map(|group| group.jobs) {
        if chosen.len() >= limit || known.contains(&JobId::from_number(head.id)) {
            continue;
        }
        if !room.takes(head.bytes) {
            return Ok(chosen);
        }
        chosen.push(JobId::from_number(head.id));
    }
    let (mut last, mut asked) = (String::new(), 0);
    while chosen.len() < limit && asked < MAX_GROUPS {
        let Some(next) = next_queue(connection, line, &last).await? else { break };
        asked += 1;
        if queues.insert(next.clone())
            && is_free(connection, line, &next).await?
            && let Some(group) = group(connection, line, &next, ready_by, 1).await?
            && let Some(head) = group.jobs.first()
        {
            if !room.takes(head.bytes) {
                return Ok(chosen);
            }
            chosen.push(JobId::from_number(head.id));
        }
        last = next;
    }
    Ok(chosen)
}

/// Whether nobody holds a queue, nor something of it in this line.
async fn is_free(connection: &mut SqliteConnection, line: &str, queue: &str) -> sqlx::Result<bool> {
    let free = sqlx::query_scalar!(
        r#"
select not exists (select 1 from backfill_queues held where held.name = ?2 and held.locked_at is not null)
  and not exists (
    select 1 from backfill_jobs held indexed by backfill_jobs_held_line
    where held.task = ?1 and held.queue = ?2 and held.locked_at is not null
  ) as "free!: bool"
"#,
        line,
        queue,
    );
    free.fetch_one(connection).await
}

/// How many bytes of payloads there may be.
pub(super) struct Room {
    bytes: usize,
    any: bool,
}

impl Room {
    /// Whether a job of so many bytes may be taken, too; the first one always.
    pub(super) fn takes(&mut self, bytes: i64) -> bool {
        let bytes = usize::try_from(bytes).unwrap_or_default();
        if self.any && bytes > self.bytes {
            return false;
        }
        self.any = true;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}
