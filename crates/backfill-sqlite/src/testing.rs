//! For the library's test kit: time that passes at once, and a look into the caller's own transaction.

use std::time::Duration;

use backfill_core::Result;
use backfill_core::job::Job;
use backfill_core::storage::reserved_at;
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::errors::failed;
use crate::file::micros;
use crate::heartbeat::wake;
use crate::row::jobs;

impl SqliteStorage {
    /// Makes all times that are kept so much older, as if the file had been left alone for so long. The locks of workers that are registered
    /// stay as they are: those workers are judged by their heartbeats, and their claims still stand.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn let_pass(&self, time: Duration) -> Result<()> {
        let by = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let reserved = micros(reserved_at());
        self.file
            .writer
            .write("let time pass", move |connection| {
                Box::pin(async move {
                    age(connection, by, reserved).await?;
                    wake(connection, 1).await
                })
            })
            .await?;
        self.cursor.forget();
        self.file.tell();
        Ok(())
    }

    /// Reads all jobs on the caller's own connection, by id.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn jobs_within(&self, connection: &mut SqliteConnection) -> Result<Vec<Job>> {
        let rows = jobs!("select", "from backfill_jobs order by id").fetch_all(connection).await;
        Ok(rows.map_err(failed("list jobs"))?.into_iter().map(Job::from).collect())
    }
}

async fn age(connection: &mut SqliteConnection, by: i64, reserved: i64) -> sqlx::Result<()> {
    // Before the workers' rows: which locks are theirs is read from those.
    sqlx::query!(
        r#"
update backfill_jobs set
  run_at = run_at - ?1,
  created_at = created_at - ?1,
  updated_at = case
    when exists (select 1 from backfill_pools pool where pool.id = backfill_jobs.locked_by) then updated_at
    else updated_at - ?1
  end,
  locked_at = case
    when exists (select 1 from backfill_pools pool where pool.id = backfill_jobs.locked_by) or locked_at >= ?2
    then locked_at
    else locked_at - ?1
  end
"#,
        by,
        reserved
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
update backfill_queues set locked_at = locked_at - ?1
where locked_at is not null and not exists (select 1 from backfill_pools pool where pool.id = backfill_queues.locked_by)
"#,
        by
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("update backfill_pools set started_at = started_at - ?1, seen_at = seen_at - ?1", by)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "update backfill_crontabs set known_since = known_since - ?1, last_execution = last_execution - ?1",
        by
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}
