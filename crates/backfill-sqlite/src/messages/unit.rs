//! What belongs together: all units of a call in one transaction, judged by the [`Plan`].

use std::collections::HashMap;
use std::sync::Arc;

use backfill_core::Result;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::WorkerId;
use backfill_core::storage::messages::{
    Applied, Document, DocumentKey, JobWrite, Needs, NewEvent, Plan, Present, Unit,
};
use sqlx::SqliteConnection;

use super::lease::free;
use crate::SqliteStorage;
use crate::add::store;
use crate::file::{MonotonicClock, micros, time};
use crate::heartbeat::wake;
use crate::row::{Text, jobs};

impl SqliteStorage {
    pub(super) async fn apply_units(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        let (clock, units) = (Arc::clone(self.file.clock()), units.to_vec());
        let applied = self
            .file
            .writer
            .write("apply units", move |connection| Box::pin(async move { apply(&clock, connection, &units).await }));
        let applied = applied.await?;
        if applied.iter().any(Applied::is_done) {
            self.cursor.forget_soon();
            self.file.tell();
        }
        Ok(applied)
    }
}

pub(crate) async fn apply(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    units: &[Unit],
) -> sqlx::Result<Vec<Applied>> {
    let present = read(clock, connection, &Needs::of(units)).await?;
    let now = micros(present.now);
    let plan = Plan::of(units, present);
    for queue in &plan.freed {
        free(connection, &queue.name, &queue.locked_by, Some(micros(queue.locked_at))).await?;
    }
    write_jobs(connection, &plan.jobs).await?;
    for (key, document) in &plan.documents {
        write_document(connection, key, document.as_ref()).await?;
    }
    let mut added = Vec::with_capacity(plan.add.len());
    for batch in plan.batches() {
        added.extend(batch.split(store(clock, connection, &batch.jobs).await?));
    }
    let mut positions = Vec::with_capacity(plan.events.len());
    for (_, event) in &plan.events {
        positions.push(append(connection, event, now).await?);
    }
    if plan.jobs.iter().any(|write| matches!(write, JobWrite::Keep { .. })) || !plan.freed.is_empty() {
        wake(connection, 1).await?;
    }
    Ok(plan.applied(added, positions))
}

/// What the units need. Nobody else writes before the transaction ends, so nothing has to be locked.
async fn read(clock: &MonotonicClock, connection: &mut SqliteConnection, needs: &Needs<'_>) -> sqlx::Result<Present> {
    let mut present = Present::default();
    if !needs.jobs.is_empty() {
        let ids: Vec<i64> = needs.jobs.iter().map(|id| id.number()).collect();
        let ids = crate::json(ids);
        let rows = jobs!(
            payload: "'{}'", "select", "from backfill_jobs where id in (select value from json_each(?1))", ids
        );
        let rows = rows.fetch_all(&mut *connection).await?;
        present.jobs = rows.into_iter().map(Job::from).map(|job| (job.id, job)).collect::<HashMap<JobId, Job>>();
    }
    for key in &needs.documents {
        let row = sqlx::query!(
            r#"
select value as "value!: Text", version as "version!: i64", owner as "owner?: Text", until as "until?: i64"
from backfill_documents
where kind = ?1 and key = ?2
"#,
            key.kind,
            key.key,
        );
        if let Some(row) = row.fetch_optional(&mut *connection).await? {
            let version = u64::try_from(row.version).unwrap_or_default();
            let mut document = Document::new((*key).clone(), row.value.into(), version);
            document.owner = row.owner.map(|owner| WorkerId::named(owner.text));
            document.until = row.until.map(time);
            present.documents.insert((*key).clone(), document);
        }
    }
    for key in &needs.keys {
        let there = sqlx::query_scalar!(r#"select count(*) as "count!: i64" from backfill_jobs where key = ?1"#, key);
        if there.fetch_one(&mut *connection).await? > 0 {
            present.keys.insert((*key).to_owned());
        }
    }
    for owner in &needs.owners {
        let there = sqlx::query_scalar!(r#"select count(*) as "count!: i64" from backfill_pools where id = ?1"#, owner);
        if there.fetch_one(&mut *connection).await? > 0 {
            present.workers.insert((*owner).to_owned());
        }
    }
    if needs.versions > 0 {
        let versions = i64::try_from(needs.versions).unwrap_or(i64::MAX);
        let last = sqlx::query_scalar!(
            r#"update backfill_document_versions set last = last + ?1 returning last as "last!: i64""#,
            versions
        );
        let last = u64::try_from(last.fetch_one(&mut *connection).await?).unwrap_or_default();
        present.versions = (last + 1 - needs.versions as u64..=last).collect();
    }
    present.now = time(clock.now());
    Ok(present)
}

async fn write_jobs(connection: &mut SqliteConnection, writes: &[JobWrite]) -> sqlx::Result<()> {
    let gone: Vec<i64> = writes
        .iter()
        .filter_map(|write| if let JobWrite::Delete(id) = write { Some(id.number()) } else { None })
        .collect();
    if !gone.is_empty() {
        let gone = crate::json(gone);
        sqlx::query!("delete from backfill_jobs where id in (select value from json_each(?1))", gone)
            .execute(&mut *connection)
            .await?;
    }
    for write in writes {
        let JobWrite::Keep { job, payload_changed } = write else { continue };
        let (id, run_at) = (job.id.number(), micros(job.run_at));
        let payload = payload_changed.then(|| job.payload.as_str());
        sqlx::query!(
            r#"
update backfill_jobs set
  attempts = ?2, run_at = ?3, last_error = ?4, payload = coalesce(?5, payload), locked_at = null, locked_by = null
where id = ?1
"#,
            id,
            job.attempts,
            run_at,
            job.last_error,
            payload,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn write_document(
    connection: &mut SqliteConnection,
    key: &DocumentKey,
    document: Option<&Document>,
) -> sqlx::Result<()> {
    let Some(document) = document else {
        return sqlx::query!("delete from backfill_documents where kind = ?1 and key = ?2", key.kind, key.key)
            .execute(connection)
            .await
            .map(drop);
    };
    let (value, version) = (document.value.as_str(), i64::try_from(document.version).unwrap_or(i64::MAX));
    let (owner, until) = (document.owner.as_ref().map(WorkerId::as_str), document.until.map(micros));
    sqlx::query!(
        r#"
insert into backfill_documents (kind, key, value, version, owner, until) values (?1, ?2, ?3, ?4, ?5, ?6)
on conflict do update set value = ?3, version = ?4, owner = ?5, until = ?6
"#,
        key.kind,
        key.key,
        value,
        version,
        owner,
        until,
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn append(connection: &mut SqliteConnection, event: &NewEvent, now: i64) -> sqlx::Result<u64> {
    let payload = event.payload.as_str();
    let position = sqlx::query_scalar!(
        r#"insert into backfill_events (stream, at, payload) values (?1, ?2, ?3) returning position as "position!: i64""#,
        event.stream,
        now,
        payload,
    );
    Ok(u64::try_from(position.fetch_one(connection).await?).unwrap_or_default())
}
