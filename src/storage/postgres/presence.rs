//! Signs of life of worker pools, in a table of our own.
//!
//! All times are the database's, so the workers' clocks do not matter. Pools without a row (Node's) are never touched
//! here; for them the four-hour rule of the sweep stays.

use std::time::Duration;

use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::storage::{PoolId, Rescued};

impl PostgresStorage {
    pub(super) async fn show_sign(&self, pool: &PoolId, first: bool) -> Result<bool> {
        let shown = if first {
            sqlx::query!(
                "insert into graphile_worker.backfill_pools (id) values ($1) on conflict do nothing",
                pool.as_str()
            )
            .execute(self.schema.on(&self.pool))
            .await
        } else {
            sqlx::query!(
                "update graphile_worker.backfill_pools set seen_at = clock_timestamp() where id = $1",
                pool.as_str()
            )
            .execute(self.schema.on(&self.pool))
            .await
        };
        Ok(shown.map_err(|e| self.error("show a sign of life", e))?.rows_affected() > 0)
    }

    pub(super) async fn withdraw(&self, pool: &PoolId) -> Result<()> {
        sqlx::query!("delete from graphile_worker.backfill_pools where id = $1", pool.as_str())
            .execute(self.schema.on(&self.pool))
            .await
            .map_err(|e| self.error("withdraw the sign of life", e))?;
        Ok(())
    }

    pub(super) async fn rescue_pools(&self, silence: Duration) -> Result<Vec<Rescued>> {
        // The cheap look first: nearly always nobody is silent, and then nothing is written or locked.
        let silent = sqlx::query_scalar!(
            r#"
select exists (
  select from graphile_worker.backfill_pools
  where seen_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
) as "silent!"
"#,
            micros(silence),
        )
        .fetch_one(self.schema.on(&self.pool))
        .await
        .map_err(|e| self.error("look for silent pools", e))?;
        if !silent {
            return Ok(Vec::new());
        }
        // Locking: the pool's row is deleted first. A pool that shows its sign at this moment either comes before (its
        // row is no longer silent when the delete looks again) or after (it finds its row gone and knows). Of two
        // rescuers, one gets the row. Jobs are locked by the dead pool, so nobody else writes them.
        let rows = sqlx::query!(
            r#"
with dead as (
  delete from graphile_worker.backfill_pools pool
  where pool.id = any (array(
    select silent.id
    from graphile_worker.backfill_pools silent
    where silent.seen_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
    for update skip locked
  ))
  returning pool.id
),
released_queue as (
  update graphile_worker._private_job_queues queue
  set locked_at = null, locked_by = null
  where queue.locked_by = any (array(select dead.id from dead))
),
released_job as (
  update graphile_worker._private_jobs job
  set
    locked_at = null,
    locked_by = null,
    run_at = greatest(job.run_at, now()),
    last_error = 'the worker pool ' || job.locked_by || ' stopped showing signs of life while it ran this job'
  where job.locked_by = any (array(select dead.id from dead))
  returning (select old.locked_by from graphile_worker._private_jobs old where old.id = job.id) as pool
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || count(*)::text || '}')
  from released_job
  having count(*) > 0
)
select dead.id as "pool!", count(released_job.pool) as "jobs!"
from dead
left join released_job on released_job.pool = dead.id
left join notified on true
group by dead.id
"#,
            micros(silence),
        )
        .fetch_all(self.schema.on(&self.pool))
        .await
        .map_err(|e| self.error("rescue the jobs of silent pools", e))?;
        Ok(rows
            .into_iter()
            .map(|row| Rescued { pool: row.pool, jobs: u64::try_from(row.jobs).unwrap_or_default() })
            .collect())
    }
}
