//! Storing new workflows, and forks.

use std::collections::HashSet;
use std::sync::Arc;

use backfill::error::FailureKind;
use serde::Serialize;
use sqlx::{Acquire, PgConnection};

use super::{PostgresStore, failed};
use crate::codec::PORTABLE;
use crate::error::{Error, Result};
use crate::store::{Created, Existing, Fork, Ms, NewRun, Status};

/// The unique index of deduplication ids.
const DEDUPLICATION: &str = "uq_workflow_status_dedup_id";
const ACTION: &str = "store a workflow";
/// How often the place in a queue is asked for that others take and leave at the same moment.
const TRIES: u32 = 20;

/// A new row, as the statement reads it.
#[derive(Serialize)]
struct Input<'a> {
    ordinal: usize,
    id: &'a str,
    status: &'static str,
    name: &'a str,
    given: &'a str,
    creator: &'a str,
    executor: Option<&'a str>,
    owner: Option<&'a str>,
    queue: Option<&'a str>,
    delay: Option<Ms>,
    part: Option<&'a str>,
    priority: i32,
    deduplication: Option<&'a str>,
    version: Option<&'a str>,
    application: Option<&'a str>,
    parent: Option<&'a str>,
    schedule: Option<&'a str>,
    timeout: Option<Ms>,
    deadline: Option<Ms>,
    debounced: bool,
    at_most: Option<Ms>,
    user_name: Option<&'a str>,
    role: Option<&'a str>,
    roles: Option<&'a str>,
    class: Option<&'a str>,
    config: Option<&'a str>,
    attributes: Option<String>,
}

impl<'a> Input<'a> {
    fn new((ordinal, run): (usize, &'a NewRun)) -> Self {
        let start = run.start.as_ref();
        Self {
            ordinal,
            id: &run.id,
            status: run.status().name(),
            name: &run.name,
            given: &run.input,
            creator: &run.creator,
            executor: start.map(|start| start.executor.as_str()),
            owner: start.map(|start| start.owner.as_str()),
            queue: run.queue.as_deref(),
            delay: run.delay,
            part: run.partition.as_deref(),
            priority: run.priority,
            deduplication: run.deduplication.as_deref(),
            version: run.version.as_deref(),
            application: run.application.as_deref(),
            parent: run.parent.as_deref(),
            schedule: run.schedule.as_deref(),
            timeout: run.timeout,
            deadline: run.deadline,
            debounced: run.debounce.is_some(),
            at_most: run.debounce.and_then(|debounce| debounce.at_most),
            user_name: run.user.as_deref(),
            role: run.role.as_deref(),
            roles: run.roles.as_deref(),
            class: run.class.as_deref(),
            config: run.config.as_deref(),
            attributes: run.attributes.as_ref().map(ToString::to_string),
        }
    }
}

/// Stores new workflows in one statement. One whose place in the queue may be taken, or whose id is there twice, is stored by itself.
pub(super) async fn create(store: &PostgresStore, runs: &[NewRun]) -> Result<Vec<Created>> {
    let mut ids = HashSet::with_capacity(runs.len());
    let alone = |run: &NewRun| run.deduplication.is_some();
    if runs.iter().all(|run| !alone(run) && ids.insert(run.id.as_str())) {
        let mut connection = store.kept.take(&store.pool).await.map_err(|error| failed(ACTION, error))?;
        let answers = insert(store, &mut connection, runs).await.map_err(|error| failed(ACTION, error))?;
        store.kept.keep(&store.pool, connection);
        return Ok(answers);
    }
    let mut answers = Vec::with_capacity(runs.len());
    for run in runs {
        let mut connection = store.pool.acquire().await.map_err(|error| failed(ACTION, error))?;
        answers.push(create_one(store, &mut connection, run).await?);
    }
    Ok(answers)
}

/// Stores one workflow on this connection, perhaps in a transaction of the caller's.
pub(super) async fn create_one(store: &PostgresStore, connection: &mut PgConnection, run: &NewRun) -> Result<Created> {
    let one = std::slice::from_ref(run);
    let Some(key) = &run.deduplication else {
        let answers = insert(store, connection, one).await.map_err(|error| failed(ACTION, error))?;
        return only(answers);
    };
    let queue = run.queue.as_deref().unwrap_or_default();
    for _ in 0..TRIES {
        if run.debounce.is_some()
            && let Some(id) = push(store, connection, queue, key, run).await?
        {
            return Ok(Created::Moved { id });
        }
        // What fails in a savepoint leaves the caller's transaction as it was.
        let mut savepoint = connection.begin().await.map_err(|error| failed(ACTION, error))?;
        match insert(store, &mut savepoint, one).await {
            Ok(answers) => {
                savepoint.commit().await.map_err(|error| failed(ACTION, error))?;
                return only(answers);
            }
            Err(sqlx::Error::Database(error)) if error.constraint() == Some(DEDUPLICATION) => {
                savepoint.rollback().await.map_err(|error| failed(ACTION, error))?;
            }
            Err(error) => return Err(failed(ACTION, error)),
        }
        let holder = sqlx::query!(
            "select workflow_uuid, is_debounced and status = 'DELAYED' and name = $3 as pushable
             from dbos.workflow_status where queue_name = $1 and deduplication_id = $2",
            queue,
            key,
            run.name,
        );
        let holder = holder.fetch_optional(store.schema.on(&mut *connection)).await;
        match holder.map_err(|error| failed(ACTION, error))? {
            // Another call has stored it meanwhile: this one moves it.
            Some(holder) if run.debounce.is_some() && holder.pushable == Some(true) => {}
            Some(holder) => return Ok(Created::Duplicate { holder: holder.workflow_uuid }),
            // It has ended meanwhile, and the place is free; or the caller's transaction cannot see it.
            None => {}
        }
    }
    Err(Error::Storage {
        action: ACTION,
        kind: FailureKind::Conflict,
        source: Arc::new(std::io::Error::other(format!(
            "the deduplication id {key:?} is taken by a workflow that this transaction cannot see; begin the transaction anew"
        ))),
    })
}

fn only(answers: Vec<Created>) -> Result<Created> {
    answers.into_iter().next().ok_or_else(|| Error::decode("the database's answer", "it has no row"))
}

async fn insert(
    store: &PostgresStore,
    connection: &mut PgConnection,
    runs: &[NewRun],
) -> Result<Vec<Created>, sqlx::Error> {
    let inputs: Vec<Input<'_>> = runs.iter().enumerate().map(Input::new).collect();
    let inputs = serde_json::to_string(&inputs).map_err(|error| sqlx::Error::Encode(error.into()))?;
    // A row that is there is touched only, and answered as it is; the creator's token tells a repeated call. Whoever waits for work is told at the
    // commit.
    let rows = sqlx::query!(
        r#"with input as (
               select * from json_to_recordset($1::text::json) as i (
                   id text, status text, name text, given text, creator text, executor text, owner text, queue text,
                   delay bigint, part text, priority int, deduplication text, version text, application text, parent text,
                   schedule text, timeout bigint, deadline bigint, debounced boolean, at_most bigint, user_name text,
                   role text, roles text, class text, config text, attributes text, ordinal bigint
               )
           ), clock as (
               select (extract(epoch from clock_timestamp()) * 1000)::bigint as now
           ), stored as (
               insert into dbos.workflow_status as w (
                   workflow_uuid, status, name, creator_xid, executor_id, owner_xid, queue_name, queue_partition_key, priority,
                   deduplication_id, application_version, application_name, parent_workflow_id, schedule_name,
                   workflow_timeout_ms, workflow_deadline_epoch_ms, delay_until_epoch_ms, is_debounced,
                   debounce_deadline_epoch_ms, authenticated_user, assumed_role, authenticated_roles, class_name, config_name,
                   attributes, created_at, updated_at, started_at_epoch_ms, recovery_attempts, serialization
               )
               select
                   id, status, name, creator, executor, owner, queue, part, priority, deduplication, version, application,
                   parent, schedule, timeout,
                   coalesce(deadline, case when status = 'PENDING' then now + timeout end), now + delay, debounced,
                   now + at_most, user_name, role, roles, class, config, attributes::jsonb, now, now,
                   case when status = 'PENDING' then now end, case when status = 'PENDING' then 1 else 0 end, $2
               from input, clock order by ordinal
               on conflict (workflow_uuid) do update set updated_at = excluded.updated_at
               returning workflow_uuid, status, name, owner_xid, creator_xid, queue_name, workflow_deadline_epoch_ms
           ), given as (
               insert into dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
               select i.id, i.given, now from clock, input i join stored s on s.workflow_uuid = i.id and s.creator_xid = i.creator
               on conflict (workflow_uuid) do nothing
           ), told as (
               select count(pg_notify($3, 'q' || queue_name)) as told
               from (select distinct queue_name from stored where status = 'ENQUEUED' and owner_xid is null) as queues
           )
           select
               s.status as "status!", coalesce(s.name, '') as "name!", s.owner_xid,
               coalesce(s.creator_xid = i.creator and s.owner_xid is not distinct from i.owner, false) as "new!", s.workflow_deadline_epoch_ms as deadline
           from told, input i join stored s on s.workflow_uuid = i.id order by i.ordinal"#,
        inputs,
        PORTABLE,
        &*store.channel,
    );
    let rows = rows.fetch_all(store.schema.on(connection)).await?;
    let answers = rows.into_iter().map(|row| {
        if row.new {
            return Created::New { deadline: row.deadline };
        }
        let status = Status::parse(&row.status).unwrap_or(Status::Pending);
        Created::Exists(Existing { status, name: row.name, owner: row.owner_xid })
    });
    Ok(answers.collect())
}

/// Moves a waiting workflow with the same key, and gives it the new input. Its row is locked until it is: it cannot go to its queue meanwhile.
async fn push(
    store: &PostgresStore,
    connection: &mut PgConnection,
    queue: &str,
    key: &str,
    run: &NewRun,
) -> Result<Option<String>> {
    let moved = sqlx::query_scalar!(
        r#"with clock as (
               select (extract(epoch from clock_timestamp()) * 1000)::bigint as now
           ), moved as (
               update dbos.workflow_status w set
                   delay_until_epoch_ms = least(now + $3, debounce_deadline_epoch_ms), updated_at = now, serialization = $4
               from clock
               where queue_name = $1 and deduplication_id = $2 and status = 'DELAYED' and is_debounced and name = $5
               returning workflow_uuid, now
           ), given as (
               insert into dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
               select workflow_uuid, $6, now from moved
               on conflict (workflow_uuid) do update set inputs = excluded.inputs
           )
           select workflow_uuid as "id!" from moved"#,
        queue,
        key,
        run.delay.unwrap_or(0),
        PORTABLE,
        run.name,
        run.input,
    );
    moved.fetch_optional(store.schema.on(connection)).await.map_err(|error| failed("move a debounced workflow", error))
}

/// Copies a workflow up to a step. All of it, or nothing, in one transaction; the source's row is locked while its steps are read.
pub(super) async fn fork(store: &PostgresStore, fork: &Fork) -> Result<bool> {
    let wrong = |error| failed("fork a workflow", error);
    let mut tx = store.pool.begin().await.map_err(wrong)?;
    let copied = sqlx::query!(
        "with clock as (
             select (extract(epoch from clock_timestamp()) * 1000)::bigint as now
         ), source as (
             update dbos.workflow_status set was_forked_from = true where workflow_uuid = $1 returning *
         ), copy as (
             insert into dbos.workflow_status (
                 workflow_uuid, status, name, creator_xid, queue_name, queue_partition_key, application_version,
                 application_name, application_id, workflow_timeout_ms, authenticated_user, assumed_role, authenticated_roles,
                 class_name, config_name, attributes, created_at, updated_at, recovery_attempts, serialization, forked_from,
                 request
             )
             select
                 $2, 'ENQUEUED', name, $2, $3, $4, coalesce($5, application_version), application_name, application_id,
                 workflow_timeout_ms, authenticated_user, assumed_role, authenticated_roles, class_name, config_name,
                 attributes, now, now, 0, serialization, workflow_uuid, request
             from source, clock
             returning workflow_uuid
         )
         insert into dbos.workflow_input (workflow_uuid, inputs)
         select $2, coalesce(i.inputs, s.inputs) from copy, source s left join dbos.workflow_input i using (workflow_uuid)",
        fork.source,
        fork.id,
        fork.queue,
        fork.partition,
        fork.version,
    );
    if copied.execute(store.schema.on(&mut *tx)).await.map_err(wrong)?.rows_affected() == 0 {
        return Ok(false);
    }
    // What was recorded below the step. Events are those that the last of these steps had set.
    let rest = sqlx::query!(
        "with steps as (
             insert into dbos.operation_outputs (
                 workflow_uuid, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms,
                 completed_at_epoch_ms, serialization, application_name
             )
             select
                 $2, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms, completed_at_epoch_ms,
                 serialization, application_name
             from dbos.operation_outputs where workflow_uuid = $1 and function_id < $3
         ), history as (
             insert into dbos.workflow_events_history (workflow_uuid, function_id, key, value, serialization)
             select $2, function_id, key, value, serialization
             from dbos.workflow_events_history where workflow_uuid = $1 and function_id < $3
         ), events as (
             insert into dbos.workflow_events (workflow_uuid, key, value, serialization)
             select distinct on (key) $2, key, value, serialization
             from dbos.workflow_events_history where workflow_uuid = $1 and function_id < $3
             order by key, function_id desc
         ), messages as (
             insert into dbos.notifications (
                 destination_uuid, topic, message, created_at_epoch_ms, serialization, consumed, consumed_by_function_id
             )
             select
                 $2, topic, message, created_at_epoch_ms, serialization,
                 consumed and coalesce(consumed_by_function_id < $3, false),
                 case when consumed_by_function_id < $3 then consumed_by_function_id end
             from dbos.notifications where destination_uuid = $1
         )
         insert into dbos.streams (workflow_uuid, key, value, \"offset\", function_id, serialization)
         select $2, key, value, \"offset\", function_id, serialization
         from dbos.streams where workflow_uuid = $1 and function_id < $3",
        fork.source,
        fork.id,
        fork.from,
    );
    rest.execute(store.schema.on(&mut *tx)).await.map_err(wrong)?;
    let news = PostgresStore::news('q', &[&fork.queue]);
    let told = sqlx::query!("select pg_notify($1, n) from unnest($2::text[]) as n", &*store.channel, &news);
    told.execute(&mut *tx).await.map_err(wrong)?;
    tx.commit().await.map_err(wrong)?;
    Ok(true)
}
