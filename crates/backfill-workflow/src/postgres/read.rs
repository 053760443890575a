//! Looking.

use backfill::BackfillClient;

use super::row::{RunRow, readable};
use super::{PostgresStore, failed};
use crate::error::Result;
use crate::store::{Count, Encoded, EventRow, Filter, MessageRow, Run, Status, StepRow, StreamRow};

const ACTION: &str = "look at workflows";

macro_rules! runs {
    ($from:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            RunRow,
            r#"select
                   w.workflow_uuid, w.status, w.name, case when $1 then coalesce(i.inputs, w.inputs) end as input,
                   case when $2 then coalesce(o.output, w.output) end as output,
                   case when $2 then coalesce(o.error, w.error) end as error,
                   w.serialization, w.executor_id, w.owner_xid, w.creator_xid, w.application_version, w.application_name,
                   w.queue_name, w.queue_partition_key, w.priority, w.deduplication_id, w.recovery_attempts,
                   w.parent_workflow_id, w.schedule_name, w.workflow_timeout_ms, w.workflow_deadline_epoch_ms,
                   w.delay_until_epoch_ms, w.created_at, w.updated_at, w.started_at_epoch_ms, w.completed_at, w.forked_from,
                   w.was_forked_from, w.rate_limited, w.is_debounced, w.debounce_deadline_epoch_ms, w.authenticated_user,
                   w.assumed_role, w.authenticated_roles, w.class_name, w.config_name, w.attributes::text as attributes
               from dbos.workflow_status w
               left join dbos.workflow_input i on $1 and i.workflow_uuid = w.workflow_uuid
               left join dbos.workflow_output o on $2 and o.workflow_uuid = w.workflow_uuid
               "# + $from,
            $($argument),*
        )
    };
}

/// What a list means to a statement: nothing given is everything.
fn list(items: &[String]) -> Option<&[String]> {
    (!items.is_empty()).then_some(items)
}

/// The workflows that are meant. Those who ask by ids, as waiters do, have a statement of their own, which no plan for everything can spoil.
pub(super) async fn runs(store: &PostgresStore, filter: &Filter) -> Result<Vec<Run>> {
    let only_ids = Filter {
        ids: filter.ids.clone(),
        load_input: filter.load_input,
        load_output: filter.load_output,
        ..Filter::default()
    };
    if !filter.ids.is_empty() && *filter == only_ids {
        let rows = runs!(
            "where w.workflow_uuid = any($3) order by w.created_at, w.workflow_uuid",
            filter.load_input,
            filter.load_output,
            &filter.ids,
        );
        let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed(ACTION, error))?;
        return Ok(readable(rows));
    }
    let statuses: Vec<String> = filter.statuses.iter().map(|status| status.name().to_owned()).collect();
    let prefixes: Vec<String> = filter.id_prefixes.iter().map(|prefix| format!("{}%", escaped(prefix))).collect();
    let rows = runs!(
        r#"where ($3::text[] is null or w.workflow_uuid = any($3))
             and ($4::text[] is null or w.workflow_uuid like any($4))
             and ($5::text[] is null or w.name = any($5))
             and ($6::text[] is null or w.status = any($6))
             and ($7::text[] is null or w.queue_name = any($7))
             and (not $8 or w.queue_name is not null)
             and ($9::text[] is null or w.application_version = any($9))
             and ($10::text[] is null or w.executor_id = any($10))
             and ($11::text[] is null or w.authenticated_user = any($11))
             and ($12::text[] is null or w.forked_from = any($12))
             and ($13::text[] is null or w.parent_workflow_id = any($13))
             and ($14::boolean is null or (w.parent_workflow_id is not null) = $14)
             and ($15::boolean is null or w.was_forked_from = $15)
             and ($16::text[] is null or w.schedule_name = any($16))
             and ($17::bigint is null or w.created_at >= $17) and ($18::bigint is null or w.created_at <= $18)
             and ($19::bigint is null or w.completed_at >= $19) and ($20::bigint is null or w.completed_at <= $20)
             and ($21::bigint is null or w.started_at_epoch_ms >= $21)
             and ($22::bigint is null or w.started_at_epoch_ms <= $22)
           order by
             case when $23 then w.created_at end desc, case when $23 then w.workflow_uuid end desc,
             case when not $23 then w.created_at end, case when not $23 then w.workflow_uuid end
           limit $24 offset $25"#,
        filter.load_input,
        filter.load_output,
        list(&filter.ids),
        list(&prefixes),
        list(&filter.names),
        list(&statuses),
        list(&filter.queues),
        filter.queued_only,
        list(&filter.versions),
        list(&filter.executors),
        list(&filter.users),
        list(&filter.forked_from),
        list(&filter.parents),
        filter.has_parent,
        filter.was_forked_from,
        list(&filter.schedules),
        filter.created_from,
        filter.created_until,
        filter.completed_from,
        filter.completed_until,
        filter.started_from,
        filter.started_until,
        filter.newest_first,
        filter.limit,
        filter.offset,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed(ACTION, error))?;
    Ok(readable(rows))
}

/// A text in which no character has a meaning for `like`.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

/// How many there are. What the filter says of ids, values and order counts for nothing here but for the ids.
pub(super) async fn counts(store: &PostgresStore, filter: &Filter) -> Result<Vec<Count>> {
    let statuses: Vec<String> = filter.statuses.iter().map(|status| status.name().to_owned()).collect();
    let rows = sqlx::query!(
        r#"select status, name, queue_name, count(*) as "count!" from dbos.workflow_status w
           where ($1::text[] is null or w.name = any($1))
             and ($2::text[] is null or w.status = any($2))
             and ($3::text[] is null or w.queue_name = any($3))
             and ($4::text[] is null or w.application_version = any($4))
             and ($5::bigint is null or w.created_at >= $5) and ($6::bigint is null or w.created_at <= $6)
             and ($7::bigint is null or w.completed_at >= $7) and ($8::bigint is null or w.completed_at <= $8)
           group by status, name, queue_name order by status, name, queue_name"#,
        list(&filter.names),
        list(&statuses),
        list(&filter.queues),
        list(&filter.versions),
        filter.created_from,
        filter.created_until,
        filter.completed_from,
        filter.completed_until,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed(ACTION, error))?;
    let counts = rows.into_iter().filter_map(|row| {
        let status = Status::parse(row.status.as_deref()?)?;
        Some(Count { status, name: row.name.unwrap_or_default(), queue: row.queue_name, count: row.count })
    });
    Ok(counts.collect())
}

pub(super) async fn has_message(store: &PostgresStore, run: &str, topic: &str) -> Result<bool> {
    let row = sqlx::query_scalar!(
        r#"select exists (
               select from dbos.notifications where destination_uuid = $1 and topic = $2 and not consumed
           ) as "waits!""#,
        run,
        topic,
    );
    row.fetch_one(store.schema.on(&store.pool)).await.map_err(|error| failed("look for a message", error))
}

pub(super) async fn steps(store: &PostgresStore, run: &str) -> Result<Vec<StepRow>> {
    let rows = sqlx::query_as!(
        StepRow,
        r#"select
               function_id as number, function_name as name, output, error, serialization as format, child_workflow_id as child,
               started_at_epoch_ms as started_at, completed_at_epoch_ms as completed_at
           from dbos.operation_outputs where workflow_uuid = $1 order by function_id"#,
        run,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed(ACTION, error))
}

pub(super) async fn messages(store: &PostgresStore, run: &str) -> Result<Vec<MessageRow>> {
    let rows = sqlx::query!(
        "select message_uuid, topic, message, serialization, created_at_epoch_ms, consumed, consumed_by_function_id
         from dbos.notifications where destination_uuid = $1 order by created_at_epoch_ms, message_uuid",
        run,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed(ACTION, error))?;
    let messages = rows.into_iter().map(|row| MessageRow {
        id: row.message_uuid,
        topic: row.topic,
        body: Encoded { text: row.message, format: row.serialization },
        created_at: row.created_at_epoch_ms,
        consumed: row.consumed,
        consumed_by: row.consumed_by_function_id,
    });
    Ok(messages.collect())
}

pub(super) async fn event(store: &PostgresStore, run: &str, key: &str) -> Result<Option<Encoded>> {
    let row = sqlx::query_as!(
        Encoded,
        "select value as text, serialization as format from dbos.workflow_events where workflow_uuid = $1 and key = $2",
        run,
        key,
    );
    row.fetch_optional(store.schema.on(&store.pool)).await.map_err(|error| failed("read an event", error))
}

pub(super) async fn events(store: &PostgresStore, run: &str) -> Result<Vec<EventRow>> {
    let rows = sqlx::query!(
        "select function_id, key, value, serialization from dbos.workflow_events_history
         where workflow_uuid = $1 order by function_id, key",
        run,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("read events", error))?;
    let events = rows.into_iter().map(|row| EventRow {
        step: row.function_id,
        key: row.key,
        value: Encoded { text: row.value, format: row.serialization },
    });
    Ok(events.collect())
}

pub(super) async fn stream(store: &PostgresStore, run: &str, key: Option<&str>, from: i32) -> Result<Vec<StreamRow>> {
    let rows = sqlx::query!(
        r#"select key, value, "offset" as place, function_id, serialization from dbos.streams
           where workflow_uuid = $1 and ($2::text is null or key = $2) and "offset" >= $3 order by key, "offset""#,
        run,
        key,
        from,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("read a stream", error))?;
    let values = rows.into_iter().map(|row| StreamRow {
        key: row.key,
        offset: row.place,
        value: Encoded { text: row.value, format: row.serialization },
        step: row.function_id,
    });
    Ok(values.collect())
}

/// Whether the jobs of this client are in the same database: it has the same name, in a server with the same address that began at the same moment.
pub(super) async fn is_database_of(store: &PostgresStore, client: &BackfillClient) -> Result<bool> {
    let Ok(jobs) = client.postgres() else { return Ok(false) };
    let asked = || {
        sqlx::query_scalar!(
            r#"select concat_ws(' ', current_database(), pg_postmaster_start_time(), inet_server_addr(), inet_server_port()) as "name!""#
        )
    };
    let wrong = |error| failed("ask which database this is", error);
    let here = asked().fetch_one(&store.pool).await.map_err(wrong)?;
    let there = asked().fetch_one(jobs.pool()).await.map_err(wrong)?;
    Ok(here == there)
}
