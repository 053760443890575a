//! Renewing and ending leases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backfill_core::Result;
use backfill_core::job::limits::later;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::messages::{Ended, Receipt};
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::file::{micros, time};
use crate::heartbeat::wake;
use crate::row::jobs;

impl SqliteStorage {
    pub(super) async fn renew_leases(&self, leases: Vec<(Receipt, Duration)>) -> Result<Vec<JobId>> {
        let clock = Arc::clone(self.file.clock());
        self.file
            .writer
            .write("renew leases", move |connection| {
                Box::pin(async move {
                    let now = time(clock.now());
                    let mut renewed = Vec::new();
                    for (receipt, lasts) in leases {
                        let stored = held(connection, receipt.id).await?;
                        let Some(job) = stored.filter(|job| receipt.stands(job, now, false)) else { continue };
                        move_end(connection, &job, micros(later(now, lasts))).await?;
                        renewed.push(receipt.id);
                    }
                    Ok(renewed)
                })
            })
            .await
    }

    pub(super) async fn end_all_leases(&self, of: Option<&[JobId]>) -> Result<Ended> {
        let of = of.map(|ids| crate::json(JobId::numbers(ids)));
        // The cheap look first: it writes nothing and waits for nobody.
        let now = self.file.now();
        let fail = crate::errors::failed("look for ended leases");
        let first =
            first_end(&mut *self.file.read("look for ended leases").await?, of.as_deref()).await.map_err(fail)?;
        if first.is_none_or(|first| first > now) {
            return Ok(Ended::new(Vec::new(), first.map(time)));
        }
        let clock = Arc::clone(self.file.clock());
        let (ended, next) = self
            .file
            .writer
            .write("end leases", move |connection| {
                Box::pin(async move {
                    let ended = end(connection, clock.now(), of.as_deref()).await?;
                    Ok((ended, first_end(connection, of.as_deref()).await?))
                })
            })
            .await?;
        if !ended.is_empty() {
            self.cursor.forget();
            self.file.tell();
        }
        Ok(Ended::new(ended, next.map(time)))
    }
}

/// A job by its id, without its payload.
async fn held(connection: &mut SqliteConnection, id: JobId) -> sqlx::Result<Option<Job>> {
    let id = id.number();
    let row = jobs!(payload: "'{}'", "select", "from backfill_jobs where id = ?1", id);
    Ok(row.fetch_optional(connection).await?.map(Job::from))
}

/// Moves the end of a lease, and of its hold of a queue.
async fn move_end(connection: &mut SqliteConnection, job: &Job, end: i64) -> sqlx::Result<()> {
    let (id, from) = (job.id.number(), job.locked_at.map(micros));
    sqlx::query!("update backfill_jobs set locked_at = ?2 where id = ?1", id, end).execute(&mut *connection).await?;
    sqlx::query!(
        "update backfill_queues set locked_at = ?4 where name = ?1 and locked_by = ?2 and locked_at = ?3",
        job.queue,
        job.locked_by,
        from,
        end
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// When the first lease ends, of these jobs or of all.
async fn first_end(connection: &mut SqliteConnection, of: Option<&str>) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"
select min(locked_at) as "end?: i64"
from backfill_jobs indexed by backfill_jobs_lease
where substr(locked_by, 1, 6) = 'lease:'
  and locked_at is not null
  and (?1 is null or id in (select value from json_each(?1)))
"#,
        of
    )
    .fetch_one(connection)
    .await
}

/// Gives back what ended leases hold, and frees their queues.
pub(super) async fn end(connection: &mut SqliteConnection, now: i64, of: Option<&str>) -> sqlx::Result<Vec<JobId>> {
    let rows = jobs!(
        payload: "'{}'",
        "select",
        r#"
from backfill_jobs indexed by backfill_jobs_lease
where substr(locked_by, 1, 6) = 'lease:' and locked_at <= ?1 and (?2 is null or id in (select value from json_each(?2)))
"#,
        now,
        of,
    );
    let ended: Vec<Job> = rows.fetch_all(&mut *connection).await?.into_iter().map(Job::from).collect();
    if ended.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<JobId> = ended.iter().map(|job| job.id).collect();
    let list = crate::json(JobId::numbers(&ids));
    sqlx::query!(
        "update backfill_jobs set locked_at = null, locked_by = null where id in (select value from json_each(?1))",
        list
    )
    .execute(&mut *connection)
    .await?;
    let locks: BTreeSet<_> =
        ended.iter().filter_map(|job| Some((job.queue.clone()?, job.locked_by.clone()?))).collect();
    for (queue, holder) in locks {
        free(connection, &queue, &holder, None).await?;
    }
    wake(connection, ids.len() as u64).await?;
    Ok(ids)
}

/// Frees a queue that is held so.
pub(super) async fn free(
    connection: &mut SqliteConnection,
    queue: &str,
    holder: &str,
    locked_at: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
update backfill_queues set locked_at = null, locked_by = null
where name = ?1 and locked_by = ?2 and (?3 is null or locked_at = ?3)
"#,
        queue,
        holder,
        locked_at
    )
    .execute(connection)
    .await?;
    Ok(())
}
