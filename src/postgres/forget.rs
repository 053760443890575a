//! Forgetting names that no job has.
//!
//! An enqueuer first makes sure that the name exists and then inserts the job, both Node's functions and our statements; a name
//! deleted in between would leave a job that nobody ever fetches. Every enqueuer takes the ordinary lock of an insert on the *names'
//! table*, even if it inserts no name, and keeps it to the end of its transaction. A `share row exclusive` lock on that table
//! conflicts with that: once it is granted, no enqueuer is in between, and those that follow look names up after the deletion.
//! `lock_timeout` keeps a long transaction that holds us up from holding up everybody who queues behind us.
//!
//! To find out which names are unused takes reading all jobs, and nobody may wait for that. So the lock is taken twice, each time for
//! a moment. The first time tells the highest number of a job: whatever has a lower one is there, or gone. Then the jobs are read
//! without a lock. The second time only jobs that may have got a name since are looked at: those with a higher number, and those
//! with a key, which may have been replaced. (A job that has lost its key since has no attempts left.)

use super::PostgresStorage;
use crate::error::Result;

impl PostgresStorage {
    pub(super) async fn forget_tasks(&self, keep: &[String]) -> Result<u64> {
        let fail = |e| self.database.error("forget task names", e);
        let locked =
            |e| self.database.error("lock the task names (another transaction is using them; try again later)", e);
        let again =
            |e| self.database.error("look at unused task names again (too many jobs have keys; try again later)", e);
        let mut tx = self.database.transaction().await?;
        sqlx::query!("set local lock_timeout = '2s'").execute(self.database.schema.on(&mut *tx)).await.map_err(fail)?;
        sqlx::query!("lock table graphile_worker._private_tasks in share row exclusive mode")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(locked)?;
        let last = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "last!" from graphile_worker._private_jobs"#)
            .fetch_one(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        let unused = sqlx::query_scalar!(
            r#"
select task.id
from graphile_worker._private_tasks task
where task.identifier <> all ($1)
  and not exists (select from graphile_worker._private_jobs job where job.task_id = task.id)
"#,
            keep,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        if unused.is_empty() {
            return Ok(0);
        }
        let mut tx = self.database.transaction().await?;
        sqlx::query!("set local lock_timeout = '2s'").execute(self.database.schema.on(&mut *tx)).await.map_err(fail)?;
        sqlx::query!("lock table graphile_worker._private_tasks in share row exclusive mode")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(locked)?;
        // By the indexes, whatever the statistics say; and nobody is held up for longer than this.
        sqlx::query!("set local enable_seqscan = off")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        sqlx::query!("set local statement_timeout = '1s'")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        let deleted = sqlx::query!(
            r#"
delete from graphile_worker._private_tasks task
where task.id = any ($1)
  and not exists (select from graphile_worker._private_jobs job where job.id > $2 and job.task_id = task.id)
  and not exists (select from graphile_worker._private_jobs job where job.key is not null and job.task_id = task.id)
"#,
            &unused,
            last,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(again)?
        .rows_affected();
        tx.commit().await.map_err(fail)?;
        Ok(deleted)
    }

    /// The same of serial queues, but for those that are held.
    pub(super) async fn forget_queues(&self) -> Result<u64> {
        let fail = |e| self.database.error("forget queues", e);
        let locked = |e| self.database.error("lock the queues (another transaction is using them; try again later)", e);
        let again =
            |e| self.database.error("look at unused queues again (too many jobs have keys; try again later)", e);
        let mut tx = self.database.transaction().await?;
        sqlx::query!("set local lock_timeout = '2s'").execute(self.database.schema.on(&mut *tx)).await.map_err(fail)?;
        sqlx::query!("lock table graphile_worker._private_job_queues in share row exclusive mode")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(locked)?;
        let last = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "last!" from graphile_worker._private_jobs"#)
            .fetch_one(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        let unused = sqlx::query_scalar!(
            r#"
select queue.id
from graphile_worker._private_job_queues queue
where queue.locked_at is null
  and not exists (select from graphile_worker._private_jobs job where job.job_queue_id = queue.id)
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        if unused.is_empty() {
            return Ok(0);
        }
        let mut tx = self.database.transaction().await?;
        sqlx::query!("set local lock_timeout = '2s'").execute(self.database.schema.on(&mut *tx)).await.map_err(fail)?;
        sqlx::query!("lock table graphile_worker._private_job_queues in share row exclusive mode")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(locked)?;
        sqlx::query!("set local enable_seqscan = off")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        sqlx::query!("set local statement_timeout = '1s'")
            .execute(self.database.schema.on(&mut *tx))
            .await
            .map_err(fail)?;
        let deleted = sqlx::query!(
            r#"
delete from graphile_worker._private_job_queues queue
where queue.id = any ($1)
  and queue.locked_at is null
  and not exists (select from graphile_worker._private_jobs job where job.id > $2 and job.job_queue_id = queue.id)
  and not exists (select from graphile_worker._private_jobs job where job.key is not null and job.job_queue_id = queue.id)
"#,
            &unused,
            last,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(again)?
        .rows_affected();
        tx.commit().await.map_err(fail)?;
        Ok(deleted)
    }
}
