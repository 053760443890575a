//! Moving jobs from and to other storages.

use async_trait::async_trait;

use super::PostgresStorage;
use super::connection::rights::Need;
use super::connection::row::{Moved, jobs};
use crate::error::{Error, FailureKind, Result};
use crate::job::{Job, JobId};
use crate::storage::{Transfer, WorkerId, check_whole, reserved_at};

#[async_trait]
impl Transfer for PostgresStorage {
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        self.database.retrying(|| self.reserve_jobs(transfer_id, after, limit, max_bytes)).await
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        self.database.retrying(|| self.delete_reserved_jobs(transfer_id, ids)).await
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        match self.database.retrying(|| self.import_jobs(run, transfer_id, jobs)).await {
            Err(error) if super::connection::encoding::is_for_a_character(&error) => {
                match self.database.storable_jobs(jobs).await? {
                    Some(storable) => self.database.retrying(|| self.import_jobs(run, transfer_id, &storable)).await,
                    None => Err(error),
                }
            }
            imported => imported,
        }
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        self.database.explained(Need::Work, self.forget_imported(transfer_id).await).await
    }
}

impl PostgresStorage {
    pub(super) async fn reserve_jobs(
        &self,
        transfer_id: &str,
        after: Option<JobId>,
        limit: u32,
        max_bytes: u64,
    ) -> Result<Vec<Job>> {
        let mut after = after.map_or(i64::MIN, JobId::number);
        loop {
            let next = self.next_to_move(transfer_id, after, limit, max_bytes).await?;
            let Some(last) = next.last() else { return Ok(Vec::new()) };
            after = *last;
            let taken = self.reserve_these(transfer_id, &next).await?;
            // Others may hold all of these at this moment, and not those behind.
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// The jobs that come next, as many as are so many bytes together.
    async fn next_to_move(&self, transfer_id: &str, after: i64, limit: u32, max_bytes: u64) -> Result<Vec<i64>> {
        // One step for each job, so that no payload is unpacked to be measured but of those that are taken, and of one more. Locks
        // nothing.
        sqlx::query_scalar!(
            r#"
with recursive walk (id, bytes, jobs) as (
  select $2::bigint, 0::bigint, 0
  union all
  select next.id, walk.bytes + next.bytes, walk.jobs + 1
  from walk
  cross join lateral (
    select
      waiting.id,
      octet_length(waiting.payload::text)::bigint + coalesce(octet_length(waiting.last_error), 0) as bytes
    from graphile_worker._private_jobs waiting
    where waiting.id > walk.id and (waiting.is_available or waiting.locked_by = $1)
    order by waiting.id
    limit 1
  ) as next
  where walk.jobs < $3 and walk.bytes <= $4
)
select walk.id as "id!"
from walk
where walk.jobs = 1 or (walk.jobs > 1 and walk.bytes <= $4)
order by walk.id
"#,
            transfer_id,
            after,
            i32::try_from(limit).unwrap_or(i32::MAX),
            i64::try_from(max_bytes).unwrap_or(i64::MAX),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for jobs to move", e))
    }

    async fn reserve_these(&self, transfer_id: &str, ids: &[i64]) -> Result<Vec<Job>> {
        // Locking: jobs that somebody is just claiming or changing are passed by. The moment lies so far in the future that no
        // sweep, ours or Node's, ever takes the lock for old.
        let rows = jobs!(
            r#"
with job as (
  update graphile_worker._private_jobs job
  set locked_at = $3, locked_by = $1
  where job.id = any (array(
    select waiting.id
    from graphile_worker._private_jobs waiting
    where waiting.id = any ($2) and (waiting.is_available or waiting.locked_by = $1)
    order by waiting.id
    for update skip locked
  ))
  returning job.*
)
"#,
            r#"
from job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
order by job.id
"#,
            transfer_id,
            ids,
            reserved_at(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("reserve jobs", e))?;
        let jobs: Vec<Job> = rows.into_iter().map(Job::from).collect();
        check_whole(&jobs)?;
        Ok(jobs)
    }

    pub(super) async fn delete_reserved_jobs(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        let deleted = sqlx::query!(
            "delete from graphile_worker._private_jobs where id = any ($2) and locked_by = $1",
            transfer_id,
            &JobId::numbers(ids)
        )
        .execute(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("delete jobs that were moved", e))?;
        Ok(deleted.rows_affected())
    }

    pub(super) async fn import_jobs(&self, run: &WorkerId, transfer_id: &str, batch: &[Job]) -> Result<Vec<JobId>> {
        let fail = |e| self.database.error("store jobs that are moved", e);
        let ids: Vec<i64> = batch.iter().map(|job| job.id.number()).collect();
        let keys: Vec<Option<&str>> = batch.iter().map(|job| job.key.as_deref()).collect();
        let mut tx = self.database.transaction().await?;
        // As for a claim: the lock keeps whoever declares this run dead waiting until we commit.
        let registered = sqlx::query!(
            "select id from graphile_worker.backfill_pools where id = $1 and seen_at > 'epoch' for key share",
            run.as_str()
        )
        .fetch_optional(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        if registered.is_none() {
            return Err(Error::MoveTakenOver { run: run.to_string() });
        }
        // Which are new here, and not kept out by their keys: these are remembered first, and stored then. If a key is taken in
        // between, storing fails, and with it the remembering.
        let new = sqlx::query_scalar!(
            r#"
insert into graphile_worker.backfill_imports (mover, id)
select $1, moved.id
from unnest($2::bigint[], $3::text[]) as moved (id, key)
where moved.key is null
  or not exists (select from graphile_worker._private_jobs job where job.key = moved.key)
on conflict do nothing
returning id
"#,
            transfer_id,
            &ids,
            &keys as &[Option<&str>],
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        let new: std::collections::HashSet<i64> = new.into_iter().collect();
        let moved = Moved::of(batch.iter().filter(|job| new.contains(&job.id.number())));
        self.name_tasks(&mut tx, &moved.task).await?;
        self.name_queues(&mut tx, &moved.queue).await?;
        let stored = self.database.insert_moved(&mut tx, &moved).await.map_err(fail)?;
        if usize::try_from(stored) != Ok(moved.task.len()) {
            let kept = usize::try_from(stored).unwrap_or_default();
            // Nothing is kept. If no trigger did it, somebody forgot a name at this moment.
            if self.is_guarded(&mut tx).await? {
                let task = moved.task.first().copied().unwrap_or_default().to_owned();
                return Err(Error::LeftOut {
                    task,
                    jobs: moved.task.len() - kept.min(moved.task.len()),
                    of: moved.task.len(),
                });
            }
            return Err(Error::storage(
                "store the jobs that are moved",
                FailureKind::Conflict,
                format!("only {stored} of {} could be stored, so none was", moved.task.len()),
            ));
        }
        let here = sqlx::query_scalar!(
            "select id from graphile_worker.backfill_imports where mover = $1 and id = any ($2) order by id",
            transfer_id,
            &ids,
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        Ok(here.into_iter().map(JobId::from_number).collect())
    }

    pub(super) async fn forget_imported(&self, transfer_id: &str) -> Result<()> {
        sqlx::query!("delete from graphile_worker.backfill_imports where mover = $1", transfer_id)
            .execute(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("forget a move", e))?;
        Ok(())
    }
}
