//! Renewing and ending leases.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::messages::{Ended, Receipt};

impl PostgresStorage {
    pub(super) async fn renew_leases(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>> {
        let ids: Vec<i64> = leases.iter().map(|(receipt, _)| receipt.id.number()).collect();
        let tags: Vec<String> = leases.iter().map(|(receipt, _)| format!("{:08x}", receipt.tag)).collect();
        let times: Vec<i64> = leases.iter().map(|(_, lasts)| micros(*lasts)).collect();
        let mut work = self.database.work_in_time().await?;
        // Locking: jobs in the order of their ids, then queues. What has ended stays ended, whether or not anybody has looked.
        let renewed = sqlx::query_scalar!(
            r#"
with wanted as materialized (
  select id, tag, lasts from unnest($1::bigint[], $2::text[], $3::bigint[]) as wanted (id, tag, lasts)
),
locked as materialized (
  select job.id, job.job_queue_id, job.locked_by, job.locked_at
  from graphile_worker._private_jobs job
  -- By their ids: what hides the column from the planner keeps it from reading all that is held.
  where job.id = any ($1) and coalesce(job.locked_at, '-infinity') > clock_timestamp()
    and (select set_config('lock_timeout', '1000', true)) is not null
  order by job.id
  for no key update
),
held as materialized (
  select locked.id, locked.job_queue_id, locked.locked_by,
    clock_timestamp() + wanted.lasts * interval '1 microsecond' as until
  from locked
  join wanted on wanted.id = locked.id
  where starts_with(locked.locked_by, 'lease:' || wanted.tag || ':')
    -- Also after a wait for whoever had it locked.
    and locked.locked_at > clock_timestamp()
),
renewed as (
  update graphile_worker._private_jobs job
  set locked_at = held.until
  from held
  where job.id = held.id and job.id = any ($1)
  returning job.id
),
queue as (
  update graphile_worker._private_job_queues queue
  set locked_at = held.until
  from held
  where queue.id = held.job_queue_id and queue.locked_by = held.locked_by
)
select renewed.id as "id!" from renewed order by renewed.id
"#,
            &ids,
            &tags,
            &times,
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("renew leases", e))?;
        self.database.done(work).await?;
        Ok(renewed.into_iter().map(JobId::from_number).collect())
    }

    /// Also answers the lines in which something is ready now.
    pub(super) async fn end_all_leases(&self, of: Option<&[JobId]>) -> Result<(Ended, BTreeSet<String>)> {
        let fail = |e| self.database.error("end leases", e);
        let mut work = self.database.work_in_time().await?;
        // What is held is a small index. Where no lease has ended, nothing is locked or written.
        let found = sqlx::query!(
            r#"
select
  coalesce(array_agg(job.id) filter (where job.locked_at <= clock_timestamp()), '{}') as "due!: Vec<i64>",
  min(job.locked_at) filter (where job.locked_at > clock_timestamp()) as "next?: DateTime<Utc>"
from graphile_worker._private_jobs job
where job.locked_at is not null
  and starts_with(job.locked_by, 'lease:')
  and ($1::bigint[] is null or job.id = any ($1))
"#,
            of.map(JobId::numbers) as Option<Vec<i64>>,
        )
        .fetch_one(self.database.schema.on(&mut *work))
        .await
        .map_err(fail)?;
        let mut ended = Vec::new();
        let mut lines = BTreeSet::new();
        if !found.due.is_empty() {
            let rows = sqlx::query!(
                r#"select id as "id!", task as "task!" from graphile_worker.backfill_end_leases($1)"#,
                &found.due
            )
            .fetch_all(self.database.schema.on(&mut *work))
            .await
            .map_err(fail)?;
            for row in rows {
                ended.push(JobId::from_number(row.id));
                lines.insert(row.task);
            }
        }
        self.database.done(work).await?;
        Ok((Ended::new(ended, found.next), lines))
    }
}
