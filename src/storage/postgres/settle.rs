//! Writing how jobs ended.
//!
//! Two statements, each for a whole batch: one deletes what is done, one updates the rest. Both are fenced by
//! (job id, pool, moment of the claim): a job or queue that carries another claim by now is left alone. A queue is
//! released by the same fence even if its job row is gone, so that nobody has to wait for a sweep.
//!
//! `locked_by || ''` hides the column's statistics from the planner. They are usually taken while few jobs are locked, which
//! makes it expect one row, read the whole table and compare it with the whole batch; the join on the key is what it should
//! use.
//!
//! Nobody but an administrator writes the rows of running jobs, but a user's transaction may lock one and stay open: whoever
//! adds a job under the key of a running one does. Then the statement ends after a second (`lock_timeout`), and the batch is written but for
//! the rows that are locked, which are answered as busy: one row must not hold up the results of a worker.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::{JobId, RunAt};
use crate::storage::{Outcome, PoolId, Settled, Settlement, clean_error};

/// Whether a batch needs both statements.
pub(super) fn is_mixed(batch: &[Settlement]) -> bool {
    let is_done = |settlement: &Settlement| settlement.outcome == Outcome::Completed;
    batch.iter().any(is_done) && !batch.iter().all(is_done)
}

impl PostgresStorage {
    /// Writes results on this connection, in a transaction if they are mixed.
    pub(super) async fn settle_jobs(
        &self,
        conn: &mut PgConnection,
        pool: &PoolId,
        settled: &[Settlement],
    ) -> Result<Vec<JobId>> {
        let (done, rest): (Vec<&Settlement>, Vec<&Settlement>) =
            settled.iter().partition(|settlement| settlement.outcome == Outcome::Completed);
        let mut applied = Vec::new();
        if let Some(moment) = one_moment(&done) {
            applied = self.delete_of_one_claim(conn, pool, moment, &done).await?;
        } else if !done.is_empty() {
            applied = self.delete_completed(conn, pool, &done).await?;
        }
        if !rest.is_empty() {
            applied.extend(self.write_others(conn, pool, &rest).await?);
        }
        Ok(applied)
    }

    /// The same, but for what somebody else has locked, which is answered as busy.
    pub(super) async fn settle_the_free(
        &self,
        conn: &mut PgConnection,
        pool: &PoolId,
        settled: &[Settlement],
    ) -> Result<Settled> {
        let claims = Claims::of(&settled.iter().collect::<Vec<_>>());
        // Locking: jobs, then queues, as everywhere; whatever cannot be locked at once is left.
        let busy = sqlx::query_scalar!(
            r#"
with settled as materialized (
  select * from unnest($1::bigint[], $2::text[]) as settled (id, queue)
),
free_job as materialized (
  select job.id from graphile_worker._private_jobs job
  where job.id = any ($1)
  order by job.id
  for update skip locked
),
free_queue as materialized (
  select queue.queue_name from graphile_worker._private_job_queues queue
  where queue.queue_name = any ($2) and (select count(*) from free_job) >= 0
  order by queue.queue_name
  for update skip locked
)
select settled.id as "id!"
from settled
where (
    exists (select from graphile_worker._private_jobs job where job.id = settled.id)
    and settled.id <> all (array(select free_job.id from free_job))
  )
  or (
    exists (select from graphile_worker._private_job_queues queue where queue.queue_name = settled.queue)
    and settled.queue <> all (array(select free_queue.queue_name from free_queue))
  )
"#,
            &claims.id,
            &claims.queue as &[Option<&str>],
        )
        .fetch_all(self.schema.on(&mut *conn))
        .await
        .map_err(|e| self.error("look for results that can be written", e))?;
        let held: HashSet<JobId> = busy.iter().copied().collect();
        let free: Vec<Settlement> =
            settled.iter().filter(|settlement| !held.contains(&settlement.claim.id)).cloned().collect();
        let applied = if free.is_empty() { Vec::new() } else { self.settle_jobs(conn, pool, &free).await? };
        Ok(Settled::applied(applied).busy(busy))
    }

    /// What [`delete_completed`](Self::delete_completed) does, for jobs without queues that one claim took: the fence is the
    /// same for all, so there is nothing to join, which takes half the time.
    async fn delete_of_one_claim(
        &self,
        conn: &mut PgConnection,
        pool: &PoolId,
        moment: DateTime<Utc>,
        done: &[&Settlement],
    ) -> Result<Vec<JobId>> {
        let ids: Vec<JobId> = done.iter().map(|settlement| settlement.claim.id).collect();
        sqlx::query_scalar!(
            r#"
delete from graphile_worker._private_jobs job
where job.id = any ($2)
  and job.locked_by || '' = $1
  and job.locked_at = $3
  -- Asked once, before the first row is looked at.
  and (select set_config('lock_timeout', '1000', true)) is not null
returning job.id
"#,
            pool.as_str(),
            &ids,
            moment,
        )
        .fetch_all(self.schema.on(conn))
        .await
        .map_err(|e| self.error("complete jobs", e))
    }

    async fn delete_completed(
        &self,
        conn: &mut PgConnection,
        pool: &PoolId,
        done: &[&Settlement],
    ) -> Result<Vec<JobId>> {
        let claims = Claims::of(done);
        // Locking: rows that this pool holds, which nobody else writes but an administrator who breaks the lock.
        sqlx::query_scalar!(
            r#"
with settled as materialized (
  select * from unnest($2::bigint[], $3::timestamptz[], $4::text[]) as settled (id, locked_at, queue)
  where (select set_config('lock_timeout', '1000', true)) is not null
),
deleted as (
  delete from graphile_worker._private_jobs job
  using settled
  where job.id = settled.id
    and job.locked_by || '' = $1
    and job.locked_at = settled.locked_at
  returning job.id
),
released as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from settled
  where queue.queue_name = settled.queue
    and queue.locked_by || '' = $1
    and queue.locked_at = settled.locked_at
)
select deleted.id from deleted
"#,
            pool.as_str(),
            &claims.id,
            &claims.locked_at,
            &claims.queue as &[Option<&str>],
        )
        .fetch_all(self.schema.on(conn))
        .await
        .map_err(|e| self.error("complete jobs", e))
    }

    async fn write_others(&self, conn: &mut PgConnection, pool: &PoolId, rest: &[&Settlement]) -> Result<Vec<JobId>> {
        let claims = Claims::of(rest);
        let changes = Changes::of(rest);
        // attempts: a dead job uses up its attempts; a returned or snoozed one gets its attempt back, unless its key
        // was taken while it ran (then somebody replaced or removed it, and it must stay unavailable).
        // run_at: as Graphile counts, from the later of now and the job's own time; bounded, so that a row with an
        // absurd time cannot make the whole statement overflow.
        sqlx::query_scalar!(
            r#"
with settled as materialized (
  select *
  from unnest(
    $2::bigint[], $3::timestamptz[], $4::text[], $5::boolean[], $6::text[], $7::text[], $8::timestamptz[],
    $9::bigint[], $10::text[]
  ) as settled (id, locked_at, queue, had_key, outcome, error, run_at, delay_micros, payload)
  where (select set_config('lock_timeout', '1000', true)) is not null
),
released as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from settled
  where queue.queue_name = settled.queue
    and queue.locked_by || '' = $1
    and queue.locked_at = settled.locked_at
)
update graphile_worker._private_jobs job
set
  attempts = case
    when settled.outcome = 'dead' then job.max_attempts
    when settled.outcome = 'failed' or (settled.had_key and job.key is null) then job.attempts
    else greatest(job.attempts - 1, 0)
  end,
  last_error = coalesce(settled.error, job.last_error),
  payload = coalesce(settled.payload::json, job.payload),
  run_at = coalesce(
    settled.run_at,
    least(
      case when settled.outcome = 'snoozed' then now() else greatest(now(), job.run_at) end,
      timestamptz '9999-01-01 00:00:00Z'
    ) + settled.delay_micros * interval '1 microsecond',
    job.run_at
  ),
  locked_by = null,
  locked_at = null
from settled
where job.id = settled.id
  and job.locked_by || '' = $1
  and job.locked_at = settled.locked_at
returning job.id
"#,
            pool.as_str(),
            &claims.id,
            &claims.locked_at,
            &claims.queue as &[Option<&str>],
            &claims.had_key,
            &changes.outcome as &[&str],
            &changes.error as &[Option<String>],
            &changes.run_at as &[Option<DateTime<Utc>>],
            &changes.delay as &[Option<i64>],
            &changes.payload as &[Option<&str>],
        )
        .fetch_all(self.schema.on(conn))
        .await
        .map_err(|e| self.error("write failed jobs", e))
    }
}

/// The moment at which all of these jobs were claimed, if it is one and none of them holds a queue.
fn one_moment(done: &[&Settlement]) -> Option<DateTime<Utc>> {
    let first = done.first()?.claim.locked_at;
    let same = |settlement: &&Settlement| settlement.claim.locked_at == first && settlement.claim.queue.is_none();
    done.iter().all(same).then_some(first)
}

/// The fences of a batch, one array per value.
struct Claims<'a> {
    id: Vec<JobId>,
    locked_at: Vec<DateTime<Utc>>,
    queue: Vec<Option<&'a str>>,
    had_key: Vec<bool>,
}

impl<'a> Claims<'a> {
    fn of(batch: &[&'a Settlement]) -> Self {
        let claims = || batch.iter().map(|settlement| &settlement.claim);
        Self {
            id: claims().map(|claim| claim.id).collect(),
            locked_at: claims().map(|claim| claim.locked_at).collect(),
            queue: claims().map(|claim| claim.queue.as_deref()).collect(),
            had_key: claims().map(|claim| claim.had_key).collect(),
        }
    }
}

/// What to write, one array per value.
#[derive(Default)]
struct Changes<'a> {
    outcome: Vec<&'static str>,
    error: Vec<Option<String>>,
    run_at: Vec<Option<DateTime<Utc>>>,
    delay: Vec<Option<i64>>,
    payload: Vec<Option<&'a str>>,
}

impl<'a> Changes<'a> {
    fn of(batch: &[&'a Settlement]) -> Self {
        let mut changes = Self::default();
        for settlement in batch {
            let (outcome, error, when, payload) = match &settlement.outcome {
                Outcome::Completed => continue,
                Outcome::Failed { error, retry, payload } => ("failed", Some(error), Some(*retry), payload.as_ref()),
                Outcome::Dead { error } => ("dead", Some(error), None, None),
                Outcome::Snoozed { until } => ("snoozed", None, Some(*until), None),
                Outcome::Returned => ("returned", None, None, None),
            };
            changes.outcome.push(outcome);
            changes.error.push(error.map(|text| clean_error(text)));
            changes.run_at.push(match when {
                Some(RunAt::Time(time)) => Some(bounded(time)),
                _ => None,
            });
            changes.delay.push(match when {
                Some(RunAt::In(delay)) => Some(micros(delay)),
                _ => None,
            });
            changes.payload.push(payload.map(crate::job::Payload::as_str));
        }
        changes
    }
}

/// A task may answer any time; one that PostgreSQL cannot hold must not spoil the batch.
fn bounded(time: DateTime<Utc>) -> DateTime<Utc> {
    let year = |year, month, day| {
        chrono::NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default().and_time(chrono::NaiveTime::MIN).and_utc()
    };
    time.clamp(year(-4000, 1, 1), year(9999, 12, 31))
}
