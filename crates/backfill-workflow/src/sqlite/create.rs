//! Storing new workflows, and forks.

use sqlx::SqliteConnection;

use super::{SqliteStore, failed, now};
use crate::codec::PORTABLE;
use crate::error::Result;
use crate::store::{Change, Created, Existing, Fork, NewRun, Status};

const ACTION: &str = "store a workflow";

pub(super) async fn create(store: &SqliteStore, runs: &[NewRun]) -> Result<Vec<Created>> {
    let mut tx = store.write(ACTION).await?;
    let mut answers = Vec::with_capacity(runs.len());
    for run in runs {
        answers.push(create_one(&mut tx, run).await.map_err(|error| failed(ACTION, error))?);
    }
    tx.commit().await.map_err(|error| failed(ACTION, error))?;
    for run in runs.iter().filter(|run| run.status() == Status::Enqueued) {
        store.tell(Change::Queue(run.queue.clone().unwrap_or_default()));
    }
    Ok(answers)
}

/// Stores a workflow, in a transaction of the caller's. Nobody else writes meanwhile.
pub(super) async fn create_one(connection: &mut SqliteConnection, run: &NewRun) -> Result<Created, sqlx::Error> {
    let now = now();
    // A row that is there is touched first: a transaction that has only read cannot write once somebody else has.
    let known = sqlx::query!(
        r#"update workflow_status set updated_at = ? where workflow_uuid = ?
           returning status as "status!", name as "name!", owner_xid, creator_xid, workflow_deadline_epoch_ms as deadline"#,
        now,
        run.id,
    );
    if let Some(known) = known.fetch_optional(&mut *connection).await? {
        let token = run.start.as_ref().map(|start| start.owner.as_str());
        if known.creator_xid.as_deref() == Some(&run.creator) && known.owner_xid.as_deref() == token {
            return Ok(Created::New { deadline: known.deadline });
        }
        let status = Status::parse(&known.status).unwrap_or(Status::Pending);
        return Ok(Created::Exists(Existing { status, name: known.name, owner: known.owner_xid }));
    }
    if let (Some(queue), Some(key)) = (&run.queue, &run.deduplication) {
        let holder = sqlx::query!(
            r#"select workflow_uuid as id, status, name, is_debounced, debounce_deadline_epoch_ms as deadline from workflow_status
               where queue_name = ? and deduplication_id = ?"#,
            queue,
            key,
        );
        if let Some(holder) = holder.fetch_optional(&mut *connection).await? {
            let pushes = run.debounce.is_some() && holder.is_debounced && holder.status == Status::Delayed.name();
            if !pushes || holder.name != run.name {
                return Ok(Created::Duplicate { holder: holder.id });
            }
            let until = now + run.delay.unwrap_or(0);
            let until = holder.deadline.map_or(until, |deadline| until.min(deadline));
            let moved = sqlx::query!(
                "update workflow_status set delay_until_epoch_ms = ?, updated_at = ?, serialization = ? where workflow_uuid = ?",
                until,
                now,
                PORTABLE,
                holder.id,
            );
            moved.execute(&mut *connection).await?;
            let given =
                sqlx::query!("update workflow_input set inputs = ? where workflow_uuid = ?", run.input, holder.id);
            given.execute(connection).await?;
            return Ok(Created::Moved { id: holder.id });
        }
    }
    let status = run.status();
    let begun = status == Status::Pending;
    let word = status.name();
    let (executor, owner) = run.start.clone().map(|start| (start.executor, start.owner)).unzip();
    let deadline = run.deadline.or_else(|| run.timeout.filter(|_| begun).map(|timeout| now + timeout));
    let delay_until = run.delay.map(|delay| now + delay);
    let debounced = run.debounce.is_some();
    let debounce_deadline = run.debounce.and_then(|debounce| debounce.at_most).map(|at_most| now + at_most);
    let attributes = run.attributes.as_ref().map(ToString::to_string);
    let started_at = begun.then_some(now);
    let stored = sqlx::query!(
        "insert into workflow_status (
             workflow_uuid, status, name, creator_xid, executor_id, owner_xid, queue_name, queue_partition_key, priority,
             deduplication_id, application_version, application_name, parent_workflow_id, schedule_name, workflow_timeout_ms,
             workflow_deadline_epoch_ms, delay_until_epoch_ms, is_debounced, debounce_deadline_epoch_ms, authenticated_user,
             assumed_role, authenticated_roles, class_name, config_name, attributes, created_at, updated_at, started_at_epoch_ms,
             recovery_attempts, serialization
         ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        run.id,
        word,
        run.name,
        run.creator,
        executor,
        owner,
        run.queue,
        run.partition,
        run.priority,
        run.deduplication,
        run.version,
        run.application,
        run.parent,
        run.schedule,
        run.timeout,
        deadline,
        delay_until,
        debounced,
        debounce_deadline,
        run.user,
        run.role,
        run.roles,
        run.class,
        run.config,
        attributes,
        now,
        now,
        started_at,
        begun,
        PORTABLE,
    );
    stored.execute(&mut *connection).await?;
    let given = sqlx::query!("insert into workflow_input (workflow_uuid, inputs) values (?, ?)", run.id, run.input);
    given.execute(connection).await?;
    Ok(Created::New { deadline })
}

/// Copies a workflow up to a step.
pub(super) async fn fork(store: &SqliteStore, fork: &Fork) -> Result<bool> {
    let mut tx = store.write("fork a workflow").await?;
    let forked = copy(&mut tx, fork).await.map_err(|error| failed("fork a workflow", error))?;
    tx.commit().await.map_err(|error| failed("fork a workflow", error))?;
    if forked {
        store.tell(Change::Queue(fork.queue.clone()));
    }
    Ok(forked)
}

async fn copy(connection: &mut SqliteConnection, fork: &Fork) -> Result<bool, sqlx::Error> {
    let now = now();
    let source = sqlx::query!("update workflow_status set was_forked_from = true where workflow_uuid = ?", fork.source);
    if source.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let Fork { source, id, from, version, queue, partition } = fork;
    let row = sqlx::query!(
        "insert into workflow_status (
             workflow_uuid, status, name, creator_xid, queue_name, queue_partition_key, application_version, application_name,
             application_id, workflow_timeout_ms, authenticated_user, assumed_role, authenticated_roles, class_name, config_name,
             attributes, created_at, updated_at, serialization, forked_from, request
         )
         select
             ?1, 'ENQUEUED', name, ?1, ?2, ?3, coalesce(?4, application_version), application_name, application_id,
             workflow_timeout_ms, authenticated_user, assumed_role, authenticated_roles, class_name, config_name, attributes, ?5,
             ?5, serialization, workflow_uuid, request
         from workflow_status where workflow_uuid = ?6",
        id,
        queue,
        partition,
        version,
        now,
        source,
    );
    row.execute(&mut *connection).await?;
    let input = sqlx::query!(
        "insert into workflow_input (workflow_uuid, inputs) select ?1, inputs from workflow_input where workflow_uuid = ?2",
        id,
        source,
    );
    input.execute(&mut *connection).await?;
    let steps = sqlx::query!(
        "insert into operation_outputs (
             workflow_uuid, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms,
             completed_at_epoch_ms, serialization, application_name
         )
         select
             ?1, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms, completed_at_epoch_ms,
             serialization, application_name
         from operation_outputs where workflow_uuid = ?2 and function_id < ?3",
        id,
        source,
        from,
    );
    steps.execute(&mut *connection).await?;
    let history = sqlx::query!(
        "insert into workflow_events_history (workflow_uuid, function_id, key, value, serialization)
         select ?1, function_id, key, value, serialization from workflow_events_history where workflow_uuid = ?2 and function_id < ?3",
        id,
        source,
        from,
    );
    history.execute(&mut *connection).await?;
    // Of each event, what the last of these steps has set.
    let events = sqlx::query!(
        "insert into workflow_events (workflow_uuid, key, value, serialization)
         select workflow_uuid, key, value, serialization from workflow_events_history h
         where workflow_uuid = ?1 and function_id = (
             select max(function_id) from workflow_events_history l where l.workflow_uuid = ?1 and l.key = h.key
         )",
        id,
    );
    events.execute(&mut *connection).await?;
    let streams = sqlx::query!(
        r#"insert into streams (workflow_uuid, key, value, "offset", function_id, serialization)
           select ?1, key, value, "offset", function_id, serialization from streams where workflow_uuid = ?2 and function_id < ?3"#,
        id,
        source,
        from,
    );
    streams.execute(&mut *connection).await?;
    let messages = sqlx::query!(
        "insert into notifications (
             message_uuid, destination_uuid, topic, message, created_at_epoch_ms, serialization, consumed, consumed_by_function_id
         )
         select
             ?1 || '-' || message_uuid, ?1, topic, message, created_at_epoch_ms, serialization,
             consumed and coalesce(consumed_by_function_id < ?3, false),
             case when consumed_by_function_id < ?3 then consumed_by_function_id end
         from notifications where destination_uuid = ?2",
        id,
        source,
        from,
    );
    messages.execute(connection).await?;
    Ok(true)
}
