//! What belongs together: all units of a call in one transaction, judged by the [`Plan`].
//!
//! Locking, in this order everywhere: all documents (shared, or alone by units with very many), documents (advisory locks, which also stand
//! for those that are not there), their owners' rows, jobs by their ids,
//! queues; last, the lock under which events get their positions, which is held until the commit.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::super::PostgresStorage;
use super::super::connection::errors::is_locked;
use super::super::connection::row::jobs;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::WorkerId;
use crate::storage::messages::{Applied, Document, DocumentKey, Needs, Plan, Present, Refusal, Unit, check_units};

/// How long units wait for somebody's lock, in milliseconds, as text. After that they are answered as busy.
const A_SECOND: &str = "1000";

/// Units with more documents than these lock all documents at once: the server's table of locks has room for some thousands.
const MANY_DOCUMENTS: usize = 1_000;

impl PostgresStorage {
    pub(super) async fn apply_units(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        match self.try_units(units, false).await {
            Err(error) if is_locked(&error) => match self.try_units(units, true).await {
                // It is no job that is locked: a document, somebody's job with the key of one to add, or the events.
                Err(error) if is_locked(&error) => {
                    let busy = |unit: &Unit| Refusal::Busy { id: unit.settle.first().map(|settle| settle.hold.id()) };
                    Ok(units.iter().map(|unit| Applied::Refused(busy(unit))).collect())
                }
                applied => applied,
            },
            applied => applied,
        }
    }

    /// Does units in the caller's own transaction. `lock_timeout` is the caller's, for which the events are waited for.
    pub(in crate::postgres) async fn apply_within(
        &self,
        conn: &mut PgConnection,
        units: &[Unit],
        lock_timeout: &str,
    ) -> Result<Vec<Applied>> {
        check_units(units)?;
        let present = self.lock_and_read(conn, &Needs::of(units), false, lock_timeout).await?;
        let plan = Plan::of(units, present);
        if plan.is_nothing() {
            return Ok(plan.applied(Vec::new(), Vec::new()));
        }
        self.carry_out(conn, plan).await
    }

    /// Where somebody keeps a job locked, this fails, unless busy jobs are to be answered as such.
    async fn try_units(&self, units: &[Unit], passes_busy: bool) -> Result<Vec<Applied>> {
        let needs = Needs::of(units);
        let mut tx = self.database.transaction_in_time().await?;
        let present = self.lock_and_read(&mut tx, &needs, passes_busy, A_SECOND).await?;
        let plan = Plan::of(units, present);
        if plan.is_nothing() {
            // Waited for: a row that stays locked for a moment longer would be passed by by takers.
            tx.rollback().await.map_err(|e| self.database.error("apply units", e))?;
            return Ok(plan.applied(Vec::new(), Vec::new()));
        }
        let applied = self.carry_out(&mut tx, plan).await?;
        tx.commit().await.map_err(|e| self.database.error("apply units", e))?;
        Ok(applied)
    }

    async fn lock_and_read(
        &self,
        conn: &mut PgConnection,
        needs: &Needs<'_>,
        passes_busy: bool,
        waits_for_events: &str,
    ) -> Result<Present> {
        let fail = |e| self.database.error("read what units need", e);
        let mut present = Present::default();
        if !needs.documents.is_empty() {
            self.lock_documents(conn, needs, &mut present).await?;
        }
        if !needs.jobs.is_empty() {
            let ids: Vec<i64> = needs.jobs.iter().map(|id| id.number()).collect();
            if passes_busy {
                let free = sqlx::query_scalar!(
                    r#"
select job.id from graphile_worker._private_jobs job where job.id = any ($1) order by job.id for update skip locked
"#,
                    &ids,
                )
                .fetch_all(self.database.schema.on(&mut *conn))
                .await
                .map_err(fail)?;
                let free: HashSet<i64> = free.into_iter().collect();
                let there = sqlx::query_scalar!(
                    "select job.id from graphile_worker._private_jobs job where job.id = any ($1)",
                    &ids
                );
                let there = there.fetch_all(self.database.schema.on(&mut *conn)).await.map_err(fail)?;
                present.busy = there.into_iter().filter(|id| !free.contains(id)).map(JobId::from_number).collect();
            }
            let free: Vec<i64> =
                ids.into_iter().filter(|id| !present.busy.contains(&JobId::from_number(*id))).collect();
            // Waits for whoever else settles one at this moment, and reads what that has made of it.
            let rows = jobs!(
                payload: "'{}'",
                "",
                r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where job.id = any ($1) and (select set_config('lock_timeout', $2, true)) is not null
order by job.id
for update of job
"#,
                &free,
                A_SECOND,
            )
            .fetch_all(self.database.schema.on(&mut *conn))
            .await
            .map_err(fail)?;
            present.jobs = rows.into_iter().map(Job::from).map(|job| (job.id, job)).collect();
        }
        if !needs.keys.is_empty() {
            let keys: Vec<&str> = needs.keys.iter().copied().collect();
            let taken = sqlx::query_scalar!(
                r#"select job.key as "key!" from graphile_worker._private_jobs job where job.key = any ($1)"#,
                &keys as &[&str],
            );
            present.keys =
                taken.fetch_all(self.database.schema.on(&mut *conn)).await.map_err(fail)?.into_iter().collect();
        }
        // What is added from here on is told by its line (see `tell_on`).
        present.now = sqlx::query_scalar!(
            r#"
select case
  when set_config('backfill.lines', 'told', true) is not null and set_config('lock_timeout', $1, true) is not null
  then clock_timestamp()
end as "now!: DateTime<Utc>"
"#,
            waits_for_events,
        )
        .fetch_one(self.database.schema.on(conn))
        .await
        .map_err(fail)?;
        Ok(present)
    }

    async fn lock_documents(&self, conn: &mut PgConnection, needs: &Needs<'_>, present: &mut Present) -> Result<()> {
        let fail = |e| self.database.error("read what units need", e);
        let (kinds, keys): (Vec<&str>, Vec<&str>) =
            needs.documents.iter().map(|document| (document.kind.as_str(), document.key.as_str())).unzip();
        if kinds.len() > MANY_DOCUMENTS {
            sqlx::query!(
                r#"
select pg_advisory_xact_lock(
  hashtextextended('documents', 'graphile_worker._private_jobs'::regclass::oid::bigint)
) as "locked!: ()"
where set_config('lock_timeout', $1, true) is not null
"#,
                A_SECOND,
            )
            .fetch_all(self.database.schema.on(&mut *conn))
            .await
            .map_err(fail)?;
        } else {
            sqlx::query!(
                r#"
select pg_advisory_xact_lock(ordered.number) as "locked!: ()"
from (
  select distinct hashtextextended(
    named.kind || chr(1) || named.key, 'graphile_worker._private_jobs'::regclass::oid::bigint
  ) as number
  from unnest($1::text[], $2::text[]) as named (kind, key)
  where (select set_config('lock_timeout', $3, true)) is not null
    and (
      select pg_advisory_xact_lock_shared(
        hashtextextended('documents', 'graphile_worker._private_jobs'::regclass::oid::bigint)
      )
    ) is not null
  order by 1
) as ordered
"#,
                &kinds as &[&str],
                &keys as &[&str],
                A_SECOND,
            )
            .fetch_all(self.database.schema.on(&mut *conn))
            .await
            .map_err(fail)?;
        }
        let rows = sqlx::query!(
            r#"
select document.kind, document.key, document.value::text as "value!", document.version, document.owner, document.until
from unnest($1::text[], $2::text[]) as named (kind, key)
join graphile_worker.backfill_documents document on document.kind = named.kind and document.key = named.key
"#,
            &kinds as &[&str],
            &keys as &[&str],
        )
        .fetch_all(self.database.schema.on(&mut *conn))
        .await
        .map_err(fail)?;
        for row in rows {
            let key = DocumentKey::new(row.kind, row.key);
            let version = u64::try_from(row.version).unwrap_or_default();
            let mut document = Document::new(key.clone(), crate::job::Payload::from_trusted(row.value), version);
            document.owner = row.owner.map(WorkerId::named);
            document.until = row.until;
            present.documents.insert(key, document);
        }
        if !needs.owners.is_empty() {
            let owners: Vec<&str> = needs.owners.iter().copied().collect();
            // They stay registered until the commit.
            let there = sqlx::query_scalar!(
                r#"
select pool.id from graphile_worker.backfill_pools pool
where pool.id = any ($1) and pool.seen_at > 'epoch'
order by pool.id
for key share
"#,
                &owners as &[&str],
            );
            present.workers =
                there.fetch_all(self.database.schema.on(&mut *conn)).await.map_err(fail)?.into_iter().collect();
        }
        if needs.versions > 0 {
            let versions = sqlx::query_scalar!(
                r#"
select nextval('graphile_worker.backfill_document_versions') as "version!" from generate_series(1, $1::integer)
"#,
                i32::try_from(needs.versions).unwrap_or(i32::MAX),
            )
            .fetch_all(self.database.schema.on(conn))
            .await
            .map_err(fail)?;
            present.versions = versions.into_iter().map(|version| u64::try_from(version).unwrap_or_default()).collect();
        }
        Ok(())
    }
}
