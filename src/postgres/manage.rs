//! The administrative verbs.
//!
//! Those that Graphile has as SQL functions go through these functions, so that a later revision that changes
//! their meaning changes ours too.

use async_trait::async_trait;

use super::PostgresStorage;
use super::connection::row::jobs;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{Admin, Cleaned, Cleanup, Reschedule, clean_error};

#[async_trait]
impl Admin for PostgresStorage {
    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        self.database.retrying(|| self.remove_job(key)).await
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.database.retrying(|| self.complete_jobs(ids)).await
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let discard = |reason: String| async move { self.database.retrying(|| self.discard_jobs(ids, &reason)).await };
        self.database.with_storable(clean_error(reason), discard).await
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        self.freed(self.database.retrying(|| self.reschedule_jobs(ids, change)).await)
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        self.freed(self.database.retrying(|| self.unlock_workers(workers)).await)
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        self.database.retrying(|| self.clean(what)).await
    }
}

impl PostgresStorage {
    pub(super) async fn release_stale_locks(&self) -> Result<u64> {
        // A lock of four hours is no lock: Graphile's rule, for jobs and queues alike. But workers that send heartbeats are
        // judged by those. The job's turn is now at the earliest. Rows are locked in id order, so that two sweeps at once do
        // not deadlock; held ones are skipped,
        // the next sweep finds them.
        let fail = |e| self.database.error("release stale locks", e);
        let mut tx = self.database.waiting_transaction().await?;
        let released = sqlx::query_scalar!(
            r#"
with stale_job as (
  select job.id
  from graphile_worker._private_jobs job
  where job.locked_at < now() - interval '4 hours'
    and not exists (select from graphile_worker.backfill_pools pool where pool.id = job.locked_by)
  order by job.id
  for update skip locked
),
stale_queue as (
  select queue.id
  from graphile_worker._private_job_queues queue
  where queue.locked_at < now() - interval '4 hours'
    and not exists (select from graphile_worker.backfill_pools pool where pool.id = queue.locked_by)
  order by queue.id
  for update skip locked
),
released_queue as (
  update graphile_worker._private_job_queues queue
  set locked_at = null, locked_by = null
  where queue.id = any (array(select stale_queue.id from stale_queue))
  returning queue.id
),
released_job as (
  update graphile_worker._private_jobs job
  set locked_at = null, locked_by = null, run_at = greatest(job.run_at, now())
  where job.id = any (array(select stale_job.id from stale_job))
  returning job.id
),
-- A queue may be held by whoever holds no job of it.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || greatest(count(*), 1)::text || '}')
  from released_job
  having count(*) > 0 or exists (select from released_queue)
)
-- The notification is sent because it is read, also if there is no job.
select (select count(*) from released_job) as "released!"
from (values (1)) as one
left join notified on true
"#
        )
        .fetch_one(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        Ok(u64::try_from(released).unwrap_or_default())
    }

    pub(super) async fn remove_job(&self, key: &str) -> Result<Option<Job>> {
        // The function answers a row of nulls when there is no such job; the joins drop it.
        let row = jobs!(
            r#"
with job as materialized (
  select * from graphile_worker.remove_job($1)
),
-- What stood behind it in its queue may be first now, and was passed by.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}')
  from job
  where job.job_queue_id is not null
  having count(*) > 0
)
"#,
            r#"
from job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
left join notified on true
"#,
            key,
        )
        .fetch_optional(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("remove a job", e))?;
        Ok(row.map(Job::from))
    }

    pub(super) async fn complete_jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let rows = jobs!(
            r#"
with job as materialized (
  select * from graphile_worker.complete_jobs($1)
),
-- What stood behind it in its queue may be first now, and was passed by.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}')
  from job
  where job.job_queue_id is not null
  having count(*) > 0
)
"#,
            r#"
from job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
left join notified on true
order by job.id
"#,
            &JobId::numbers(ids),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("complete jobs", e))?;
        Ok(rows.into_iter().map(Job::from).collect())
    }

    pub(super) async fn discard_jobs(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let rows = jobs!(
            r#"
with job as materialized (
  select * from graphile_worker.permanently_fail_jobs($1, $2)
),
-- What stood behind it in its queue may be first now, and was passed by.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}')
  from job
  where job.job_queue_id is not null
  having count(*) > 0
)
"#,
            r#"
from job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
left join notified on true
order by job.id
"#,
            &JobId::numbers(ids),
            clean_error(reason),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("discard jobs", e))?;
        Ok(rows.into_iter().map(Job::from).collect())
    }

    pub(super) async fn reschedule_jobs(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        // The function itself notifies nobody; without the notification a job moved to now would wait for a poll.
        let rows = jobs!(
            r#"
with job as materialized (
  select *
  from graphile_worker.reschedule_jobs(
    $1, run_at => coalesce($2, now() + make_interval(secs => $6)), priority => $3, attempts => $4, max_attempts => $5
  )
),
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || count(*)::text || '}')
  from job
  where job.is_available and job.run_at <= now()
  having count(*) > 0
)
"#,
            r#"
from job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
left join notified on true
order by job.id
"#,
            &JobId::numbers(ids),
            change.get_run_at(),
            change.get_priority().map(|priority| i32::from(priority.0)),
            change.get_attempts().map(i32::from),
            change.get_max_attempts().map(i32::from),
            change.get_run_in().map(|delay| delay.as_secs_f64()),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("reschedule jobs", e))?;
        Ok(rows.into_iter().map(Job::from).collect())
    }

    pub(super) async fn unlock_workers(&self, workers: &[String]) -> Result<u64> {
        let fail = |e| self.database.error("unlock workers", e);
        let mut tx = self.database.waiting_transaction().await?;
        // (A schema that only Node has used has no such table.)
        let has_workers = sqlx::query_scalar!(
            r#"
select exists (
  select from pg_catalog.pg_class rel
  where rel.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1) and rel.relname = 'backfill_pools'
) as "has_pools!"
"#,
            self.database.schema.name(),
        )
        .fetch_one(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        if has_workers {
            // Whoever is unlocked counts as dead: a worker that is alive all the same notices, as after a rescue.
            // Locking: the workers' rows go first, in one order. This waits for their claims, and for handoffs to them, that are
            // under way; what those took is seen by the statements that follow, and later ones find no row.
            sqlx::query!(
                r#"
delete from graphile_worker.backfill_pools pool
where pool.id = any (array(
  select unlocked.id from graphile_worker.backfill_pools unlocked
  where unlocked.id = any ($1)
  order by unlocked.id
  for update
))
"#,
                workers
            )
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        }
        let held = sqlx::query_scalar!(
            r#"
select count(*) as "held!"
from graphile_worker._private_jobs job
where job.locked_by = any ($1)
"#,
            workers,
        )
        .fetch_one(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        // The function notifies nobody, so do it here: the jobs are ready again.
        sqlx::query!(
            r#"
select
  graphile_worker.force_unlock_workers($1),
  pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || $2::bigint::text || '}')
"#,
            workers,
            held,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        tx.commit().await.map_err(|e| self.database.error("commit unlocking", e))?;
        Ok(u64::try_from(held).unwrap_or_default())
    }

    pub(super) async fn clean(&self, what: &Cleanup) -> Result<Cleaned> {
        let mut cleaned = Cleaned::default();
        if what.dead_jobs {
            cleaned.dead_jobs = self.delete_dead_jobs().await?;
        }
        if what.tasks {
            cleaned.tasks = self.forget_tasks(&what.keep_tasks).await?;
        }
        if what.queues {
            cleaned.queues = self.forget_queues().await?;
        }
        Ok(cleaned)
    }

    async fn delete_dead_jobs(&self) -> Result<u64> {
        // In chunks, so that no transaction holds locks on millions of rows. `>=`, because a job's attempts may have
        // been moved past its maximum by hand.
        let mut total = 0;
        loop {
            let deleted = sqlx::query!(
                r#"
delete from graphile_worker._private_jobs
where id = any (array(
  select job.id
  from graphile_worker._private_jobs job
  where job.locked_at is null and job.attempts >= job.max_attempts
  limit 10000
  for update skip locked
))
"#
            )
            .execute(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("delete dead jobs", e))?
            .rows_affected();
            if deleted == 0 {
                return Ok(total);
            }
            total += deleted;
        }
    }
}
