//! Deleting, and storing exports again.

use sqlx::SqliteConnection;

use super::{SqliteStore, failed, list};
use crate::error::Result;
use crate::store::{Change, Expired, Export};

/// Deletes workflows with all that is theirs. Messages, events and streams go with the row, by their foreign keys.
pub(super) async fn delete(store: &SqliteStore, ids: &[String]) -> Result<Vec<String>> {
    let wrong = |error| failed("delete workflows", error);
    let mut tx = store.write("delete workflows").await?;
    let gone = remove(&mut tx, list(ids)).await.map_err(wrong)?;
    tx.commit().await.map_err(wrong)?;
    for id in &gone {
        store.tell(Change::Steered(id.clone()));
    }
    Ok(gone)
}

async fn remove(connection: &mut SqliteConnection, ids: String) -> Result<Vec<String>, sqlx::Error> {
    let gone = sqlx::query_scalar!(
        r#"delete from workflow_status where workflow_uuid in (select value from json_each(?)) returning workflow_uuid as "id!""#,
        ids,
    );
    let gone = gone.fetch_all(&mut *connection).await?;
    let steps =
        sqlx::query!("delete from operation_outputs where workflow_uuid in (select value from json_each(?))", ids);
    steps.execute(&mut *connection).await?;
    let inputs =
        sqlx::query!("delete from workflow_input where workflow_uuid in (select value from json_each(?))", ids);
    inputs.execute(&mut *connection).await?;
    let outputs =
        sqlx::query!("delete from workflow_output where workflow_uuid in (select value from json_each(?))", ids);
    outputs.execute(connection).await?;
    Ok(gone)
}

/// Deletes old workflows that have ended, oldest first, a batch at a time.
pub(super) async fn delete_expired(store: &SqliteStore, expired: &Expired) -> Result<u64> {
    let wrong = |error| failed("delete old workflows", error);
    let mut tx = store.write("delete old workflows").await?;
    let old = sqlx::query_scalar!(
        r#"select workflow_uuid as "id!" from workflow_status
           where completed_at is not null and status in ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
             and (completed_at < ?1 or ?2 is not null and (?2 = 0 or completed_at < (
                 select completed_at from workflow_status
                 where completed_at is not null and status in ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
                 order by completed_at desc limit 1 offset max(?2 - 1, 0)
             )))
           order by completed_at limit ?3"#,
        expired.completed_before,
        expired.keep_newest,
        expired.batch,
    );
    let old = old.fetch_all(&mut *tx).await.map_err(wrong)?;
    let gone = remove(&mut tx, list(&old)).await.map_err(wrong)?;
    tx.commit().await.map_err(wrong)?;
    Ok(gone.len() as u64)
}

/// Stores exported workflows again, all in one transaction.
pub(super) async fn import(store: &SqliteStore, exports: &[Export]) -> Result<Vec<String>> {
    let wrong = |error| failed("import a workflow", error);
    let mut tx = store.write("import a workflow").await?;
    let mut known = Vec::new();
    for export in exports {
        if !import_one(&mut tx, export).await.map_err(wrong)? {
            known.push(export.run.id.clone());
        }
    }
    tx.commit().await.map_err(wrong)?;
    Ok(known)
}

#[expect(clippy::too_many_lines, reason = "it is a list of statements")]
async fn import_one(connection: &mut SqliteConnection, export: &Export) -> Result<bool, sqlx::Error> {
    let run = &export.run;
    let status = run.status.name();
    let attributes = run.attributes.as_ref().map(ToString::to_string);
    let stored = sqlx::query!(
        "insert into workflow_status (
             workflow_uuid, status, name, serialization, executor_id, owner_xid, creator_xid, application_version, application_name,
             queue_name, queue_partition_key, priority, deduplication_id, recovery_attempts, parent_workflow_id, schedule_name,
             workflow_timeout_ms, workflow_deadline_epoch_ms, delay_until_epoch_ms, created_at, updated_at, started_at_epoch_ms,
             completed_at, forked_from, was_forked_from, rate_limited, is_debounced, debounce_deadline_epoch_ms,
             authenticated_user, assumed_role, authenticated_roles, class_name, config_name, attributes
         ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         on conflict (workflow_uuid) do nothing",
        run.id,
        status,
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
        attributes,
    );
    if stored.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let input = sqlx::query!("insert into workflow_input (workflow_uuid, inputs) values (?, ?)", run.id, run.input);
    input.execute(&mut *connection).await?;
    if run.output.is_some() || run.error.is_some() {
        let output = sqlx::query!(
            "insert into workflow_output (workflow_uuid, output, error) values (?, ?, ?)",
            run.id,
            run.output,
            run.error,
        );
        output.execute(&mut *connection).await?;
    }
    for step in &export.steps {
        let row = sqlx::query!(
            "insert into operation_outputs (
                 workflow_uuid, function_id, function_name, output, error, serialization, child_workflow_id, started_at_epoch_ms,
                 completed_at_epoch_ms
             ) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            run.id,
            step.number,
            step.name,
            step.output,
            step.error,
            step.format,
            step.child,
            step.started_at,
            step.completed_at,
        );
        row.execute(&mut *connection).await?;
    }
    for message in &export.messages {
        let row = sqlx::query!(
            "insert into notifications (
                 message_uuid, destination_uuid, topic, message, serialization, created_at_epoch_ms, consumed, consumed_by_function_id
             ) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (message_uuid) do nothing",
            message.id,
            run.id,
            message.topic,
            message.body.text,
            message.body.format,
            message.created_at,
            message.consumed,
            message.consumed_by,
        );
        row.execute(&mut *connection).await?;
    }
    // In the order in which they were set: the last one holds.
    for event in &export.events {
        let row = sqlx::query!(
            "insert into workflow_events_history (workflow_uuid, function_id, key, value, serialization) values (?, ?, ?, ?, ?)",
            run.id,
            event.step,
            event.key,
            event.value.text,
            event.value.format,
        );
        row.execute(&mut *connection).await?;
        let row = sqlx::query!(
            "insert into workflow_events (workflow_uuid, key, value, serialization) values (?, ?, ?, ?)
             on conflict (workflow_uuid, key) do update set value = excluded.value, serialization = excluded.serialization",
            run.id,
            event.key,
            event.value.text,
            event.value.format,
        );
        row.execute(&mut *connection).await?;
    }
    for value in &export.streams {
        let row = sqlx::query!(
            r#"insert into streams (workflow_uuid, key, "offset", value, serialization, function_id) values (?, ?, ?, ?, ?, ?)"#,
            run.id,
            value.key,
            value.offset,
            value.value.text,
            value.value.format,
            value.step,
        );
        row.execute(&mut *connection).await?;
    }
    Ok(true)
}
