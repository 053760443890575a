//! Signs of life of worker pools, in a table of our own.
//!
//! All times are the database's, so the workers' clocks do not matter. Pools without a row (Node's) are never touched
//! here; for them the four-hour rule of the sweep stays.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::PgConnection;

use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::{PoolId, Rescued};

impl PostgresStorage {
    pub(super) async fn show_sign(&self, pool: &PoolId, first: bool) -> Result<bool> {
        let fail = |e| self.error("show a sign of life", e);
        if first {
            let mut tx = self.brief_transaction().await?;
            let shown = sqlx::query!(
                "insert into graphile_worker.backfill_pools (id) values ($1) on conflict do nothing",
                pool.as_str()
            )
            .execute(self.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
            tx.commit().await.map_err(fail)?;
            return Ok(shown.rows_affected() > 0);
        }
        // One statement, and so one exchange. If the last one was not answered, it may still wait at the server for a lock: then
        // in a transaction that the server ends if it takes long, or such signs would use up its connections.
        let guarded = self.sign_unanswered.swap(true, Ordering::Relaxed);
        let mut work = if guarded { self.brief_transaction().await?.into() } else { self.work().await? };
        let shown = sqlx::query!(
            "update graphile_worker.backfill_pools set seen_at = clock_timestamp() where id = $1",
            pool.as_str()
        )
        .execute(self.schema.on(&mut *work))
        .await
        .map_err(fail)?;
        self.done(work).await?;
        self.sign_unanswered.store(false, Ordering::Relaxed);
        Ok(shown.rows_affected() > 0)
    }

    pub(super) async fn withdraw(&self, pool: &PoolId) -> Result<()> {
        let fail = |e| self.error("withdraw the sign of life", e);
        let mut tx = self.patient_transaction().await?;
        // The delete waits for a claim that is still running somewhere; what that took is seen by the next statement.
        sqlx::query!("delete from graphile_worker.backfill_pools where id = $1", pool.as_str())
            .execute(self.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        self.give_back(&mut tx, pool, &[], far_future()).await?;
        tx.commit().await.map_err(fail)
    }

    pub(super) async fn release_unknown_jobs(&self, pool: &PoolId, holds: &[JobId]) -> Result<u64> {
        // The lost claim may still be running on a connection that only we have given up. It holds its pool's row, so this
        // waits for it; what it took is seen by the next statement. Each has its own transaction: one that stayed open while
        // this process is kept from going on would keep its sign of life from being shown.
        let until = sqlx::query_scalar!(
            r#"
with waited as materialized (
  select id from graphile_worker.backfill_pools where id = $1 for update
)
select clock_timestamp() as "until!: DateTime<Utc>" from waited
"#,
            pool.as_str()
        )
        .fetch_optional(self.schema.on(&self.db()))
        .await
        .map_err(|e| self.error("wait for a lost claim", e))?;
        // Nobody else may claim for a pool that is not there, and who took it for dead has released what it held.
        let Some(until) = until else { return Ok(0) };
        let mut tx = self.patient_transaction().await?;
        let released = self.give_back(&mut tx, pool, holds, until).await?;
        tx.commit().await.map_err(|e| self.error("give back jobs", e))?;
        Ok(released)
    }

    /// Gives back the jobs that a pool has claimed up to a moment, but for some. (What it claims later it knows of: this may
    /// itself be late.)
    async fn give_back(
        &self,
        conn: &mut PgConnection,
        pool: &PoolId,
        but: &[JobId],
        until: DateTime<Utc>,
    ) -> Result<u64> {
        // The attempt is given back, unless the job's key may have been taken over since the claim; that one must stay
        // unavailable. A takeover leaves no key, all attempts used, and a later moment of change.
        let released = sqlx::query_scalar!(
            r#"
with held as materialized (
  select job.id, job.job_queue_id, job.locked_at
  from graphile_worker._private_jobs job
  where job.locked_by = $1 and job.id <> all ($2) and job.locked_at <= $3
  for update
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
      when job.key is null and job.attempts >= job.max_attempts and job.updated_at <> job.created_at then job.attempts
      else greatest(job.attempts - 1, 0)
    end,
    locked_by = null,
    locked_at = null
  where job.id = any (array(select held.id from held))
  returning job.id
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || count(*)::text || '}')
  from released_job
  having count(*) > 0
)
select count(released_job.id) as "released!"
from released_job
left join notified on true
"#,
            pool.as_str(),
            but,
            until,
        )
        .fetch_one(self.schema.on(conn))
        .await
        .map_err(|e| self.error("give back jobs", e))?;
        Ok(u64::try_from(released).unwrap_or_default())
    }

    pub(super) async fn rescue_pools(&self, silence: Duration) -> Result<Vec<Rescued>> {
        let fail = |e| self.error("rescue the jobs of silent pools", e);
        // The cheap look first: nearly always nobody is silent, and then nothing is written or locked. While the server was
        // down nobody could show a sign, so a silence counts from its start.
        let silent = sqlx::query_scalar!(
            r#"
select exists (
  select from graphile_worker.backfill_pools
  where seen_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
    and pg_postmaster_start_time() < clock_timestamp() - $1::bigint * interval '1 microsecond'
) as "silent!"
"#,
            micros(silence),
        )
        .fetch_one(self.schema.on(&self.db()))
        .await
        .map_err(fail)?;
        if !silent {
            return Ok(Vec::new());
        }
        let mut tx = self.patient_transaction().await?;
        // Locking: the pools' rows go first. A pool that shows its sign at this moment either comes before (its row is no
        // longer silent when the delete looks again under the lock) or after (it finds its row gone, and knows). One that is
        // claiming holds its row, and is skipped. Of two rescuers, one gets the row.
        let dead = sqlx::query_scalar!(
            r#"
delete from graphile_worker.backfill_pools pool
where pool.id = any (array(
  select silent.id
  from graphile_worker.backfill_pools silent
  where silent.seen_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
  for update skip locked
))
returning pool.id
"#,
            micros(silence),
        )
        .fetch_all(self.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        // A statement of its own, so that it sees what a claim has taken that ended while the rows were being locked. The
        // jobs are locked by the dead pools, so nobody else writes them.
        let rows = sqlx::query!(
            r#"
with released_queue as (
  update graphile_worker._private_job_queues queue
  set locked_at = null, locked_by = null
  where queue.locked_by = any ($1)
),
released_job as (
  update graphile_worker._private_jobs job
  set
    locked_at = null,
    locked_by = null,
    run_at = greatest(job.run_at, now()),
    last_error = 'the worker pool ' || job.locked_by || ' stopped showing signs of life while it ran this job'
  where job.locked_by = any ($1)
  returning (select old.locked_by from graphile_worker._private_jobs old where old.id = job.id) as pool
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || count(*)::text || '}')
  from released_job
  having count(*) > 0
)
select dead.id as "pool!", count(released_job.pool) as "jobs!"
from unnest($1::text[]) as dead (id)
left join released_job on released_job.pool = dead.id
left join notified on true
group by dead.id
"#,
            &dead,
        )
        .fetch_all(self.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        Ok(rows
            .into_iter()
            .map(|row| Rescued { pool: row.pool, jobs: u64::try_from(row.jobs).unwrap_or_default() })
            .collect())
    }
}

/// Later than any lock.
fn far_future() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(9999, 12, 31).unwrap_or_default().and_time(NaiveTime::MIN).and_utc()
}
