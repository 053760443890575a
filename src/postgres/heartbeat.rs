//! Heartbeats of workers, in a table of our own.
//!
//! All times are the database's, so the workers' clocks do not matter. Workers without a row (Node's) are never touched
//! here; for them the four-hour rule of the sweep stays.

use std::sync::atomic::Ordering;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::PgConnection;

use super::connection::isolation::Work;
use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::{Registration, WorkerId, WorkerStatus};

impl PostgresStorage {
    /// The first heartbeat of a worker, with the tasks that it runs.
    pub(super) async fn register_worker(&self, registration: &Registration<'_>) -> Result<bool> {
        let mut work = self.begin_heartbeat().await?;
        // Of the tasks' names only the missing ones are inserted: a conflicting insert would burn an id of a 32-bit sequence.
        let shown = sqlx::query!(
            r#"
with new_task as (
  insert into graphile_worker._private_tasks (identifier)
  select distinct wanted
  from unnest($2::text[]) as wanted
  where not exists (select from graphile_worker._private_tasks known where known.identifier = wanted)
  on conflict do nothing
)
insert into graphile_worker.backfill_pools (id, dead_after, serves, in_place)
values ($1, $3::bigint * interval '1 microsecond', $2, $4)
on conflict do nothing
"#,
            registration.worker.as_str(),
            registration.tasks,
            registration.dead_after.map(micros),
            registration.in_place,
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("register a worker", e))?;
        self.end_heartbeat(work).await?;
        Ok(shown.rows_affected() > 0)
    }

    /// Which tasks it runs from now on.
    pub(super) async fn serve_tasks(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        let mut work = self.database.work().await?;
        // Locking: the worker's row, as by a heartbeat. The names are inserted as by registering.
        let shown = sqlx::query!(
            r#"
with new_task as (
  insert into graphile_worker._private_tasks (identifier)
  select distinct wanted
  from unnest($2::text[]) as wanted
  where not exists (select from graphile_worker._private_tasks known where known.identifier = wanted)
  on conflict do nothing
)
update graphile_worker.backfill_pools set serves = $2 where id = $1 and seen_at > 'epoch'
"#,
            worker.as_str(),
            tasks,
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("tell the tasks of a worker", e))?;
        self.database.done(work).await?;
        Ok(shown.rows_affected() > 0)
    }

    /// Any later one.
    pub(super) async fn write_heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        let mut work = self.begin_heartbeat().await?;
        let shown = sqlx::query!(
            "update graphile_worker.backfill_pools set seen_at = clock_timestamp() where id = $1 and seen_at > 'epoch'",
            worker.as_str()
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("send a heartbeat", e))?;
        self.end_heartbeat(work).await?;
        Ok(shown.rows_affected() > 0)
    }

    /// What the worker says of itself. Nobody waits for it, so it waits for nobody for long.
    pub(super) async fn write_status(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        let mut work = self.begin_heartbeat().await?;
        sqlx::query!(
            "update graphile_worker.backfill_pools set status = $2 where id = $1 and seen_at > 'epoch'",
            worker.as_str(),
            status.to_text(),
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("tell what a worker does", e))?;
        self.end_heartbeat(work).await
    }

    /// A heartbeat is one statement, and so one exchange. If the last one was not answered, it may still wait at the server for a lock:
    /// then in a transaction that the server ends if it takes long, or such heartbeats would use up its connections.
    async fn begin_heartbeat(&self) -> Result<Work> {
        let guarded = self.heartbeat_unanswered.swap(true, Ordering::Relaxed);
        if guarded { self.database.brief_transaction().await.map(Work::from) } else { self.database.work().await }
    }

    async fn end_heartbeat(&self, work: Work) -> Result<()> {
        self.database.done(work).await?;
        self.heartbeat_unanswered.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn remove_registration(&self, worker: &WorkerId) -> Result<()> {
        let fail = |e| self.database.error("deregister a worker", e);
        let mut tx = self.database.waiting_transaction().await?;
        // This waits for a claim that is still running somewhere; what that took is seen by the next statement.
        let row = sqlx::query_scalar!(
            r#"
update graphile_worker.backfill_pools pool
set seen_at = 'epoch'
where pool.id = any (array(select mine.id from graphile_worker.backfill_pools mine where mine.id = $1 for update))
returning convert_to(pool.id, getdatabaseencoding()) as "id!"
"#,
            worker.as_str()
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        let released = self.release_claims(&mut tx, worker, &[], far_future()).await?;
        if !released.left {
            self.forget_dead(&mut tx, &row).await?;
        }
        tx.commit().await.map_err(fail)
    }

    pub(super) async fn release_untracked_jobs(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        // The lost claim may still be running on a connection that only we have given up. It holds its worker's row, so this
        // waits for it; what it took is seen by the next statement. Each has its own transaction: one that stayed open while
        // this process is kept from going on would keep its heartbeat from being sent. The same holds for a client that hands off a job,
        // and none does that any more when this is done.
        let until = sqlx::query_scalar!(
            r#"
with waited as materialized (
  select id from graphile_worker.backfill_pools where id = $1 and seen_at > 'epoch' for update
),
revoked as (
  update graphile_worker.backfill_pools pool
  set handover = null
  where pool.id = any (array(select waited.id from waited))
)
select clock_timestamp() as "until!: DateTime<Utc>" from waited
"#,
            worker.as_str()
        )
        .fetch_optional(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("wait for a lost claim", e))?;
        // Nobody else may claim for a worker that is not there, and who declared it dead has released what it held.
        let Some(until) = until else { return Ok(0) };
        let mut tx = self.database.waiting_transaction().await?;
        let released = self.release_claims(&mut tx, worker, holds, until).await?;
        tx.commit().await.map_err(|e| self.database.error("release jobs", e))?;
        Ok(u64::try_from(released.released).unwrap_or_default())
    }

    /// Releases the jobs that a worker has claimed up to a moment, but for some. (What it claims later it knows of: this may
    /// itself be late.)
    async fn release_claims(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        but: &[JobId],
        until: DateTime<Utc>,
    ) -> Result<ReleasedClaims> {
        // The attempt is given back, unless the job's key was taken over since the claim; that one must stay unavailable. A takeover
        // leaves no key, all attempts used, and a moment of change after the claim's, even in a transaction that began before it.
        // What was changed before it was claimed is no takeover. (The SQL functions tell, as Node's do, when their transaction began:
        // one that began before the claim looks like a change before it. To run such a job again is the lesser evil: it may never
        // have run.)
        // Of all tables, the one of jobs is read as a whole only once, to find the worker's.
        sqlx::query_as!(
            ReleasedClaims,
            r#"
with mine as materialized (
  select job.id
  from graphile_worker._private_jobs job
  where job.locked_by = $1 and job.id <> all ($2) and job.locked_at <= $3
),
held as materialized (
  select job.id, job.job_queue_id, job.locked_at
  from graphile_worker._private_jobs job
  where job.id = any (array(select mine.id from mine)) and job.locked_by = $1 and job.locked_at <= $3
  -- Whoever has locked one keeps only that one.
  for no key update skip locked
),
released_queue as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from held
  where queue.id = held.job_queue_id
    and queue.locked_by || '' = $1
    and queue.locked_at = held.locked_at
),
released_job as (
  update graphile_worker._private_jobs job
  set
    attempts = case
      when job.key is null and job.attempts >= job.max_attempts and job.updated_at > job.locked_at then job.attempts
      else greatest(job.attempts - 1, 0)
    end,
    locked_by = null,
    locked_at = null
  where job.id = any (array(select held.id from held))
  returning job.id
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || count(*)::text || '}')
  from released_job
  having count(*) > 0
)
select
  count(released_job.id) as "released!",
  count(released_job.id) < (select count(*) from mine) as "left!"
from released_job
left join notified on true
"#,
            worker.as_str(),
            &JobId::numbers(but),
            until,
        )
        .fetch_one(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("release jobs", e))
    }
}

/// What became of jobs that were to be released.
struct ReleasedClaims {
    released: i64,
    /// Somebody else has locked some of them.
    left: bool,
}

/// Later than any lock.
fn far_future() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(9999, 12, 31).unwrap_or_default().and_time(NaiveTime::MIN).and_utc()
}
