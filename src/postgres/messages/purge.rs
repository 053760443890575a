//! Deleting what is no longer wanted, in parts, so that nobody waits for long.

use chrono::{DateTime, Utc};

use super::super::PostgresStorage;
use crate::error::Result;
use crate::storage::messages::Purge;

/// So many rows one part deletes.
const PART: i64 = 1_000;

impl PostgresStorage {
    pub(super) async fn purge_line(&self, line: &str, what: Purge) -> Result<u64> {
        let begun = sqlx::query_scalar!(r#"select clock_timestamp() as "now!: DateTime<Utc>""#)
            .fetch_one(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("read the clock", e))?;
        // What came after the call began stays, or it might never end.
        let (ready_by, added_by) = match what {
            Purge::All => (None, Some(begun)),
            Purge::ReadyBefore(time) => (Some(time.min(begun)), None),
            _ => (Some(begun), None),
        };
        let mut purged = self.in_parts(|| self.purge_available(line, ready_by, added_by)).await?;
        if let Some(added_by) = added_by {
            purged += self.in_parts(|| self.purge_held(line, added_by)).await?;
            purged += self.purge_dead(line, added_by).await?;
        }
        Ok(purged)
    }

    async fn in_parts<F: Future<Output = Result<u64>>>(&self, part: impl Fn() -> F) -> Result<u64> {
        let mut purged = 0;
        loop {
            let gone = self.database.retrying(&part).await?;
            purged += gone;
            if gone < u64::try_from(PART).unwrap_or_default() {
                return Ok(purged);
            }
        }
    }

    /// What nobody holds. What somebody has locked at this moment is being taken.
    async fn purge_available(
        &self,
        line: &str,
        ready_by: Option<DateTime<Utc>>,
        added_by: Option<DateTime<Utc>>,
    ) -> Result<u64> {
        let mut work = self.database.work_in_time().await?;
        let gone = sqlx::query!(
            r#"
delete from graphile_worker._private_jobs
where id = any (array(
  select job.id
  from graphile_worker._private_jobs job
  where job.is_available = true
    and job.task_id = (select task.id from graphile_worker._private_tasks task where task.identifier = $1)
    and ($2::timestamptz is null or job.run_at <= $2)
    and ($3::timestamptz is null or job.created_at <= $3)
  order by job.priority, job.run_at, job.id
  limit $4
  for update skip locked
))
"#,
            line,
            ready_by,
            added_by,
            PART,
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("purge a line", e))?;
        self.database.done(work).await?;
        Ok(gone.rows_affected())
    }

    /// What somebody holds; a queue that is held for it is free again.
    async fn purge_held(&self, line: &str, added_by: DateTime<Utc>) -> Result<u64> {
        let mut work = self.database.work_in_time().await?;
        let gone = sqlx::query_scalar!(
            r#"
with gone as (
  delete from graphile_worker._private_jobs
  where id = any (array(
    select job.id
    from graphile_worker._private_jobs job
    where job.locked_at is not null
      and job.task_id = (select task.id from graphile_worker._private_tasks task where task.identifier = $1)
      and job.created_at <= $2
    limit $3
    for update skip locked
  ))
  returning job_queue_id, locked_by, locked_at
),
freed as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from gone
  where queue.id = gone.job_queue_id and queue.locked_by = gone.locked_by and queue.locked_at = gone.locked_at
)
select count(*) as "count!" from gone
"#,
            line,
            added_by,
            PART,
        )
        .fetch_one(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("purge a line", e))?;
        self.database.done(work).await?;
        Ok(u64::try_from(gone).unwrap_or_default())
    }

    /// What is dead. No index knows those, so the table is read as a whole, once.
    async fn purge_dead(&self, line: &str, added_by: DateTime<Utc>) -> Result<u64> {
        let mut tx = self.database.waiting_transaction().await?;
        let gone = sqlx::query!(
            r#"
delete from graphile_worker._private_jobs
where id = any (array(
  select job.id
  from graphile_worker._private_jobs job
  where not job.is_available
    and job.locked_at is null
    and job.task_id = (select task.id from graphile_worker._private_tasks task where task.identifier = $1)
    and job.created_at <= $2
  for update skip locked
))
"#,
            line,
            added_by,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(|e| self.database.error("purge a line", e))?;
        tx.commit().await.map_err(|e| self.database.error("purge a line", e))?;
        Ok(gone.rows_affected())
    }

    pub(super) async fn delete_events(&self, stream: &str, upto: u64) -> Result<u64> {
        let mut work = self.database.work_in_time().await?;
        let gone = sqlx::query!(
            "delete from graphile_worker.backfill_events where stream = $1 and position <= $2",
            stream,
            i64::try_from(upto).unwrap_or(i64::MAX),
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("forget events", e))?;
        self.database.done(work).await?;
        Ok(gone.rows_affected())
    }

    pub(super) async fn delete_expired_documents(&self, limit: u32) -> Result<u64> {
        let mut work = self.database.work_in_time().await?;
        // Whoever stores one anew at this moment has it locked.
        let gone = sqlx::query!(
            r#"
delete from graphile_worker.backfill_documents
where (kind, key) in (
  select document.kind, document.key
  from graphile_worker.backfill_documents document
  where document.until <= clock_timestamp()
  limit $1
  for update skip locked
)
"#,
            i64::from(limit),
        )
        .execute(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("forget expired documents", e))?;
        self.database.done(work).await?;
        Ok(gone.rows_affected())
    }
}
