//! Queues, schedules, versions.

use super::{PostgresStore, failed};
use crate::error::Result;
use crate::store::{Ms, QueueRow, Rate, ScheduleChange, ScheduleRow, VersionRow};

/// A rate, if both of its numbers are there.
fn rate(limit: Option<i32>, seconds: Option<f64>) -> Option<Rate> {
    let (limit, seconds) = (limit?, seconds?);
    #[expect(clippy::cast_possible_truncation, reason = "it is a period")]
    let period = (seconds * 1000.0).round() as Ms;
    Some(Rate { limit: limit.into(), period })
}

fn parts(rate: Option<Rate>) -> (Option<i32>, Option<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "it is a period")]
    let both = rate.map(|rate| (whole(rate.limit), rate.period as f64 / 1000.0));
    both.unzip()
}

fn whole(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) async fn queues(store: &PostgresStore) -> Result<Vec<QueueRow>> {
    let rows = sqlx::query!(
        "select name, concurrency, worker_concurrency, rate_limit_max, rate_limit_period_sec, partition_queue, polling_interval_sec,
             partition_concurrency, partition_worker_concurrency, partition_rate_limit_max, partition_rate_limit_period_sec
         from dbos.queues order by name",
    );
    let rows = rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("read the queues", error))?;
    let queues = rows.into_iter().map(|row| QueueRow {
        name: row.name,
        concurrency: row.concurrency.map(i64::from),
        worker_concurrency: row.worker_concurrency.map(i64::from),
        rate: rate(row.rate_limit_max, row.rate_limit_period_sec),
        partitioned: row.partition_queue,
        partition_concurrency: row.partition_concurrency.map(i64::from),
        partition_worker_concurrency: row.partition_worker_concurrency.map(i64::from),
        partition_rate: rate(row.partition_rate_limit_max, row.partition_rate_limit_period_sec),
        #[expect(clippy::cast_possible_truncation, reason = "it is an interval")]
        polling: ((row.polling_interval_sec * 1000.0).round() as Ms).max(1),
    });
    Ok(queues.collect())
}

pub(super) async fn put_queue(store: &PostgresStore, queue: &QueueRow, only_new: bool) -> Result<()> {
    let ((limit, period), (part_limit, part_period)) = (parts(queue.rate), parts(queue.partition_rate));
    #[expect(clippy::cast_precision_loss, reason = "it is an interval")]
    let polling = queue.polling as f64 / 1000.0;
    let put = sqlx::query!(
        "with put as (
             insert into dbos.queues as q (
                 name, concurrency, worker_concurrency, rate_limit_max, rate_limit_period_sec, partition_queue,
                 polling_interval_sec, partition_concurrency, partition_worker_concurrency, partition_rate_limit_max,
                 partition_rate_limit_period_sec
             ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             on conflict (name) do update set
                 concurrency = excluded.concurrency, worker_concurrency = excluded.worker_concurrency,
                 rate_limit_max = excluded.rate_limit_max, rate_limit_period_sec = excluded.rate_limit_period_sec,
                 partition_queue = excluded.partition_queue, polling_interval_sec = excluded.polling_interval_sec,
                 partition_concurrency = excluded.partition_concurrency,
                 partition_worker_concurrency = excluded.partition_worker_concurrency,
                 partition_rate_limit_max = excluded.partition_rate_limit_max,
                 partition_rate_limit_period_sec = excluded.partition_rate_limit_period_sec,
                 updated_at = (extract(epoch from clock_timestamp()) * 1000)::bigint
             where not $12
         )
         select pg_notify($13, n) from unnest($14::text[]) as n",
        queue.name,
        queue.concurrency.map(whole),
        queue.worker_concurrency.map(whole),
        limit,
        period,
        queue.partitioned,
        polling,
        queue.partition_concurrency.map(whole),
        queue.partition_worker_concurrency.map(whole),
        part_limit,
        part_period,
        only_new,
        &*store.channel,
        &PostgresStore::news('q', &[&queue.name]),
    );
    put.execute(store.schema.on(&store.pool)).await.map_err(|error| failed("store a queue", error))?;
    Ok(())
}

pub(super) async fn delete_queue(store: &PostgresStore, name: &str) -> Result<bool> {
    let gone = sqlx::query!("delete from dbos.queues where name = $1", name);
    let gone = gone.execute(store.schema.on(&store.pool)).await.map_err(|error| failed("delete a queue", error))?;
    Ok(gone.rows_affected() > 0)
}

pub(super) async fn schedules(store: &PostgresStore) -> Result<Vec<ScheduleRow>> {
    let rows = sqlx::query!("select * from dbos.workflow_schedules order by schedule_name");
    let rows =
        rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("read the schedules", error))?;
    let schedules = rows.into_iter().map(|row| ScheduleRow {
        id: row.schedule_id,
        name: row.schedule_name,
        workflow: row.workflow_name,
        class: row.workflow_class_name,
        cron: row.schedule,
        paused: row.status != "ACTIVE",
        context: row.context,
        last_fired_at: row.last_fired_at,
        catch_up: row.automatic_backfill,
        time_zone: row.cron_timezone,
        queue: row.queue_name,
        application: row.application_name,
    });
    Ok(schedules.collect())
}

pub(super) async fn put_schedule(store: &PostgresStore, row: &ScheduleRow) -> Result<()> {
    let put = sqlx::query!(
        "insert into dbos.workflow_schedules (
             schedule_id, schedule_name, workflow_name, workflow_class_name, schedule, status, context, last_fired_at,
             automatic_backfill, cron_timezone, queue_name, application_name
         ) values (
             gen_random_uuid()::text, $1, $2, $3, $4, case when $5 then 'PAUSED' else 'ACTIVE' end, $6, $7, $8, $9, $10, $11
         ) on conflict (schedule_name) do update set
             workflow_name = excluded.workflow_name, workflow_class_name = excluded.workflow_class_name,
             schedule = excluded.schedule, context = excluded.context, automatic_backfill = excluded.automatic_backfill,
             cron_timezone = excluded.cron_timezone, queue_name = excluded.queue_name,
             application_name = excluded.application_name",
        row.name,
        row.workflow,
        row.class,
        row.cron,
        row.paused,
        row.context,
        row.last_fired_at,
        row.catch_up,
        row.time_zone,
        row.queue,
        row.application,
    );
    put.execute(store.schema.on(&store.pool)).await.map_err(|error| failed("store a schedule", error))?;
    Ok(())
}

pub(super) async fn change_schedule(store: &PostgresStore, name: &str, change: &ScheduleChange) -> Result<bool> {
    if matches!(change, ScheduleChange::Delete) {
        let gone = sqlx::query!("delete from dbos.workflow_schedules where schedule_name = $1", name);
        let gone =
            gone.execute(store.schema.on(&store.pool)).await.map_err(|error| failed("delete a schedule", error))?;
        return Ok(gone.rows_affected() > 0);
    }
    let (status, fired) = match change {
        ScheduleChange::Pause => (Some("PAUSED"), None),
        ScheduleChange::Resume => (Some("ACTIVE"), None),
        ScheduleChange::Fired(at) => (None, Some(at)),
        ScheduleChange::Delete => (None, None),
    };
    let changed = sqlx::query!(
        "update dbos.workflow_schedules set
             status = coalesce($2, status),
             last_fired_at = case
                 when $3::text is null or last_fired_at is not null and last_fired_at::timestamptz >= $3::text::timestamptz
                 then last_fired_at else $3
             end
         where schedule_name = $1",
        name,
        status,
        fired,
    );
    let changed = changed.execute(store.schema.on(&store.pool)).await;
    Ok(changed.map_err(|error| failed("change a schedule", error))?.rows_affected() > 0)
}

pub(super) async fn versions(store: &PostgresStore) -> Result<Vec<VersionRow>> {
    let rows = sqlx::query_as!(
        VersionRow,
        "select version_id as id, version_name as name, application_name as application, version_timestamp as timestamp, created_at
         from dbos.application_versions order by version_timestamp desc",
    );
    rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("read the versions", error))
}

/// A version that becomes the latest is newer than all others, even within one millisecond.
pub(super) async fn put_version(
    store: &PostgresStore,
    name: &str,
    application: Option<&str>,
    latest: bool,
) -> Result<()> {
    let put = sqlx::query!(
        "with newest as (
             select greatest(
                 (extract(epoch from clock_timestamp()) * 1000)::bigint,
                 coalesce(max(version_timestamp) + 1, 0)
             ) as at
             from dbos.application_versions
         )
         insert into dbos.application_versions as v (version_id, version_name, version_timestamp, application_name)
         select gen_random_uuid()::text, $1, at, $2 from newest
         on conflict (version_name) do update set version_timestamp = excluded.version_timestamp where $3",
        name,
        application,
        latest,
    );
    put.execute(store.schema.on(&store.pool)).await.map_err(|error| failed("register a version", error))?;
    Ok(())
}
