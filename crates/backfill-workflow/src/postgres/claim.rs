//! Taking work.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::row::RunRow;
use super::{PostgresStore, failed, is_contended};
use crate::error::{Error, Result};
use crate::store::{Claim, Claimed, Rate, StepRow};

const ACTION: &str = "claim work";
/// How often a claim is tried that met others.
const TRIES: u32 = 5;

/// Takes work. Without common limits, claimers pass each other by; with them, one of ours claims from the queue at a time. DBOS's libraries count and
/// take in one snapshot, and begin anew when they meet others: so does a claim of ours that meets them.
pub(super) async fn claim(store: &PostgresStore, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
    let mut connection = store.pool.acquire().await.map_err(|error| failed(ACTION, error))?;
    let limits = [claim.concurrency, claim.partition_concurrency];
    let rates = [claim.rate, claim.partition_rate];
    if limits.iter().all(Option::is_none) && rates.iter().all(Option::is_none) {
        let rows = take(store, &mut connection, claim, claim.limit).await.map_err(|error| failed(ACTION, error))?;
        return read(rows);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match limited(store, &mut connection, claim).await {
            Ok(Some(rows)) => return read(rows),
            Err(error) if !is_contended(&error) => return Err(failed(ACTION, error)),
            // Whoever it met takes what there is; the next look is soon.
            Ok(None) | Err(_) if tries >= TRIES => return Ok(Vec::new()),
            Ok(None) | Err(_) => {
                let most = 2_u64.pow(tries) * 5;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
            }
        }
    }
}

/// A claimed row with its history.
struct ClaimedRow {
    run: RunRow,
    steps: Option<String>,
}

macro_rules! take {
    ($store:ident, $connection:ident, $claim:ident, $limit:ident, $lock:tt) => {{
        // The latest version also takes what is for none; where none is registered, everybody is the latest. A history is read with its
        // row: only what was begun before, or is a fork, has one. The order is the index's, which has those of one moment as they were stored.
        let rows = sqlx::query!(
            r#"with latest as (
                   select version_name from dbos.application_versions
                   where application_name is not distinct from $4 order by version_timestamp desc limit 1
               ), clock as (
                   select (extract(epoch from clock_timestamp()) * 1000)::bigint as now
               ), picked as (
                   select workflow_uuid as id from dbos.workflow_status
                   where queue_name = $1 and status = 'ENQUEUED' and name = any($2)
                     and (application_version = $3
                          or application_version is null and coalesce((select version_name from latest) = $3, true))
                     and (application_name is null or application_name = $4)
                     and ($5::text is null or queue_partition_key = $5)
                   order by priority, created_at
                   limit $6
                   for update "# + $lock + r#"
               ), claimed as (
                   update dbos.workflow_status w set
                       status = 'PENDING', executor_id = $7, owner_xid = gen_random_uuid()::text, application_version = $3,
                       application_name = coalesce(application_name, $4), started_at_epoch_ms = now, updated_at = now,
                       recovery_attempts = coalesce(recovery_attempts, 0) + 1, rate_limited = $8,
                       workflow_deadline_epoch_ms = least(workflow_deadline_epoch_ms, now + workflow_timeout_ms)
                   from picked, clock where w.workflow_uuid = picked.id
                   returning w.*
               )
               select
                   c.workflow_uuid as "workflow_uuid!", c.status, c.name, coalesce(i.inputs, c.inputs) as input,
                   c.serialization, c.executor_id, c.owner_xid, c.creator_xid, c.application_version, c.application_name,
                   c.queue_name, c.queue_partition_key, c.priority as "priority!", c.deduplication_id, c.recovery_attempts,
                   c.parent_workflow_id, c.schedule_name, c.workflow_timeout_ms, c.workflow_deadline_epoch_ms,
                   c.delay_until_epoch_ms, c.created_at as "created_at!", c.updated_at as "updated_at!", c.started_at_epoch_ms,
                   c.completed_at, c.forked_from, c.was_forked_from as "was_forked_from!",
                   c.rate_limited as "rate_limited!", c.is_debounced as "is_debounced!", c.debounce_deadline_epoch_ms,
                   c.authenticated_user, c.assumed_role, c.authenticated_roles, c.class_name, c.config_name,
                   c.attributes::text as attributes,
                   (
                       select json_agg(json_build_object(
                           'number', o.function_id, 'name', o.function_name, 'output', o.output, 'error', o.error,
                           'format', o.serialization, 'child', o.child_workflow_id, 'started_at', o.started_at_epoch_ms,
                           'completed_at', o.completed_at_epoch_ms
                       ))::text from dbos.operation_outputs o where o.workflow_uuid = c.workflow_uuid
                   ) as steps
               from claimed c left join dbos.workflow_input i on i.workflow_uuid = c.workflow_uuid
               order by c.priority, c.created_at, c.workflow_uuid"#,
            $claim.queue,
            $claim.names,
            $claim.version,
            $claim.application,
            $claim.partition,
            $limit,
            $claim.executor,
            $claim.rate.is_some() || $claim.partition_rate.is_some(),
        );
        let rows = rows.fetch_all($store.schema.on($connection)).await?;
        let rows = rows.into_iter().map(|row| ClaimedRow {
            run: RunRow {
                workflow_uuid: row.workflow_uuid,
                status: row.status,
                name: row.name,
                input: row.input,
                output: None,
                error: None,
                serialization: row.serialization,
                executor_id: row.executor_id,
                owner_xid: row.owner_xid,
                creator_xid: row.creator_xid,
                application_version: row.application_version,
                application_name: row.application_name,
                queue_name: row.queue_name,
                queue_partition_key: row.queue_partition_key,
                priority: row.priority,
                deduplication_id: row.deduplication_id,
                recovery_attempts: row.recovery_attempts,
                parent_workflow_id: row.parent_workflow_id,
                schedule_name: row.schedule_name,
                workflow_timeout_ms: row.workflow_timeout_ms,
                workflow_deadline_epoch_ms: row.workflow_deadline_epoch_ms,
                delay_until_epoch_ms: row.delay_until_epoch_ms,
                created_at: row.created_at,
                updated_at: row.updated_at,
                started_at_epoch_ms: row.started_at_epoch_ms,
                completed_at: row.completed_at,
                forked_from: row.forked_from,
                was_forked_from: row.was_forked_from,
                rate_limited: row.rate_limited,
                is_debounced: row.is_debounced,
                debounce_deadline_epoch_ms: row.debounce_deadline_epoch_ms,
                authenticated_user: row.authenticated_user,
                assumed_role: row.assumed_role,
                authenticated_roles: row.authenticated_roles,
                class_name: row.class_name,
                config_name: row.config_name,
                attributes: row.attributes,
            },
            steps: row.steps,
        });
        Ok(rows.collect())
    }};
}

async fn take(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &Claim<'_>,
    limit: i64,
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    take!(store, connection, claim, limit, "skip locked")
}

async fn take_or_begin_anew(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &Claim<'_>,
    limit: i64,
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    take!(store, connection, claim, limit, "nowait")
}

/// Counts and takes under the lock of the queue. What is counted is read after the lock is held, so that no claim of ours is missed.
async fn limited(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &Claim<'_>,
) -> Result<Option<Vec<ClaimedRow>>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let lock = format!("backfill_workflow {} {}", store.schema.name(), claim.queue);
    let locked = sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as "locked!""#, lock);
    if !locked.fetch_one(&mut *tx).await? {
        // Whoever holds it takes what there is, and looks again when something ends.
        tx.rollback().await?;
        return Ok(None);
    }
    let mut limit = room(store, &mut tx, claim, None, claim.concurrency, claim.rate).await?.min(claim.limit);
    if claim.partition.is_some() {
        let part = claim.partition;
        limit = limit.min(room(store, &mut tx, claim, part, claim.partition_concurrency, claim.partition_rate).await?);
    }
    if limit <= 0 {
        tx.rollback().await?;
        return Ok(Some(Vec::new()));
    }
    let rows = take_or_begin_anew(store, &mut tx, claim, limit).await?;
    tx.commit().await?;
    Ok(Some(rows))
}

/// How many more may start, of a queue or of a part of it.
async fn room(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &Claim<'_>,
    part: Option<&str>,
    concurrency: Option<i64>,
    rate: Option<Rate>,
) -> Result<i64, sqlx::Error> {
    let mut room = i64::MAX;
    if let Some(concurrency) = concurrency {
        let running = sqlx::query_scalar!(
            r#"select count(*) as "count!" from dbos.workflow_status
               where queue_name = $1 and status = 'PENDING' and ($2::text is null or queue_partition_key = $2)"#,
            claim.queue,
            part,
        );
        room = room.min(concurrency - running.fetch_one(store.schema.on(&mut *connection)).await?);
    }
    if let Some(rate) = rate {
        let started = sqlx::query_scalar!(
            r#"select count(*) as "count!" from dbos.workflow_status
               where queue_name = $1 and rate_limited = true and status not in ('ENQUEUED', 'DELAYED')
                 and started_at_epoch_ms > (extract(epoch from clock_timestamp()) * 1000)::bigint - $2
                 and ($3::text is null or queue_partition_key = $3)"#,
            claim.queue,
            rate.period,
            part,
        );
        room = room.min(rate.limit - started.fetch_one(store.schema.on(&mut *connection)).await?);
    }
    Ok(room)
}

fn read(rows: Vec<ClaimedRow>) -> Result<Vec<Claimed>> {
    rows.into_iter().map(|row| Ok(Claimed { steps: steps(row.steps.as_deref())?, run: row.run.run()? })).collect()
}

/// A history, as the statement answers it.
fn steps(text: Option<&str>) -> Result<Vec<StepRow>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| Error::decode("a workflow's history", error))
}

/// The parts of a queue in which workflows wait.
pub(super) async fn partitions(store: &PostgresStore, queue: &str) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar!(
        r#"select distinct queue_partition_key as "part!" from dbos.workflow_status
           where queue_name = $1 and status = 'ENQUEUED' and queue_partition_key is not null"#,
        queue,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("look for parts of a queue", error))
}
