//! Deleting, and storing exports again.

use super::{PostgresStore, failed};
use crate::error::Result;
use crate::store::{Expired, Export};

/// Deletes workflows with all that is theirs. Messages, events and streams go with the row, by their foreign keys.
pub(super) async fn delete(store: &PostgresStore, ids: &[String]) -> Result<Vec<String>> {
    let gone = sqlx::query_scalar!(
        r#"with gone as (
               delete from dbos.workflow_status where workflow_uuid = any($1) returning workflow_uuid
           ), steps as (
               delete from dbos.operation_outputs where workflow_uuid = any($1)
           ), inputs as (
               delete from dbos.workflow_input where workflow_uuid = any($1)
           ), outputs as (
               delete from dbos.workflow_output where workflow_uuid = any($1)
           ), told as (
               select count(pg_notify($2, n)) from unnest($3::text[]) as n where exists (select from gone)
           )
           select workflow_uuid from gone, told"#,
        ids,
        &*store.channel,
        &PostgresStore::news('s', &ids.iter().map(String::as_str).collect::<Vec<_>>()),
    );
    gone.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("delete workflows", error))
}

/// Deletes old workflows that have ended, oldest first, a batch at a time: no lock is held for long. Those that somebody else deletes are passed by.
pub(super) async fn delete_expired(store: &PostgresStore, expired: &Expired) -> Result<u64> {
    let gone = sqlx::query_scalar!(
        r#"with kept as (
               -- The newest that are to be kept: whatever ended before them is surplus.
               select completed_at from dbos.workflow_status
               where completed_at is not null and status in ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
               order by completed_at desc offset greatest($2::bigint - 1, 0) limit 1
           ), old as (
               select workflow_uuid from dbos.workflow_status
               where completed_at is not null and status in ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
                 and (completed_at < $1
                      or $2::bigint is not null and ($2 = 0 or completed_at < (select completed_at from kept)))
               order by completed_at limit $3 for update skip locked
           ), gone as (
               delete from dbos.workflow_status w using old where w.workflow_uuid = old.workflow_uuid returning w.workflow_uuid
           ), steps as (
               delete from dbos.operation_outputs o using old where o.workflow_uuid = old.workflow_uuid
           ), inputs as (
               delete from dbos.workflow_input i using old where i.workflow_uuid = old.workflow_uuid
           ), outputs as (
               delete from dbos.workflow_output o using old where o.workflow_uuid = old.workflow_uuid
           )
           select count(*) as "count!" from gone"#,
        expired.completed_before,
        expired.keep_newest,
        expired.batch,
    );
    let gone = gone.fetch_one(store.schema.on(&store.pool)).await;
    Ok(u64::try_from(gone.map_err(|error| failed("delete old workflows", error))?).unwrap_or(0))
}

/// Stores exported workflows again, each in one transaction.
pub(super) async fn import(store: &PostgresStore, exports: &[Export]) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for export in exports {
        if !import_one(store, export).await.map_err(|error| failed("import a workflow", error))? {
            known.push(export.run.id.clone());
        }
    }
    Ok(known)
}

#[expect(clippy::too_many_lines, reason = "it is a list of statements")]
async fn import_one(store: &PostgresStore, export: &Export) -> Result<bool, sqlx::Error> {
    let run = &export.run;
    let mut tx = store.pool.begin().await?;
    let stored = sqlx::query!(
        "insert into dbos.workflow_status (
             workflow_uuid, status, name, serialization, executor_id, owner_xid, creator_xid, application_version, application_name,
             queue_name, queue_partition_key, priority, deduplication_id, recovery_attempts, parent_workflow_id, schedule_name,
             workflow_timeout_ms, workflow_deadline_epoch_ms, delay_until_epoch_ms, created_at, updated_at, started_at_epoch_ms,
             completed_at, forked_from, was_forked_from, rate_limited, is_debounced, debounce_deadline_epoch_ms,
             authenticated_user, assumed_role, authenticated_roles, class_name, config_name, attributes
         ) values (
             $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25,
             $26, $27, $28, $29, $30, $31, $32, $33, $34::text::jsonb
         ) on conflict (workflow_uuid) do nothing",
        run.id,
        run.status.name(),
        run.name,
        run.format,
        run.executor,
        run.owner,
        run.creator,
        run.version,
        run.application,
        run.queue,
        run.partition,
        run.priority,
        run.deduplication,
        run.attempts,
        run.parent,
        run.schedule,
        run.timeout,
        run.deadline,
        run.delay_until,
        run.created_at,
        run.updated_at,
        run.started_at,
        run.completed_at,
        run.forked_from,
        run.was_forked_from,
        run.rate_limited,
        run.debounced,
        run.debounce_deadline,
        run.user,
        run.role,
        run.roles,
        run.class,
        run.config,
        run.attributes.as_ref().map(ToString::to_string),
    );
    if stored.execute(store.schema.on(&mut *tx)).await?.rows_affected() == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let rest = sqlx::query!(
        r#"with input as (
               insert into dbos.workflow_input (workflow_uuid, inputs) select $1, $2 where $2::text is not null
           ), output as (
               insert into dbos.workflow_output (workflow_uuid, output, error)
               select $1, $3, $4 where $3::text is not null or $4::text is not null
           ), steps as (
               insert into dbos.operation_outputs (
                   workflow_uuid, function_id, function_name, output, error, serialization, child_workflow_id,
                   started_at_epoch_ms, completed_at_epoch_ms
               )
               select $1, number, name, output, error, format, child, started_at, completed_at
               from json_to_recordset($5::text::json) as s (
                   number int, name text, output text, error text, format text, child text, started_at bigint,
                   completed_at bigint
               )
           ), messages as (
               insert into dbos.notifications (
                   message_uuid, destination_uuid, topic, message, serialization, created_at_epoch_ms, consumed,
                   consumed_by_function_id
               )
               select id, $1, topic, body->>'text', body->>'format', created_at, consumed, consumed_by
               from json_to_recordset($6::text::json) as m (
                   id text, topic text, body json, created_at bigint, consumed boolean, consumed_by int
               )
               on conflict (message_uuid) do nothing
           ), history as (
               insert into dbos.workflow_events_history (workflow_uuid, function_id, key, value, serialization)
               select $1, step, key, value->>'text', value->>'format'
               from json_to_recordset($7::text::json) as e (step int, key text, value json)
           ), events as (
               insert into dbos.workflow_events (workflow_uuid, key, value, serialization)
               select distinct on (key) $1, key, value->>'text', value->>'format'
               from json_to_recordset($7::text::json) as e (step int, key text, value json) order by key, step desc
           )
           insert into dbos.streams (workflow_uuid, key, "offset", value, serialization, function_id)
           select $1, key, "offset", value->>'text', value->>'format', step
           from json_to_recordset($8::text::json) as s (key text, "offset" int, value json, step int)"#,
        run.id,
        run.input,
        run.output,
        run.error,
        text(&export.steps)?,
        text(&export.messages)?,
        text(&export.events)?,
        text(&export.streams)?,
    );
    rest.execute(store.schema.on(&mut *tx)).await?;
    tx.commit().await?;
    Ok(true)
}

/// Rows as JSON.
fn text<T: serde::Serialize>(rows: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))
}
