//! Moving jobs from and to other storages.

use std::collections::HashSet;

use async_trait::async_trait;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::{Transfer, WorkerId, check_whole, reserved_at};
use backfill_core::{Error, Result};
use futures::TryStreamExt;
use serde_json::json;
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::add::{CHUNK_BYTES, LARGE};
use crate::errors::left_out;
use crate::file::micros;
use crate::heartbeat::wake;
use crate::manage::in_order;
use crate::row::{insert_moved, insert_moved_ones, jobs, moved_one};

#[async_trait]
impl Transfer for SqliteStorage {
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        let (after, until) = (after.map_or(i64::MIN, JobId::number), micros(reserved_at()));
        let transfer_id = transfer_id.to_owned();
        let taken = self.file.writer.write("reserve jobs", move |connection| {
            Box::pin(async move {
                // Texts are measured without being read, and no more of them than are taken.
                let mut ids = Vec::new();
                {
                    let mut waiting = sqlx::query!(
                        r#"
select job.id as "id!: i64", octet_length(job.payload) + coalesce(octet_length(job.last_error), 0) as "bytes!: i64"
from backfill_jobs job
where job.id > ?2 and ((job.locked_at is null and job.attempts < job.max_attempts) or job.locked_by = ?1)
order by job.id
limit ?3
"#,
                        transfer_id,
                        after,
                        limit
                    )
                    .fetch(&mut *connection);
                    let mut bytes = 0_u64;
                    while let Some(job) = waiting.try_next().await? {
                        bytes = bytes.saturating_add(job.bytes.unsigned_abs());
                        if !ids.is_empty() && bytes > max_bytes {
                            break;
                        }
                        ids.push(job.id);
                    }
                }
                let ids = crate::json(ids);
                let rows = jobs!(
                    r#"
update backfill_jobs set locked_at = ?3, locked_by = ?1
where id in (select value from json_each(?2))
returning
"#,
                    "",
                    transfer_id,
                    ids,
                    until
                );
                Ok(in_order(rows.fetch_all(connection).await?))
            })
        });
        let jobs = taken.await?;
        check_whole(&jobs)?;
        Ok(jobs)
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        let (ids, transfer_id) = (crate::json(JobId::numbers(ids)), transfer_id.to_owned());
        let deleted = self.file.writer.write("delete jobs that were moved", move |connection| {
            Box::pin(async move {
                let deleted = sqlx::query!(
                    "delete from backfill_jobs where id in (select value from json_each(?1)) and locked_by = ?2",
                    ids,
                    transfer_id
                );
                Ok(deleted.execute(connection).await?.rows_affected())
            })
        });
        deleted.await
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        let (registered, transfer_id, jobs) = (run.to_string(), transfer_id.to_owned(), jobs.to_vec());
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
                // What they are called, without what is large.
                let rows: Vec<serde_json::Value> =
                    jobs.iter().map(|job| json!([job.id.number(), job.task, job.queue, job.key])).collect();
                let rows = serde_json::Value::from(rows).to_string();
                // Which are new here, and not kept out by their keys: these are remembered first, and stored then.
                let new = sqlx::query_scalar!(
                    r#"
insert into backfill_imports (mover, id)
select ?2, value ->> 0
from json_each(?1)
where value ->> 3 is null or not exists (select 1 from backfill_jobs job where job.key = value ->> 3)
on conflict do nothing
returning id as "id!: i64"
"#,
                    rows,
                    transfer_id
                )
                .fetch_all(&mut *connection)
                .await?;
                let new: HashSet<i64> = new.into_iter().collect();
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
                let stored = store_moved(connection, jobs.iter().filter(|job| new.contains(&job.id.number()))).await?;
                if stored < new.len() {
                    // What is not here must not be deleted there.
                    let task = jobs.first().map_or("", |job| job.task.as_str());
                    return Err(left_out(task, new.len() - stored, new.len()));
                }
                // They are as ready as they were elsewhere, so claims may have passed by their places.
                wake(connection, u64::from(stored > 0)).await?;
                // Those that came now, and those that came before.
                let known = sqlx::query_scalar!(
                    r#"
select import.id as "id!: i64"
from backfill_imports import
where import.mover = ?2 and import.id in (select value ->> 0 from json_each(?1))
order by import.id
"#,
                    rows,
                    transfer_id
                );
                known.fetch_all(connection).await.map(Some)
            })
        });
        let here = here.await?.ok_or_else(|| Error::MoveTakenOver { run: run.to_string() })?;
        self.file.tell();
        Ok(here.into_iter().map(JobId::from_number).collect())
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        let transfer_id = transfer_id.to_owned();
        let forgotten = self.file.writer.write("forget a move", move |connection| {
            Box::pin(async move {
                sqlx::query!("delete from backfill_imports where mover = ?1", transfer_id).execute(connection).await?;
                Ok(())
            })
        });
        forgotten.await
    }
}

/// Stores jobs that were moved, as they are, in this order: many small ones in one statement, each large one in one of its own.
async fn store_moved(connection: &mut SqliteConnection, jobs: impl Iterator<Item = &Job>) -> sqlx::Result<usize> {
    let (mut rows, mut bytes, mut stored) = (Vec::new(), 0, 0);
    for job in jobs {
        let size = job.payload.as_str().len();
        if size > LARGE || bytes + size > CHUNK_BYTES {
            stored += insert_moved_ones(connection, std::mem::take(&mut rows)).await?;
            bytes = 0;
        }
        if size > LARGE {
            stored += insert_moved(connection, job).await?;
            continue;
        }
        bytes += size;
        rows.push(moved_one(job));
    }
    stored += insert_moved_ones(connection, rows).await?;
    Ok(usize::try_from(stored).unwrap_or(usize::MAX))
}
