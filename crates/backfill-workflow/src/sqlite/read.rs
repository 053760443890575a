//! Looking.

use serde_json::Value;
use sqlx::SqliteConnection;

use super::{SqliteStore, failed, list};
use crate::error::{Error, Result};
use crate::store::{Count, Encoded, EventRow, Filter, MessageRow, Run, Status, StepRow, StreamRow};

const ACTION: &str = "look at workflows";

/// A workflow's row, with the names of the table's columns but for what is put together.
pub(super) struct RunRow {
    workflow_uuid: String,
    status: String,
    name: String,
    input: Option<String>,
    output: Option<String>,
    error: Option<String>,
    serialization: Option<String>,
    executor_id: Option<String>,
    owner_xid: Option<String>,
    creator_xid: Option<String>,
    application_version: Option<String>,
    application_name: Option<String>,
    queue_name: Option<String>,
    queue_partition_key: Option<String>,
    priority: i32,
    deduplication_id: Option<String>,
    recovery_attempts: i64,
    parent_workflow_id: Option<String>,
    schedule_name: Option<String>,
    workflow_timeout_ms: Option<i64>,
    workflow_deadline_epoch_ms: Option<i64>,
    delay_until_epoch_ms: Option<i64>,
    created_at: i64,
    updated_at: i64,
    started_at_epoch_ms: Option<i64>,
    completed_at: Option<i64>,
    forked_from: Option<String>,
    was_forked_from: bool,
    rate_limited: bool,
    is_debounced: bool,
    debounce_deadline_epoch_ms: Option<i64>,
    authenticated_user: Option<String>,
    assumed_role: Option<String>,
    authenticated_roles: Option<String>,
    class_name: Option<String>,
    config_name: Option<String>,
    attributes: Option<String>,
}

impl RunRow {
    pub(super) fn run(self) -> Result<Run> {
        let status = Status::parse(&self.status).ok_or_else(|| {
            let what = format!("the status of the workflow {:?}", self.workflow_uuid);
            Error::decode(what, format!("{:?} is none", self.status))
        })?;
        let attributes = self.attributes.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        Ok(Run {
            id: self.workflow_uuid,
            status,
            name: self.name,
            input: self.input,
            output: self.output,
            error: self.error,
            format: self.serialization,
            executor: self.executor_id,
            owner: self.owner_xid,
            creator: self.creator_xid,
            version: self.application_version,
            application: self.application_name,
            queue: self.queue_name,
            partition: self.queue_partition_key,
            priority: self.priority,
            deduplication: self.deduplication_id,
            attempts: self.recovery_attempts,
            parent: self.parent_workflow_id,
            schedule: self.schedule_name,
            timeout: self.workflow_timeout_ms,
            deadline: self.workflow_deadline_epoch_ms,
            delay_until: self.delay_until_epoch_ms,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at_epoch_ms,
            completed_at: self.completed_at,
            forked_from: self.forked_from,
            was_forked_from: self.was_forked_from,
            rate_limited: self.rate_limited,
            debounced: self.is_debounced,
            debounce_deadline: self.debounce_deadline_epoch_ms,
            user: self.authenticated_user,
            role: self.assumed_role,
            roles: self.authenticated_roles,
            class: self.class_name,
            config: self.config_name,
            attributes,
        })
    }
}

macro_rules! runs {
    ($from:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            RunRow,
            r#"select
                   w.workflow_uuid as "workflow_uuid!", w.status as "status!", w.name as "name!",
                   case when ?1 then (select i.inputs from workflow_input i where i.workflow_uuid = w.workflow_uuid) end
                       as "input?: String",
                   case when ?2 then (select o.output from workflow_output o where o.workflow_uuid = w.workflow_uuid) end
                       as "output?: String",
                   case when ?2 then (select o.error from workflow_output o where o.workflow_uuid = w.workflow_uuid) end
                       as "error?: String",
                   w.serialization, w.executor_id, w.owner_xid, w.creator_xid, w.application_version, w.application_name,
                   w.queue_name, w.queue_partition_key, w.priority as "priority!: i32", w.deduplication_id,
                   w.recovery_attempts as "recovery_attempts!: i64", w.parent_workflow_id, w.schedule_name, w.workflow_timeout_ms,
                   w.workflow_deadline_epoch_ms, w.delay_until_epoch_ms, w.created_at as "created_at!: i64",
                   w.updated_at as "updated_at!: i64", w.started_at_epoch_ms, w.completed_at, w.forked_from,
                   w.was_forked_from as "was_forked_from!: bool", w.rate_limited as "rate_limited!: bool",
                   w.is_debounced as "is_debounced!: bool", w.debounce_deadline_epoch_ms, w.authenticated_user,
                   w.assumed_role, w.authenticated_roles, w.class_name, w.config_name, w.attributes
               from workflow_status w "# + $from,
            $($argument),*
        )
    };
}

/// One row with its input, in a transaction that has just written it.
pub(super) async fn run_row(connection: &mut SqliteConnection, id: &str) -> Result<RunRow, sqlx::Error> {
    runs!("where w.workflow_uuid = ?3", true, false, id).fetch_one(connection).await
}

/// What a list means to a statement: nothing given is everything.
fn some(items: &[String]) -> Option<String> {
    (!items.is_empty()).then(|| list(items))
}

pub(super) async fn runs(store: &SqliteStore, filter: &Filter) -> Result<Vec<Run>> {
    let Filter { load_input, load_output, .. } = *filter;
    let only_ids = Filter { ids: filter.ids.clone(), load_input, load_output, ..Filter::default() };
    let rows = if !filter.ids.is_empty() && *filter == only_ids {
        let ids = list(&filter.ids);
        let rows = runs!(
            "where w.workflow_uuid in (select value from json_each(?3)) order by w.created_at, w.rowid",
            load_input,
            load_output,
            ids,
        );
        rows.fetch_all(&store.readers).await
    } else {
        let statuses: Vec<String> = filter.statuses.iter().map(|status| status.name().to_owned()).collect();
        let (ids, prefixes, names) = (some(&filter.ids), some(&filter.id_prefixes), some(&filter.names));
        let (statuses, queues, versions) = (some(&statuses), some(&filter.queues), some(&filter.versions));
        let (executors, users) = (some(&filter.executors), some(&filter.users));
        let (forked, parents, schedules) = (some(&filter.forked_from), some(&filter.parents), some(&filter.schedules));
        let limit = filter.limit.unwrap_or(-1);
        let rows = runs!(
            r#"where (?3 is null or w.workflow_uuid in (select value from json_each(?3)))
                 and (?4 is null or exists (
                     select 1 from json_each(?4) p where substr(w.workflow_uuid, 1, length(p.value)) = p.value
                 ))
                 and (?5 is null or w.name in (select value from json_each(?5)))
                 and (?6 is null or w.status in (select value from json_each(?6)))
                 and (?7 is null or w.queue_name in (select value from json_each(?7)))
                 and (not ?8 or w.queue_name is not null)
                 and (?9 is null or w.application_version in (select value from json_each(?9)))
                 and (?10 is null or w.executor_id in (select value from json_each(?10)))
                 and (?11 is null or w.authenticated_user in (select value from json_each(?11)))
                 and (?12 is null or w.forked_from in (select value from json_each(?12)))
                 and (?13 is null or w.parent_workflow_id in (select value from json_each(?13)))
                 and (?14 is null or (w.parent_workflow_id is not null) = ?14)
                 and (?15 is null or w.was_forked_from = ?15)
                 and (?16 is null or w.schedule_name in (select value from json_each(?16)))
                 and (?17 is null or w.created_at >= ?17) and (?18 is null or w.created_at <= ?18)
                 and (?19 is null or w.completed_at >= ?19) and (?20 is null or w.completed_at <= ?20)
                 and (?21 is null or w.started_at_epoch_ms >= ?21) and (?22 is null or w.started_at_epoch_ms <= ?22)
               order by
                 case when ?23 then -w.created_at else w.created_at end, case when ?23 then -w.rowid else w.rowid end
               limit ?24 offset ?25"#,
            load_input,
            load_output,
            ids,
            prefixes,
            names,
            statuses,
            queues,
            filter.queued_only,
            versions,
            executors,
            users,
            forked,
            parents,
            filter.has_parent,
            filter.was_forked_from,
            schedules,
            filter.created_from,
            filter.created_until,
            filter.completed_from,
            filter.completed_until,
            filter.started_from,
            filter.started_until,
            filter.newest_first,
            limit,
            filter.offset,
        );
        rows.fetch_all(&store.readers).await
    };
    rows.map_err(|error| failed(ACTION, error))?.into_iter().map(RunRow::run).collect()
}

pub(super) async fn counts(store: &SqliteStore, filter: &Filter) -> Result<Vec<Count>> {
    let statuses: Vec<String> = filter.statuses.iter().map(|status| status.name().to_owned()).collect();
    let (names, statuses) = (some(&filter.names), some(&statuses));
    let (queues, versions) = (some(&filter.queues), some(&filter.versions));
    let rows = sqlx::query!(
        r#"select status as "status!", name as "name!", queue_name, count(*) as "count!: i64" from workflow_status
           where (?1 is null or name in (select value from json_each(?1)))
             and (?2 is null or status in (select value from json_each(?2)))
             and (?3 is null or queue_name in (select value from json_each(?3)))
             and (?4 is null or application_version in (select value from json_each(?4)))
             and (?5 is null or created_at >= ?5) and (?6 is null or created_at <= ?6)
             and (?7 is null or completed_at >= ?7) and (?8 is null or completed_at <= ?8)
           group by 1, 2, 3 order by 1, 2, 3"#,
        names,
        statuses,
        queues,
        versions,
        filter.created_from,
        filter.created_until,
        filter.completed_from,
        filter.completed_until,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed(ACTION, error))?;
    let counts = rows.into_iter().filter_map(|row| {
        Some(Count { status: Status::parse(&row.status)?, name: row.name, queue: row.queue_name, count: row.count })
    });
    Ok(counts.collect())
}

pub(super) async fn has_message(store: &SqliteStore, run: &str, topic: &str) -> Result<bool> {
    let row = sqlx::query_scalar!(
        r#"select exists (
               select 1 from notifications where destination_uuid = ? and topic = ? and not consumed
           ) as "waits!: bool""#,
        run,
        topic,
    );
    row.fetch_one(&store.readers).await.map_err(|error| failed("look for a message", error))
}

pub(super) async fn steps(store: &SqliteStore, run: &str) -> Result<Vec<StepRow>> {
    let mut connection = store.readers.acquire().await.map_err(|error| failed(ACTION, error))?;
    steps_of(&mut connection, run).await.map_err(|error| failed(ACTION, error))
}

pub(super) async fn steps_of(connection: &mut SqliteConnection, run: &str) -> Result<Vec<StepRow>, sqlx::Error> {
    let rows = sqlx::query_as!(
        StepRow,
        r#"select
               function_id as "number!: i32", function_name as "name!", output, error, serialization as format,
               child_workflow_id as child, started_at_epoch_ms as started_at, completed_at_epoch_ms as completed_at
           from operation_outputs where workflow_uuid = ? order by function_id"#,
        run,
    );
    rows.fetch_all(connection).await
}

pub(super) async fn messages(store: &SqliteStore, run: &str) -> Result<Vec<MessageRow>> {
    let rows = sqlx::query!(
        r#"select
               message_uuid as "id!", topic, message, serialization, created_at_epoch_ms as created_at,
               consumed as "consumed!: bool", consumed_by_function_id as "consumed_by?: i32"
           from notifications where destination_uuid = ? order by created_at_epoch_ms, rowid"#,
        run,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed(ACTION, error))?;
    let messages = rows.into_iter().map(|row| MessageRow {
        id: row.id,
        topic: row.topic,
        body: Encoded { text: row.message, format: row.serialization },
        created_at: row.created_at,
        consumed: row.consumed,
        consumed_by: row.consumed_by,
    });
    Ok(messages.collect())
}

pub(super) async fn event(store: &SqliteStore, run: &str, key: &str) -> Result<Option<Encoded>> {
    let row = sqlx::query_as!(
        Encoded,
        "select value as text, serialization as format from workflow_events where workflow_uuid = ? and key = ?",
        run,
        key,
    );
    row.fetch_optional(&store.readers).await.map_err(|error| failed("read an event", error))
}

pub(super) async fn events(store: &SqliteStore, run: &str) -> Result<Vec<EventRow>> {
    let rows = sqlx::query!(
        r#"select function_id as "step: i32", key, value, serialization from workflow_events_history
           where workflow_uuid = ? order by function_id, key"#,
        run,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed("read events", error))?;
    let events = rows.into_iter().map(|row| EventRow {
        step: row.step,
        key: row.key,
        value: Encoded { text: row.value, format: row.serialization },
    });
    Ok(events.collect())
}

pub(super) async fn stream(store: &SqliteStore, run: &str, key: Option<&str>, from: i32) -> Result<Vec<StreamRow>> {
    let rows = sqlx::query!(
        r#"select key, value, "offset" as "place: i32", function_id as "step: i32", serialization from streams
           where workflow_uuid = ?1 and (?2 is null or key = ?2) and "offset" >= ?3 order by key, "offset""#,
        run,
        key,
        from,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed("read a stream", error))?;
    let values = rows.into_iter().map(|row| StreamRow {
        key: row.key,
        offset: row.place,
        value: Encoded { text: row.value, format: row.serialization },
        step: row.step,
    });
    Ok(values.collect())
}
