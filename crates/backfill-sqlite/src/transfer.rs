//! Moving jobs from and to other storages.

use backfill_core::job::{Job, JobId};
use backfill_core::storage::{PoolId, check_whole, taken_out};
use backfill_core::{Error, Result};
use serde_json::json;

use crate::SqliteStorage;
use crate::file::micros;
use crate::left_out;
use crate::manage::in_order;
use crate::row::{flags_text, jobs};

impl SqliteStorage {
    pub(crate) async fn take_jobs_out(&self, mover: String, after: Option<JobId>, limit: u32) -> Result<Vec<Job>> {
        let (after, until) = (after.unwrap_or(JobId::MIN), micros(taken_out()));
        let taken = self.file.writer.write("take jobs out", move |connection| {
            Box::pin(async move {
                let rows = jobs!(
                    r#"
update backfill_jobs set locked_at = ?3, locked_by = ?1
where id in (
  select job.id
  from backfill_jobs job
  where job.id > ?2 and ((job.locked_at is null and job.attempts < job.max_attempts) or job.locked_by = ?1)
  order by job.id
  limit ?4
)
returning
"#,
                    "",
                    mover,
                    after,
                    until,
                    limit
                );
                Ok(in_order(rows.fetch_all(connection).await?))
            })
        });
        let jobs = taken.await?;
        check_whole(&jobs)?;
        Ok(jobs)
    }

    pub(crate) async fn delete_taken_jobs(&self, mover: String, ids: &[JobId]) -> Result<u64> {
        let ids = crate::json(ids.to_vec());
        let deleted = self.file.writer.write("delete jobs that were moved", move |connection| {
            Box::pin(async move {
                let deleted = sqlx::query!(
                    "delete from backfill_jobs where id in (select value from json_each(?1)) and locked_by = ?2",
                    ids,
                    mover
                );
                Ok(deleted.execute(connection).await?.rows_affected())
            })
        });
        deleted.await
    }

    #[expect(clippy::too_many_lines, reason = "the statements of one transaction")]
    pub(crate) async fn import_jobs(&self, run: &PoolId, mover: String, jobs: Vec<Job>) -> Result<Vec<JobId>> {
        let registered = run.to_string();
        let here = self.file.writer.write("store jobs that are moved", move |connection| {
            Box::pin(async move {
                let runs = sqlx::query_scalar!(
                    r#"select count(*) as "count!: i64" from backfill_pools where id = ?1"#,
                    registered
                )
                .fetch_one(&mut *connection)
                .await?;
                if runs == 0 {
                    return Ok(None);
                }
                let rows: Vec<serde_json::Value> = jobs
                    .iter()
                    .map(|job| {
                        json!([
                            job.id,
                            job.task,
                            job.queue,
                            job.payload.as_str(),
                            job.priority.0,
                            micros(job.run_at),
                            job.attempts,
                            job.max_attempts,
                            job.last_error,
                            micros(job.created_at),
                            micros(job.updated_at),
                            job.key,
                            job.revision,
                            flags_text(&job.flags)
                        ])
                    })
                    .collect();
                let rows = serde_json::Value::from(rows).to_string();
                // Which are new here, and not kept out by their keys: these are remembered first, and stored then.
                let new = sqlx::query_scalar!(
                    r#"
insert into backfill_imports (mover, id)
select ?2, value ->> 0
from json_each(?1)
where value ->> 11 is null or not exists (select 1 from backfill_jobs job where job.key = value ->> 11)
on conflict do nothing
returning id as "id!: i64"
"#,
                    rows,
                    mover
                )
                .fetch_all(&mut *connection)
                .await?;
                let many = new.len();
                let new = crate::json(new);
                sqlx::query!(
                    "insert into backfill_tasks (name) select distinct value ->> 1 from json_each(?1) where true on conflict do nothing",
                    rows
                )
                .execute(&mut *connection)
                .await?;
                sqlx::query!(
                    r#"
insert into backfill_queues (name)
select distinct value ->> 2 from json_each(?1) where value ->> 2 is not null
on conflict do nothing
"#,
                    rows
                )
                .execute(&mut *connection)
                .await?;
                let inserted = sqlx::query!(
                    r#"
insert into backfill_jobs (
  task, queue, payload, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at, key, revision, flags
)
select
  value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
  value ->> 10, value ->> 11, value ->> 12, value ->> 13
from json_each(?1)
where value ->> 0 in (select value from json_each(?2))
"#,
                    rows,
                    new
                )
                .execute(&mut *connection)
                .await?
                .rows_affected();
                let inserted = usize::try_from(inserted).unwrap_or(usize::MAX);
                if inserted < many {
                    // What is not here must not be deleted there.
                    let task = jobs.first().map_or("", |job| job.task.as_str());
                    return Err(left_out(task, many - inserted, many));
                }
                // Those that came now, and those that came before.
                let known = sqlx::query_scalar!(
                    r#"
select import.id as "id!: i64"
from backfill_imports import
where import.mover = ?2 and import.id in (select value ->> 0 from json_each(?1))
order by import.id
"#,
                    rows,
                    mover
                );
                known.fetch_all(connection).await.map(Some)
            })
        });
        let here = here.await?.ok_or_else(|| Error::MoveTakenOver { run: run.to_string() })?;
        self.file.tell();
        Ok(here)
    }

    pub(crate) async fn forget_imported(&self, mover: String) -> Result<()> {
        let forgotten = self.file.writer.write("forget a move", move |connection| {
            Box::pin(async move {
                sqlx::query!("delete from backfill_imports where mover = ?1", mover).execute(connection).await?;
                Ok(())
            })
        });
        forgotten.await
    }
}
