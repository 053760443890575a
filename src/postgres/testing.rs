//! For the test kit: time that passes at once, a look into the caller's own transaction, and dropping the schema.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::connection::row::jobs;
use super::{PostgresStorage, Schema, failure_kind, micros};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::storage::reserved_at;

impl PostgresStorage {
    /// Makes all times that are kept so much older, as if the schema had been left alone for so long. The locks of workers that are
    /// registered stay as they are: those workers are judged by their heartbeats, and their claims still stand.
    pub(crate) async fn let_pass(&self, time: Duration) -> Result<()> {
        let by = micros(time);
        let fail = |e| self.database.error("let time pass", e);
        let mut tx = self.database.transaction().await?;
        // Before the workers' rows: which locks are theirs is read from those.
        sqlx::query!(
            r#"
update graphile_worker._private_jobs job
set
  run_at = job.run_at - $1::bigint * interval '1 microsecond',
  created_at = job.created_at - $1::bigint * interval '1 microsecond',
  updated_at = case
    when exists (select from graphile_worker.backfill_pools pool where pool.id = job.locked_by) then job.updated_at
    else job.updated_at - $1::bigint * interval '1 microsecond'
  end,
  locked_at = case
    when exists (select from graphile_worker.backfill_pools pool where pool.id = job.locked_by) or job.locked_at >= $2
    then job.locked_at
    else job.locked_at - $1::bigint * interval '1 microsecond'
  end
"#,
            by,
            reserved_at(),
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        sqlx::query!(
            r#"
update graphile_worker._private_job_queues queue
set locked_at = queue.locked_at - $1::bigint * interval '1 microsecond'
where queue.locked_at is not null
  and not exists (select from graphile_worker.backfill_pools pool where pool.id = queue.locked_by)
"#,
            by,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        sqlx::query!(
            r#"
update graphile_worker.backfill_pools pool
set
  started_at = pool.started_at - $1::bigint * interval '1 microsecond',
  seen_at = pool.seen_at - $1::bigint * interval '1 microsecond'
"#,
            by,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        sqlx::query!(
            r#"
update graphile_worker._private_known_crontabs known
set
  known_since = known.known_since - $1::bigint * interval '1 microsecond',
  last_execution = known.last_execution - $1::bigint * interval '1 microsecond'
"#,
            by,
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        // Jobs may be ready now that claims have passed by.
        sqlx::query!(
            r#"select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}') as "notified?: ()""#
        )
        .execute(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        tx.commit().await.map_err(fail)?;
        self.cursors.forget();
        Ok(())
    }

    /// Lets a worker that is overdue count as dead, by a `dead_after` of zero. Missed heartbeats count from the server's start (see
    /// `rescue`), and the server of a test may have started a second ago.
    pub(crate) async fn mark_overdue(&self) -> Result<()> {
        sqlx::query!(
            r#"
update graphile_worker.backfill_pools pool
set dead_after = interval '0'
where pool.seen_at < clock_timestamp() - pool.dead_after
"#
        )
        .execute(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("mark dead workers", e))?;
        Ok(())
    }

    /// Reads all jobs on the caller's own connection, by id.
    pub(crate) async fn jobs_within(&self, connection: &mut PgConnection) -> Result<Vec<Job>> {
        let rows = jobs!(
            "",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
order by job.id
"#,
        )
        .fetch_all(self.database.schema.on(connection))
        .await
        .map_err(|e| self.database.error("list jobs", e))?;
        Ok(rows.into_iter().map(Job::from).collect())
    }

    /// Drops a schema, on a connection of its own: the pool may belong to a runtime that has ended. Waits for locks for two seconds.
    pub(crate) async fn drop_schema(options: &PgConnectOptions, schema: &str) -> Result<()> {
        let failed = |e| Error::storage("drop the schema of a test", failure_kind(&e), e);
        let schema = Schema::new(schema, true)?;
        // Dynamic because a schema's name cannot be a parameter; it is quoted.
        let drop = format!("set lock_timeout = '2s'; drop schema if exists {} cascade", schema.quoted());
        let mut connection = options.connect().await.map_err(failed)?;
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)
    }
}
