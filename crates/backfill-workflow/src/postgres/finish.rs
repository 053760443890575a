//! Ending workflows.

use std::collections::HashSet;

use super::{PostgresStore, failed};
use crate::codec::PORTABLE;
use crate::error::Result;
use crate::store::Finish;

/// Ends workflows in one statement. A row that is not this execution's any more stays as it is: an outcome is never overwritten.
pub(super) async fn finish(store: &PostgresStore, finishes: &[Finish]) -> Result<Vec<bool>> {
    let runs: Vec<&str> = finishes.iter().map(|one| one.run.as_str()).collect();
    let owners: Vec<&str> = finishes.iter().map(|one| one.owner.as_str()).collect();
    let statuses: Vec<&str> = finishes.iter().map(|one| one.status.name()).collect();
    let outputs: Vec<Option<&str>> = finishes.iter().map(|one| one.output.as_deref()).collect();
    let errors: Vec<Option<&str>> = finishes.iter().map(|one| one.error.as_deref()).collect();
    // The status is written so that no index of all that runs is taken for the way to these rows. What was begun too often leaves its queue, and what is given back counts for no limit.
    let rows = sqlx::query!(
        r#"with input as (
               select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                   as i (run, owner, status, output, error)
           ), clock as (
               select (extract(epoch from clock_timestamp()) * 1000)::bigint as now
           ), ended as (
               update dbos.workflow_status w set
                   status = i.status, completed_at = now, updated_at = now, owner_xid = null, deduplication_id = null,
                   serialization = case when i.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' then w.serialization else $6 end,
                   queue_name = case when i.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' then null else w.queue_name end,
                   started_at_epoch_ms =
                       case when i.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' then null else w.started_at_epoch_ms end
               from input i, clock
               where w.workflow_uuid = i.run and coalesce(w.status, '') = 'PENDING' and w.owner_xid = i.owner
               returning w.workflow_uuid, w.status, i.owner, i.output, i.error, now
           ), kept as (
               insert into dbos.workflow_output (workflow_uuid, output, error, retention_timestamp)
               select workflow_uuid, output, error, now from ended where status in ('SUCCESS', 'ERROR')
               on conflict (workflow_uuid) do update
                   set output = excluded.output, error = excluded.error, retention_timestamp = excluded.retention_timestamp
           ), told as (
               select count(pg_notify($7, n)) from unnest($8::text[]) as n where exists (select from ended)
           )
           select workflow_uuid as "run!", owner as "owner!" from ended, told"#,
        &runs as &[&str],
        &owners as &[&str],
        &statuses as &[&str],
        &outputs as &[Option<&str>],
        &errors as &[Option<&str>],
        PORTABLE,
        &*store.channel,
        &PostgresStore::news('f', &runs),
    );
    let wrong = |error| failed("end a workflow", error);
    let mut connection = store.kept.take(&store.pool).await.map_err(wrong)?;
    let ended = rows.fetch_all(store.schema.on(&mut *connection)).await.map_err(wrong)?;
    store.kept.keep(&store.pool, connection);
    let ended: HashSet<(String, String)> = ended.into_iter().map(|row| (row.run, row.owner)).collect();
    Ok(finishes.iter().map(|one| ended.contains(&(one.run.clone(), one.owner.clone()))).collect())
}
