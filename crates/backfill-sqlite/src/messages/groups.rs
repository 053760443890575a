//! Taking in line: several jobs of a serial queue, but none behind a held one.
//!
//! Groups are looked for at the head of the line first. If those have too little, all groups of the line are asked, one by one:
//! what a held group has in front hides no other.

use std::collections::BTreeSet;

use backfill_core::job::JobId;
use sqlx::SqliteConnection;

use super::take::{Head, Room, head, next_priority};
use crate::row::Text;

/// So many jobs at the head of a line are looked at, for each that is wanted, and at the least.
const HEAD: usize = 4;
const HEAD_AT_LEAST: usize = 64;
/// So many groups are asked, at the most.
pub(super) const MAX_GROUPS: usize = 10_000;

/// A group that has something to take.
pub(super) struct Group {
    turn: Option<i64>,
    first: (i64, i64, i64),
    pub jobs: Vec<Head>,
}

pub(super) async fn choose_in_line(
    connection: &mut SqliteConnection,
    line: &str,
    limit: usize,
    ready_by: i64,
    room: &mut Room,
) -> sqlx::Result<Vec<JobId>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut asked = BTreeSet::new();
    let mut groups = alone(connection, line, ready_by, limit).await?;
    for queue in at_head(connection, line, ready_by, limit).await? {
        if asked.insert(queue.clone()) {
            groups.extend(group(connection, line, &queue, ready_by, limit).await?);
        }
    }
    let mut last = String::new();
    let count = |groups: &[Group]| groups.iter().map(|group| group.jobs.len()).sum::<usize>();
    while count(&groups) < limit && asked.len() < MAX_GROUPS {
        let Some(next) = next_queue(connection, line, &last).await? else { break };
        if asked.insert(next.clone()) {
            groups.extend(group(connection, line, &next, ready_by, limit).await?);
        }
        last = next;
    }
    groups.sort_by_key(|group| (group.turn, group.first));
    let mut chosen = Vec::new();
    for head in groups.into_iter().flat_map(|group| group.jobs) {
        if chosen.len() >= limit || !room.takes(head.bytes) {
            break;
        }
        chosen.push(JobId::from_number(head.id));
    }
    Ok(chosen)
}

/// How many jobs at the head of a line are looked at.
pub(super) fn head_of(limit: usize) -> usize {
    HEAD_AT_LEAST.max(limit.saturating_mul(HEAD))
}

/// The queues of the first jobs of a line.
async fn at_head(
    connection: &mut SqliteConnection,
    line: &str,
    ready_by: i64,
    limit: usize,
) -> sqlx::Result<Vec<String>> {
    let most = head_of(limit);
    let (mut queues, mut seen, mut priority) = (Vec::new(), 0, None);
    while let Some(next) = next_priority(connection, line, priority).await?.filter(|_| seen < most) {
        let heads = head(connection, line, next, ready_by, i64::try_from(most - seen).unwrap_or(i64::MAX)).await?;
        seen += heads.len();
        queues.extend(heads.into_iter().filter_map(|head| head.queue).map(|queue| queue.text));
        priority = Some(next);
    }
    Ok(queues)
}

/// The first queue after one by name that has jobs that may be taken, some time.
pub(super) async fn next_queue(
    connection: &mut SqliteConnection,
    line: &str,
    after: &str,
) -> sqlx::Result<Option<String>> {
    let next = sqlx::query_scalar!(
        r#"
select min(queue) as "queue?: Text"
from backfill_jobs indexed by backfill_jobs_group
where task = ?1 and queue > ?2 and queue is not null and locked_at is null and attempts < max_attempts
"#,
        line,
        after,
    );
    Ok(next.fetch_one(connection).await?.map(|queue: Text| queue.text))
}

/// What may be taken of a queue.
pub(super) async fn group(
    connection: &mut SqliteConnection,
    line: &str,
    queue: &str,
    ready_by: i64,
    limit: usize,
) -> sqlx::Result<Option<Group>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"
with held as materialized (
  select priority, run_at, id
  from backfill_jobs indexed by backfill_jobs_held_line
  where task = ?1 and queue = ?2 and locked_at is not null
  order by priority, run_at, id
  limit 1
)
select
  id as "id!: i64",
  priority as "priority!: i64",
  run_at as "run_at!: i64",
  octet_length(payload) as "bytes!: i64",
  (select taken_at from backfill_turns turn where turn.task = ?1 and turn.queue = ?2) as "turn?: i64"
from backfill_jobs indexed by backfill_jobs_group
where task = ?1 and queue = ?2 and queue is not null and locked_at is null and attempts < max_attempts and run_at <= ?3
  and not exists (
    select 1 from held where (held.priority, held.run_at, held.id) < (backfill_jobs.priority, backfill_jobs.run_at, backfill_jobs.id)
  )
order by priority, run_at, id
limit ?4
"#,
        line,
        queue,
        ready_by,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (turn, first) = (first.turn, (first.priority, first.run_at, first.id));
    let jobs = rows.into_iter().map(|row| Head { id: row.id, queue: None, bytes: row.bytes }).collect();
    Ok(Some(Group { turn, first, jobs }))
}

/// Jobs without a queue are each a group by itself.
pub(super) async fn alone(
    connection: &mut SqliteConnection,
    line: &str,
    ready_by: i64,
    limit: usize,
) -> sqlx::Result<Vec<Group>> {
    let (mut groups, mut priority) = (Vec::new(), None);
    while let Some(next) = next_priority(connection, line, priority).await?.filter(|_| groups.len() < limit) {
        let room = i64::try_from(limit - groups.len()).unwrap_or(i64::MAX);
        let rows = sqlx::query!(
            r#"
select id as "id!: i64", run_at as "run_at!: i64", octet_length(payload) as "bytes!: i64"
from backfill_jobs indexed by backfill_jobs_group
where task = ?1 and queue is null and locked_at is null and attempts < max_attempts and priority = ?2 and run_at <= ?3
order by run_at, id
limit ?4
"#,
            line,
            next,
            ready_by,
            room,
        )
        .fetch_all(&mut *connection)
        .await?;
        groups.extend(rows.into_iter().map(|row| Group {
            turn: None,
            first: (next, row.run_at, row.id),
            jobs: vec![Head { id: row.id, queue: None, bytes: row.bytes }],
        }));
        priority = Some(next);
    }
    Ok(groups)
}
