//! Changing many rows at once.

use super::{PostgresStore, failed};
use crate::error::Result;
use crate::store::{Held, INTERNAL_QUEUE, Moved, Transition};

/// One statement for each transition. Those of many rows lock them in the order of their ids, so that two do not wait for each other.
pub(super) async fn transition(store: &PostgresStore, transition: &Transition) -> Result<Vec<Moved>> {
    let moved = match transition {
        Transition::Cancel { ids } => cancel(store, Some(ids), None).await,
        Transition::CancelBefore(before) => cancel(store, None, Some(*before)).await,
        Transition::Expire => expire(store).await,
        Transition::Resume { ids, queue } => resume(store, ids, queue).await,
        Transition::CancelHeld { held } => cancel_held(store, held).await,
        Transition::RecoverLapsed { except, retired } => recover_lapsed(store, except, *retired).await,
        Transition::Reconcile { executor, owners, before } => reconcile(store, executor, owners, *before).await,
        Transition::Recover { executors, version } => recover(store, executors, version.as_deref()).await,
        Transition::Return { held } => give_back(store, held).await,
        Transition::Release => release(store).await,
        Transition::Delay { id, until } => delay(store, id, *until).await,
    };
    let moved = moved.map_err(|error| failed("change workflows", error))?;
    tell(store, transition, &moved).await;
    Ok(moved)
}

/// Tells other processes. They find out by themselves if this is lost.
async fn tell(store: &PostgresStore, transition: &Transition, moved: &[Moved]) {
    if moved.is_empty() {
        return;
    }
    let mut news = Vec::new();
    if !matches!(transition, Transition::Release | Transition::Delay { .. }) {
        let ids: Vec<&str> = moved.iter().map(|one| one.id.as_str()).collect();
        news.extend(PostgresStore::news('s', &ids));
    }
    let mut queues: Vec<&str> = moved.iter().filter_map(|one| one.queue.as_deref()).collect();
    queues.sort_unstable();
    queues.dedup();
    if !queues.is_empty() {
        news.extend(PostgresStore::news('q', &queues));
    }
    let told = sqlx::query!("select pg_notify($1, n) from unnest($2::text[]) as n", &*store.channel, &news,);
    if let Err(error) = told.execute(&store.pool).await {
        tracing::debug!(%error, "others could not be told; they look by themselves");
    }
}

/// Cancels these, or those stored before.
async fn cancel(
    store: &PostgresStore,
    ids: Option<&Vec<String>>,
    before: Option<i64>,
) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where ($1::text[] is null or workflow_uuid = any($1)) and ($2::bigint is null or created_at < $2)
                 and (status in ('PENDING', 'ENQUEUED', 'DELAYED') or status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' and $2 is null)
               order by workflow_uuid for update
           )
           update dbos.workflow_status w set
               status = 'CANCELLED', completed_at = (extract(epoch from clock_timestamp()) * 1000)::bigint,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint, owner_xid = null, queue_name = null,
               deduplication_id = null, started_at_epoch_ms = null
           from meant where w.workflow_uuid = meant.workflow_uuid
           returning w.workflow_uuid as id, meant.owner_xid as owner"#,
        ids as Option<&Vec<String>>,
        before,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await?;
    Ok(rows.into_iter().map(|row| Moved { id: row.id, owner: row.owner, queue: None }).collect())
}

/// Cancels what is beyond its deadline, whoever ran it. Those that somebody changes at this moment are with the next look.
async fn expire(store: &PostgresStore) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where status in ('ENQUEUED', 'PENDING', 'DELAYED') and workflow_deadline_epoch_ms is not null
                 and workflow_deadline_epoch_ms <= (extract(epoch from clock_timestamp()) * 1000)::bigint
               for update skip locked
           )
           update dbos.workflow_status w set
               status = 'CANCELLED', completed_at = (extract(epoch from clock_timestamp()) * 1000)::bigint,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint, owner_xid = null, queue_name = null,
               deduplication_id = null, started_at_epoch_ms = null
           from meant where w.workflow_uuid = meant.workflow_uuid
           returning w.workflow_uuid as id, meant.owner_xid as owner"#,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await?;
    Ok(rows.into_iter().map(|row| Moved { id: row.id, owner: row.owner, queue: None }).collect())
}

async fn resume(store: &PostgresStore, ids: &[String], queue: &str) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Moved,
        r#"with meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where workflow_uuid = any($1) and status not in ('SUCCESS', 'ERROR')
               order by workflow_uuid for update
           )
           update dbos.workflow_status w set
               status = 'ENQUEUED', queue_name = $2, recovery_attempts = 0, owner_xid = null, workflow_deadline_epoch_ms = null,
               deduplication_id = null, started_at_epoch_ms = null, completed_at = null, delay_until_epoch_ms = null,
               is_debounced = false, updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           from meant where w.workflow_uuid = meant.workflow_uuid
           returning w.workflow_uuid as id, meant.owner_xid as owner, w.queue_name as queue"#,
        ids,
        queue,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

/// Cancels executions whose time is up, unless somebody else has them.
async fn cancel_held(store: &PostgresStore, held: &[Held]) -> Result<Vec<Moved>, sqlx::Error> {
    let (runs, owners): (Vec<String>, Vec<String>) = parts(held);
    let rows = sqlx::query_as!(
        Moved,
        r#"update dbos.workflow_status w set
               status = 'CANCELLED', completed_at = (extract(epoch from clock_timestamp()) * 1000)::bigint,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint, owner_xid = null, queue_name = null,
               deduplication_id = null, started_at_epoch_ms = null
           from unnest($1::text[], $2::text[]) as h (run, owner)
           where w.workflow_uuid = h.run and w.owner_xid = h.owner and w.status = 'PENDING'
           returning w.workflow_uuid as id, h.owner, w.queue_name as queue"#,
        &runs,
        &owners,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

fn parts(held: &[Held]) -> (Vec<String>, Vec<String>) {
    held.iter().map(|held| (held.run.clone(), held.owner.clone())).unzip()
}

/// Puts back what executors were running whose lease has lapsed. Executors without a lease, such as those of DBOS's libraries, are not among
/// them. Leases are forgotten a while later, when no row of theirs is left behind.
async fn recover_lapsed(store: &PostgresStore, except: &str, retired: bool) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Moved,
        r#"with dead as (
               select executor_id from backfill_workflow.executors
               where schema_name = $1 and lives_until < clock_timestamp() and executor_id <> $3
                 and (not $4 or lives_until = '-infinity')
           ), meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where status = 'PENDING' and executor_id in (select executor_id from dead) order by workflow_uuid for update
           ), moved as (
               update dbos.workflow_status w set
                   status = 'ENQUEUED', queue_name = coalesce(queue_name, $2), owner_xid = null, started_at_epoch_ms = null,
                   updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
               from meant where w.workflow_uuid = meant.workflow_uuid
               returning w.workflow_uuid, meant.owner_xid, w.queue_name
           ), forgotten as (
               delete from backfill_workflow.executors e
               where schema_name = $1 and lives_until < clock_timestamp() - interval '5 minutes' and not $4
                 and not exists (
                     select from dbos.workflow_status w where w.status = 'PENDING' and w.executor_id = e.executor_id
                 )
           )
           select workflow_uuid as "id!", owner_xid as owner, queue_name as queue from moved"#,
        store.schema.name(),
        INTERNAL_QUEUE,
        except,
        retired,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

/// Puts back what this executor should be running and is not: a claim whose answer was lost, a start whose caller was dropped.
async fn reconcile(
    store: &PostgresStore,
    executor: &str,
    owners: &[String],
    before: i64,
) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Moved,
        r#"with meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where status = 'PENDING' and executor_id = $1 and owner_xid <> all($2)
                 and started_at_epoch_ms < $3
               order by workflow_uuid for update
           )
           update dbos.workflow_status w set
               status = 'ENQUEUED', queue_name = coalesce(queue_name, $4), owner_xid = null, started_at_epoch_ms = null,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           from meant where w.workflow_uuid = meant.workflow_uuid
           returning w.workflow_uuid as id, meant.owner_xid as owner, w.queue_name as queue"#,
        executor,
        owners,
        before,
        INTERNAL_QUEUE,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

async fn recover(
    store: &PostgresStore,
    executors: &[String],
    version: Option<&str>,
) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Moved,
        r#"with meant as (
               select workflow_uuid, owner_xid from dbos.workflow_status
               where status = 'PENDING' and executor_id = any($1) and ($2::text is null or application_version = $2)
               order by workflow_uuid for update
           )
           update dbos.workflow_status w set
               status = 'ENQUEUED', queue_name = coalesce(queue_name, $3), owner_xid = null, started_at_epoch_ms = null,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           from meant where w.workflow_uuid = meant.workflow_uuid
           returning w.workflow_uuid as id, meant.owner_xid as owner, w.queue_name as queue"#,
        executors,
        version,
        INTERNAL_QUEUE,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

async fn give_back(store: &PostgresStore, held: &[Held]) -> Result<Vec<Moved>, sqlx::Error> {
    let (runs, owners) = parts(held);
    let rows = sqlx::query_as!(
        Moved,
        r#"update dbos.workflow_status w set
               status = 'ENQUEUED', queue_name = coalesce(queue_name, $3), owner_xid = null, started_at_epoch_ms = null,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           from unnest($1::text[], $2::text[]) as h (run, owner)
           where w.workflow_uuid = h.run and w.owner_xid = h.owner and w.status = 'PENDING'
           returning w.workflow_uuid as id, h.owner, w.queue_name as queue"#,
        &runs,
        &owners,
        INTERNAL_QUEUE,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

/// Lets go to their queues what is due. A debounced one gives up its key then: the next call begins another.
async fn release(store: &PostgresStore) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Moved,
        r#"with due as (
               select workflow_uuid from dbos.workflow_status
               where status = 'DELAYED' and delay_until_epoch_ms <= (extract(epoch from clock_timestamp()) * 1000)::bigint
               for update skip locked
           )
           update dbos.workflow_status w set
               status = 'ENQUEUED', deduplication_id = case when is_debounced then null else deduplication_id end,
               updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           from due where w.workflow_uuid = due.workflow_uuid
           returning w.workflow_uuid as id, w.owner_xid as owner, w.queue_name as queue"#,
    );
    rows.fetch_all(store.schema.on(&store.pool)).await
}

async fn delay(store: &PostgresStore, id: &str, until: i64) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"update dbos.workflow_status set
               delay_until_epoch_ms = $2, updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
           where workflow_uuid = $1 and status = 'DELAYED'
           returning workflow_uuid as id"#,
        id,
        until,
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await?;
    Ok(rows.into_iter().map(|row| Moved { id: row.id, owner: None, queue: None }).collect())
}
