//! Carrying out what units do.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::super::PostgresStorage;
use super::super::settle::bounded;
use crate::error::Result;
use crate::job::Job;
use crate::storage::WorkerId;
use crate::storage::messages::{Applied, Changes, Document, JobWrite, Names, NewEvent, Plan};

/// PostgreSQL sends no notification of 8 000 bytes or more.
const MAX_NOTIFICATION: usize = 7_900;

impl PostgresStorage {
    /// Writes what the plan says, whose rows are locked.
    pub(super) async fn carry_out(&self, conn: &mut PgConnection, plan: Plan<'_>) -> Result<Vec<Applied>> {
        self.write_jobs(conn, &plan).await?;
        if !plan.documents.is_empty() {
            self.write_documents(conn, &plan).await?;
        }
        let mut added = Vec::with_capacity(plan.add.len());
        for batch in plan.batches() {
            added.extend(batch.split(self.add_chunks(conn, &batch.jobs).await?));
        }
        let positions = if plan.events.is_empty() { Vec::new() } else { self.append(conn, &plan).await? };
        self.tell_on(conn, &plan.changes).await?;
        Ok(plan.applied(added, positions))
    }

    async fn write_jobs(&self, conn: &mut PgConnection, plan: &Plan<'_>) -> Result<()> {
        let fail = |e| self.database.error("write results", e);
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for write in &plan.jobs {
            match write {
                JobWrite::Delete(id) => gone.push(id.number()),
                JobWrite::Keep { job, payload_changed } => kept.push((&**job, *payload_changed)),
            }
        }
        if !gone.is_empty() {
            sqlx::query!("delete from graphile_worker._private_jobs where id = any ($1)", &gone)
                .execute(self.database.schema.on(&mut *conn))
                .await
                .map_err(fail)?;
        }
        if !kept.is_empty() {
            self.keep(conn, &kept).await?;
        }
        if !plan.freed.is_empty() {
            let names: Vec<&str> = plan.freed.iter().map(|queue| queue.name.as_str()).collect();
            let holders: Vec<&str> = plan.freed.iter().map(|queue| queue.locked_by.as_str()).collect();
            let moments: Vec<DateTime<Utc>> = plan.freed.iter().map(|queue| queue.locked_at).collect();
            sqlx::query!(
                r#"
update graphile_worker._private_job_queues queue
set locked_by = null, locked_at = null
from unnest($1::text[], $2::text[], $3::timestamptz[]) as freed (name, locked_by, locked_at)
where queue.queue_name = freed.name and queue.locked_by = freed.locked_by and queue.locked_at = freed.locked_at
"#,
                &names as &[&str],
                &holders as &[&str],
                &moments,
            )
            .execute(self.database.schema.on(conn))
            .await
            .map_err(fail)?;
        }
        Ok(())
    }

    async fn keep(&self, conn: &mut PgConnection, kept: &[(&Job, bool)]) -> Result<()> {
        let ids: Vec<i64> = kept.iter().map(|(job, _)| job.id.number()).collect();
        let attempts: Vec<i16> = kept.iter().map(|(job, _)| job.attempts).collect();
        let times: Vec<DateTime<Utc>> = kept.iter().map(|(job, _)| bounded(job.run_at)).collect();
        let errors: Vec<Option<&str>> = kept.iter().map(|(job, _)| job.last_error.as_deref()).collect();
        let payloads: Vec<Option<&str>> =
            kept.iter().map(|(job, changed)| changed.then(|| job.payload.as_str())).collect();
        sqlx::query!(
            r#"
update graphile_worker._private_jobs job
set
  attempts = kept.attempts,
  run_at = kept.run_at,
  last_error = kept.last_error,
  payload = coalesce(kept.payload::json, job.payload),
  locked_by = null,
  locked_at = null
from unnest($1::bigint[], $2::smallint[], $3::timestamptz[], $4::text[], $5::text[])
  as kept (id, attempts, run_at, last_error, payload)
where job.id = kept.id and job.id = any ($1)
"#,
            &ids,
            &attempts,
            &times,
            &errors as &[Option<&str>],
            &payloads as &[Option<&str>],
        )
        .execute(self.database.schema.on(conn))
        .await
        .map(drop)
        .map_err(|e| self.database.error("write results", e))
    }

    async fn write_documents(&self, conn: &mut PgConnection, plan: &Plan<'_>) -> Result<()> {
        let fail = |e| self.database.error("store documents", e);
        let stored: Vec<&Document> = plan.documents.values().flatten().collect();
        let gone = plan.documents.iter().filter(|(_, document)| document.is_none());
        let (kinds, keys): (Vec<&str>, Vec<&str>) = gone.map(|(key, _)| (key.kind.as_str(), key.key.as_str())).unzip();
        if !kinds.is_empty() {
            sqlx::query!(
                r#"
delete from graphile_worker.backfill_documents document
using unnest($1::text[], $2::text[]) as gone (kind, key)
where document.kind = gone.kind and document.key = gone.key
"#,
                &kinds as &[&str],
                &keys as &[&str],
            )
            .execute(self.database.schema.on(&mut *conn))
            .await
            .map_err(fail)?;
        }
        if stored.is_empty() {
            return Ok(());
        }
        let kinds: Vec<&str> = stored.iter().map(|document| document.key.kind.as_str()).collect();
        let keys: Vec<&str> = stored.iter().map(|document| document.key.key.as_str()).collect();
        let values: Vec<&str> = stored.iter().map(|document| document.value.as_str()).collect();
        let versions: Vec<i64> =
            stored.iter().map(|document| i64::try_from(document.version).unwrap_or(i64::MAX)).collect();
        let owners: Vec<Option<&str>> =
            stored.iter().map(|document| document.owner.as_ref().map(WorkerId::as_str)).collect();
        let ends: Vec<Option<DateTime<Utc>>> = stored.iter().map(|document| document.until).collect();
        sqlx::query!(
            r#"
insert into graphile_worker.backfill_documents (kind, key, value, version, owner, until)
select stored.kind, stored.key, stored.value::json, stored.version, stored.owner, stored.until
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[])
  as stored (kind, key, value, version, owner, until)
on conflict on constraint backfill_documents_pkey do update
set value = excluded.value, version = excluded.version, owner = excluded.owner, until = excluded.until
"#,
            &kinds as &[&str],
            &keys as &[&str],
            &values as &[&str],
            &versions,
            &owners as &[Option<&str>],
            &ends as &[Option<DateTime<Utc>>],
        )
        .execute(self.database.schema.on(conn))
        .await
        .map(drop)
        .map_err(fail)
    }

    /// Appends events, one after the other with everybody else's: the lock is held until the commit, so an event with a lower
    /// position never appears after one with a higher.
    async fn append(&self, conn: &mut PgConnection, plan: &Plan<'_>) -> Result<Vec<u64>> {
        let fail = |e| self.database.error("append events", e);
        sqlx::query!(
            r#"
select pg_advisory_xact_lock(
  hashtextextended('events', 'graphile_worker._private_jobs'::regclass::oid::bigint)
) as "locked!: ()"
"#
        )
        .fetch_all(self.database.schema.on(&mut *conn))
        .await
        .map_err(fail)?;
        let events: Vec<&NewEvent> = plan.events.iter().map(|(_, event)| *event).collect();
        let streams: Vec<&str> = events.iter().map(|event| event.stream.as_str()).collect();
        let payloads: Vec<&str> = events.iter().map(|event| event.payload.as_str()).collect();
        let mut positions = sqlx::query_scalar!(
            r#"
insert into graphile_worker.backfill_events (stream, payload)
select given.stream, given.payload::json
from unnest($1::text[], $2::text[]) with ordinality as given (stream, payload, number)
order by given.number
returning position
"#,
            &streams as &[&str],
            &payloads as &[&str],
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(fail)?;
        positions.sort_unstable();
        Ok(positions.into_iter().map(|position| u64::try_from(position).unwrap_or_default()).collect())
    }

    /// Tells listeners, when this transaction commits.
    pub(super) async fn tell_on(&self, conn: &mut PgConnection, changes: &Changes) -> Result<()> {
        if changes.is_nothing() {
            return Ok(());
        }
        let lines: Vec<&str> = match &changes.lines {
            Names::All => Vec::new(),
            Names::These(lines) => lines.iter().map(String::as_str).collect(),
        };
        // On a channel of the schema's own. Graphile's, which wakes the workers of all schemas of the database, hears of it only if a worker of
        // ours serves one of the lines here. (Node's find out by looking.)
        sqlx::query!(
            r#"
select
  pg_notify('backfill:' || 'graphile_worker._private_jobs'::regclass::oid, $1) as "told!: ()",
  case
    when exists (select from graphile_worker.backfill_pools pool where pool.serves && $2::text[])
      then pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}')
  end as "told_workers: ()",
  set_config('backfill.lines', '', true) as "ended!"
"#,
            notification(changes),
            &lines as &[&str],
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map(drop)
        .map_err(|e| self.database.error("tell of changes", e))
    }

    /// The same by itself.
    pub(super) async fn tell(&self, changes: &Changes) -> Result<()> {
        let mut work = self.database.work().await?;
        self.tell_on(&mut work, changes).await?;
        self.database.done(work).await
    }
}

/// What a notification says: of lines, kinds of documents, and streams, an array of names, or true for all. What is too long to be sent
/// says all.
fn notification(changes: &Changes) -> String {
    let names = |names: &Names| match names {
        Names::All => serde_json::Value::from(true),
        Names::These(names) => names.iter().map(String::as_str).collect(),
    };
    let text = serde_json::json!({
        "lines": names(&changes.lines),
        "documents": names(&changes.documents),
        "streams": names(&changes.streams),
    })
    .to_string();
    if text.len() <= MAX_NOTIFICATION { text } else { notification(&Changes::anywhere()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_that_is_too_long_says_all() {
        let few = Changes::lines(["a".to_owned(), "ü\"".to_owned()]);
        assert_eq!(notification(&few), r#"{"documents":[],"lines":["a","ü\""],"streams":[]}"#);
        let many = Changes::lines((0..2_000).map(|n| format!("line {n}")));
        assert_eq!(notification(&many), r#"{"documents":true,"lines":true,"streams":true}"#);
    }
}
