//! Taking by lines. The SQL function `backfill_take` does it; `sql/schema/messages/002_take.sql` says how.

use std::collections::HashMap;

use futures::TryStreamExt;
use sqlx::PgConnection;

use super::super::connection::row::{jobs, token};
use super::super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::Job;
use crate::storage::messages::{DocumentKey, Holder, Take, Taken, TakenJob};

impl PostgresStorage {
    pub(super) async fn take_jobs(&self, request: &Take<'_>) -> Result<Taken> {
        if request.unless.is_empty() {
            let mut work = self.database.work_in_time().await?;
            let taken = self.call_take(&mut work, request).await?;
            self.database.done(work).await?;
            return Ok(taken);
        }
        let mut tx = self.database.transaction_in_time().await?;
        if let Some(document) = self.find_stop(&mut tx, request.unless).await? {
            tx.rollback().await.map_err(|e| self.database.error("take jobs", e))?;
            return Ok(Taken::stopped_by(document));
        }
        let taken = self.call_take(&mut tx, request).await?;
        tx.commit().await.map_err(|e| self.database.error("take jobs", e))?;
        Ok(taken)
    }

    /// Finds one of these documents. Whoever wants to store or remove one waits until this transaction has ended, and this waits for whoever
    /// is at it: so nothing that is taken ignores a document whose unit was answered.
    async fn find_stop(&self, conn: &mut PgConnection, unless: &[DocumentKey]) -> Result<Option<DocumentKey>> {
        let fail = |e| self.database.error("look for what forbids to take", e);
        let (kinds, keys): (Vec<&str>, Vec<&str>) =
            unless.iter().map(|document| (document.kind.as_str(), document.key.as_str())).unzip();
        // In one order, as wherever documents are locked.
        sqlx::query!(
            r#"
select pg_advisory_xact_lock_shared(ordered.number) as "locked!: ()"
from (
  select distinct hashtextextended(
    named.kind || chr(1) || named.key, 'graphile_worker._private_jobs'::regclass::oid::bigint
  ) as number
  from unnest($1::text[], $2::text[]) as named (kind, key)
  where (
    select pg_advisory_xact_lock_shared(
      hashtextextended('documents', 'graphile_worker._private_jobs'::regclass::oid::bigint)
    )
  ) is not null
  order by 1
) as ordered
"#,
            &kinds as &[&str],
            &keys as &[&str],
        )
        .fetch_all(self.database.schema.on(&mut *conn))
        .await
        .map_err(fail)?;
        // A statement of its own, which sees what was committed while that one waited.
        let found = sqlx::query!(
            r#"
select document.kind, document.key
from unnest($1::text[], $2::text[]) as named (kind, key)
join graphile_worker.backfill_documents document on document.kind = named.kind and document.key = named.key
where document.until is null or document.until > clock_timestamp()
limit 1
"#,
            &kinds as &[&str],
            &keys as &[&str],
        )
        .fetch_optional(self.database.schema.on(conn))
        .await
        .map_err(fail)?;
        Ok(found.map(|found| DocumentKey::new(found.kind, found.key)))
    }

    async fn call_take(&self, conn: &mut PgConnection, request: &Take<'_>) -> Result<Taken> {
        let (lines, limits): (Vec<&str>, Vec<i32>) = request
            .lines
            .iter()
            .map(|(line, limit)| (line.as_str(), i32::try_from(*limit).unwrap_or(i32::MAX)))
            .unzip();
        let (worker, lasts) = match request.holder {
            Holder::Worker(worker) => (Some(worker.as_str()), 0),
            Holder::Lease { lasts, .. } => (None, micros(lasts)),
        };
        // (Numbers as text, because intervals of the driver's have no microseconds beyond those of a day.)
        let rows = jobs!(
            "",
            r#"
from graphile_worker.backfill_take(
  worker => $1, holder => $2, lasts => $3::bigint * interval '1 microsecond', lines => $4, limits => $5, byte_limit => $6,
  ready_by => $7, in_line => $8
) as taken
cross join lateral (select (taken.job).*) as job
cross join lateral (select taken.task_name as identifier) as task
cross join lateral (select taken.queue_name) as queue
order by taken.place, job.priority, job.run_at, job.id
"#,
            worker as Option<&str>,
            request.holder_name(),
            lasts,
            &lines as &[&str],
            &limits,
            i64::try_from(request.max_bytes).ok() as Option<i64>,
            request.ready_by as Option<chrono::DateTime<chrono::Utc>>,
            request.in_line,
        )
        .fetch(self.database.schema.on(conn));
        let jobs: Vec<Job> =
            rows.map_ok(Job::from).try_collect().await.map_err(|e| self.database.error("take jobs", e))?;
        let taken = jobs.into_iter().map(|job| {
            let hold = request.hold(&job, token(job.locked_at.unwrap_or_default()));
            TakenJob::new(job, hold)
        });
        let mut taken: Vec<TakenJob> = taken.collect();
        // Line by line, in which the order stays.
        let place: HashMap<&str, usize> = lines.iter().zip(0..).map(|(line, place)| (*line, place)).collect();
        taken.sort_by_key(|job| place.get(job.task.as_str()).copied());
        Ok(Taken::jobs(taken))
    }
}
