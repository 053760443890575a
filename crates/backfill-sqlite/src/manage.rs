//! The administrative verbs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::{Admin, Cleaned, Cleanup, Reschedule, clean_error};

use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::errors::failed;
use crate::file::micros;
use crate::heartbeat::{STALE, wake};
use crate::row::{Text, jobs};

/// How many dead jobs one transaction deletes, so that others get their turn.
const CHUNK: i64 = 10_000;

#[async_trait]
impl Admin for SqliteStorage {
    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        let (clock, key) = (Arc::clone(self.file.clock()), key.to_owned());
        self.file
            .writer
            .write("remove a job", move |connection| {
                Box::pin(async move {
                    let now = clock.now();
                    let limit = now - STALE;
                    let deleted = jobs!(
                        "delete from backfill_jobs where key = ?1 and (locked_at is null or locked_at < ?2) returning",
                        "",
                        key,
                        limit
                    )
                    .fetch_optional(&mut *connection)
                    .await?;
                    if let Some(deleted) = deleted.map(Job::from) {
                        wake_behind(connection, std::slice::from_ref(&deleted)).await?;
                        return Ok(Some(deleted));
                    }
                    // It runs: it loses its key and further attempts, after it was claimed, whatever the clock says.
                    let taken = jobs!(
                        r#"
update backfill_jobs set key = null, attempts = max_attempts, updated_at = max(?2, coalesce(locked_at, 0) + 1)
where key = ?1
returning
"#,
                        "",
                        key,
                        now
                    );
                    Ok(taken.fetch_optional(connection).await?.map(Job::from))
                })
            })
            .await
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let (clock, ids) = (Arc::clone(self.file.clock()), crate::json(JobId::numbers(ids)));
        let jobs = self.file.writer.write("complete jobs", move |connection| {
            Box::pin(async move {
                let limit = clock.now() - STALE;
                let rows = jobs!(
                    r#"
delete from backfill_jobs
where id in (select value from json_each(?1)) and (locked_at is null or locked_at < ?2)
returning
"#,
                    "",
                    ids,
                    limit
                );
                let jobs = in_order(rows.fetch_all(&mut *connection).await?);
                wake_behind(connection, &jobs).await?;
                Ok(jobs)
            })
        });
        jobs.await
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let (clock, ids, reason) =
            (Arc::clone(self.file.clock()), crate::json(JobId::numbers(ids)), clean_error(reason));
        let jobs = self.file.writer.write("discard jobs", move |connection| {
            Box::pin(async move {
                let now = clock.now();
                let limit = now - STALE;
                let rows = jobs!(
                    r#"
update backfill_jobs set last_error = ?3, attempts = max_attempts, updated_at = ?4
where id in (select value from json_each(?1)) and (locked_at is null or locked_at < ?2)
returning
"#,
                    "",
                    ids,
                    limit,
                    reason,
                    now
                );
                let jobs = in_order(rows.fetch_all(&mut *connection).await?);
                wake_behind(connection, &jobs).await?;
                Ok(jobs)
            })
        });
        jobs.await
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        let (clock, ids, change) = (Arc::clone(self.file.clock()), crate::json(JobId::numbers(ids)), change.clone());
        let jobs = self
            .file
            .writer
            .write("reschedule jobs", move |connection| {
                Box::pin(async move {
                    let now = clock.now();
                    let limit = now - STALE;
                    let after = |delay: Duration| i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
                    let run_in = change.get_run_in().map(|delay| now.saturating_add(after(delay)));
                    let run_at = change.get_run_at().map(micros).or(run_in);
                    let priority = change.get_priority().map(|priority| priority.0);
                    let (attempts, max_attempts) = (change.get_attempts(), change.get_max_attempts());
                    let rows = jobs!(
                        r#"
update backfill_jobs set
  run_at = coalesce(?3, run_at),
  priority = coalesce(?4, priority),
  attempts = coalesce(?5, attempts),
  max_attempts = coalesce(?6, max_attempts),
  updated_at = ?7
where id in (select value from json_each(?1)) and (locked_at is null or locked_at < ?2)
returning
"#,
                        "",
                        ids,
                        limit,
                        run_at,
                        priority,
                        attempts,
                        max_attempts,
                        now
                    );
                    let rows = rows.fetch_all(&mut *connection).await?;
                    wake(connection, rows.len() as u64).await?;
                    Ok(in_order(rows))
                })
            })
            .await?;
        self.cursor.forget();
        self.file.tell();
        Ok(jobs)
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        let mut cleaned = Cleaned::default();
        if what.dead_jobs {
            cleaned.dead_jobs = self.delete_dead_jobs().await?;
        }
        if what.tasks {
            // To find the unused takes reading all jobs, and no writer may wait for that; what got a name since has a higher number,
            // or a key.
            let (last, keep) = (self.last_job().await?, crate::json(what.keep_tasks.clone()));
            let unused = sqlx::query_scalar!(
                r#"
select name as "name!: Text" from backfill_tasks
where name not in (select value from json_each(?1)) and name not in (select job.task from backfill_jobs job)
"#,
                keep
            )
            .fetch_all(&mut *self.file.read("look for unused task names").await?)
            .await
            .map_err(failed("look for unused task names"))?;
            let unused = crate::json(readable(unused));
            let forgotten = self.file.writer.write("forget task names", move |connection| {
                Box::pin(async move {
                    let deleted = sqlx::query!(
                        r#"
delete from backfill_tasks
where name in (select value from json_each(?1))
  and name not in (select job.task from backfill_jobs job where job.id > ?2)
  and name not in (select job.task from backfill_jobs job indexed by backfill_jobs_key where job.key is not null)
"#,
                        unused,
                        last
                    );
                    Ok(deleted.execute(connection).await?.rows_affected())
                })
            });
            cleaned.tasks = forgotten.await?;
        }
        if what.queues {
            let last = self.last_job().await?;
            let unused = sqlx::query_scalar!(
                r#"
select name as "name!: Text" from backfill_queues
where locked_at is null and name not in (select job.queue from backfill_jobs job where job.queue is not null)
"#
            )
            .fetch_all(&mut *self.file.read("look for unused queues").await?)
            .await
            .map_err(failed("look for unused queues"))?;
            let unused = crate::json(readable(unused));
            let forgotten = self.file.writer.write("forget queues", move |connection| {
                Box::pin(async move {
                    let deleted = sqlx::query!(
                        r#"
delete from backfill_queues
where locked_at is null
  and name in (select value from json_each(?1))
  and name not in (select job.queue from backfill_jobs job where job.id > ?2 and job.queue is not null)
  and name not in (
    select job.queue from backfill_jobs job indexed by backfill_jobs_key where job.key is not null and job.queue is not null
  )
"#,
                        unused,
                        last
                    );
                    Ok(deleted.execute(connection).await?.rows_affected())
                })
            });
            cleaned.queues = forgotten.await?;
        }
        Ok(cleaned)
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        self.unlock_workers(workers).await
    }
}

impl SqliteStorage {
    /// The highest number of a job that is there.
    async fn last_job(&self) -> Result<i64> {
        sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "last!: i64" from backfill_jobs"#)
            .fetch_one(&mut *self.file.read("look for the last job").await?)
            .await
            .map_err(failed("look for the last job"))
    }

    async fn delete_dead_jobs(&self) -> Result<u64> {
        let mut total = 0;
        loop {
            let deleted = self.file.writer.write("delete dead jobs", move |connection| {
                Box::pin(async move {
                    let deleted = sqlx::query!(
                        r#"
delete from backfill_jobs
where id in (
  select job.id from backfill_jobs job where job.locked_at is null and job.attempts >= job.max_attempts limit ?1
)
"#,
                        CHUNK
                    );
                    Ok(deleted.execute(connection).await?.rows_affected())
                })
            });
            match deleted.await? {
                0 => return Ok(total),
                deleted => total += deleted,
            }
        }
    }
}

/// Names that are no text stay: what they are called cannot be told back.
fn readable(names: Vec<Text>) -> Vec<String> {
    names.into_iter().filter(|name| !name.is_damaged).map(|name| name.text).collect()
}

/// The jobs behind these in their queues may be first now.
async fn wake_behind(connection: &mut SqliteConnection, jobs: &[Job]) -> sqlx::Result<()> {
    wake(connection, u64::from(jobs.iter().any(|job| job.queue.is_some()))).await
}

pub(crate) fn in_order(rows: Vec<crate::row::JobRow>) -> Vec<Job> {
    let mut jobs: Vec<Job> = rows.into_iter().map(Job::from).collect();
    jobs.sort_by_key(|job| job.id);
    jobs
}
