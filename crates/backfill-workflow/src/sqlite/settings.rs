//! Queues, schedules, versions.

use super::{SqliteStore, failed, now};
use crate::error::Result;
use crate::store::{Change, Ms, QueueRow, Rate, ScheduleChange, ScheduleRow, VersionRow};

fn millis(seconds: f64) -> Ms {
    #[expect(clippy::cast_possible_truncation, reason = "it is a length of time")]
    let millis = (seconds * 1000.0).round() as Ms;
    millis
}

fn seconds(millis: Ms) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is a length of time")]
    let seconds = millis as f64 / 1000.0;
    seconds
}

fn rate(limit: Option<i64>, period: Option<f64>) -> Option<Rate> {
    Some(Rate { limit: limit?, period: millis(period?) })
}

pub(super) async fn queues(store: &SqliteStore) -> Result<Vec<QueueRow>> {
    let rows = sqlx::query!(
        r#"select name, concurrency, worker_concurrency, rate_limit_max, rate_limit_period_sec,
               partition_queue as "partition_queue!: bool", polling_interval_sec, partition_concurrency,
               partition_worker_concurrency, partition_rate_limit_max, partition_rate_limit_period_sec
           from queues order by name"#,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed("read the queues", error))?;
    let queues = rows.into_iter().map(|row| QueueRow {
        name: row.name,
        concurrency: row.concurrency,
        worker_concurrency: row.worker_concurrency,
        rate: rate(row.rate_limit_max, row.rate_limit_period_sec),
        partitioned: row.partition_queue,
        partition_concurrency: row.partition_concurrency,
        partition_worker_concurrency: row.partition_worker_concurrency,
        partition_rate: rate(row.partition_rate_limit_max, row.partition_rate_limit_period_sec),
        polling: millis(row.polling_interval_sec).max(1),
    });
    Ok(queues.collect())
}

pub(super) async fn put_queue(store: &SqliteStore, queue: &QueueRow, only_new: bool) -> Result<()> {
    let id = crate::id::fresh();
    let (limit, period) = queue.rate.map(|rate| (rate.limit, seconds(rate.period))).unzip();
    let (part_limit, part_period) = queue.partition_rate.map(|rate| (rate.limit, seconds(rate.period))).unzip();
    let polling = seconds(queue.polling);
    let put = sqlx::query!(
        "insert into queues (
             queue_id, name, concurrency, worker_concurrency, rate_limit_max, rate_limit_period_sec, partition_queue,
             polling_interval_sec, partition_concurrency, partition_worker_concurrency, partition_rate_limit_max,
             partition_rate_limit_period_sec
         ) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         on conflict (name) do update set
             concurrency = excluded.concurrency, worker_concurrency = excluded.worker_concurrency,
             rate_limit_max = excluded.rate_limit_max, rate_limit_period_sec = excluded.rate_limit_period_sec,
             partition_queue = excluded.partition_queue, polling_interval_sec = excluded.polling_interval_sec,
             partition_concurrency = excluded.partition_concurrency,
             partition_worker_concurrency = excluded.partition_worker_concurrency,
             partition_rate_limit_max = excluded.partition_rate_limit_max,
             partition_rate_limit_period_sec = excluded.partition_rate_limit_period_sec
         where not ?13",
        id,
        queue.name,
        queue.concurrency,
        queue.worker_concurrency,
        limit,
        period,
        queue.partitioned,
        polling,
        queue.partition_concurrency,
        queue.partition_worker_concurrency,
        part_limit,
        part_period,
        only_new,
    );
    put.execute(&store.writer).await.map_err(|error| failed("store a queue", error))?;
    store.tell(Change::Queue(queue.name.clone()));
    Ok(())
}

pub(super) async fn delete_queue(store: &SqliteStore, name: &str) -> Result<bool> {
    let gone = sqlx::query!("delete from queues where name = ?", name);
    let gone = gone.execute(&store.writer).await.map_err(|error| failed("delete a queue", error))?;
    Ok(gone.rows_affected() > 0)
}

pub(super) async fn schedules(store: &SqliteStore) -> Result<Vec<ScheduleRow>> {
    let rows = sqlx::query!(
        r#"select
               schedule_id, schedule_name, workflow_name, workflow_class_name, schedule, status, context, last_fired_at,
               automatic_backfill as "automatic_backfill!: bool", cron_timezone, queue_name, application_name
           from workflow_schedules order by schedule_name"#,
    );
    let rows = rows.fetch_all(&store.readers).await.map_err(|error| failed("read the schedules", error))?;
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

pub(super) async fn put_schedule(store: &SqliteStore, row: &ScheduleRow) -> Result<()> {
    let status = if row.paused { "PAUSED" } else { "ACTIVE" };
    let put = sqlx::query!(
        "insert into workflow_schedules (
             schedule_id, schedule_name, workflow_name, workflow_class_name, schedule, status, context, last_fired_at,
             automatic_backfill, cron_timezone, queue_name, application_name
         ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         on conflict (schedule_name) do update set
             workflow_name = excluded.workflow_name, workflow_class_name = excluded.workflow_class_name,
             schedule = excluded.schedule, context = excluded.context, automatic_backfill = excluded.automatic_backfill,
             cron_timezone = excluded.cron_timezone, queue_name = excluded.queue_name,
             application_name = excluded.application_name",
        row.id,
        row.name,
        row.workflow,
        row.class,
        row.cron,
        status,
        row.context,
        row.last_fired_at,
        row.catch_up,
        row.time_zone,
        row.queue,
        row.application,
    );
    put.execute(&store.writer).await.map_err(|error| failed("store a schedule", error))?;
    Ok(())
}

pub(super) async fn change_schedule(store: &SqliteStore, name: &str, change: &ScheduleChange) -> Result<bool> {
    let changed = match change {
        ScheduleChange::Delete => {
            sqlx::query!("delete from workflow_schedules where schedule_name = ?", name).execute(&store.writer).await
        }
        ScheduleChange::Fired(at) => {
            // All writers of this library give the same form, whose order is that of the times.
            let fired = sqlx::query!(
                "update workflow_schedules set last_fired_at = max(coalesce(last_fired_at, ''), ?2) where schedule_name = ?1",
                name,
                at,
            );
            fired.execute(&store.writer).await
        }
        ScheduleChange::Pause | ScheduleChange::Resume => {
            let status = if matches!(change, ScheduleChange::Pause) { "PAUSED" } else { "ACTIVE" };
            let changed =
                sqlx::query!("update workflow_schedules set status = ?2 where schedule_name = ?1", name, status);
            changed.execute(&store.writer).await
        }
    };
    Ok(changed.map_err(|error| failed("change a schedule", error))?.rows_affected() > 0)
}

pub(super) async fn versions(store: &SqliteStore) -> Result<Vec<VersionRow>> {
    let rows = sqlx::query_as!(
        VersionRow,
        "select version_id as id, version_name as name, application_name as application, version_timestamp as timestamp, created_at
         from application_versions order by version_timestamp desc",
    );
    rows.fetch_all(&store.readers).await.map_err(|error| failed("read the versions", error))
}

/// A version that becomes the latest is newer than all others, even within one millisecond.
pub(super) async fn put_version(
    store: &SqliteStore,
    name: &str,
    application: Option<&str>,
    latest: bool,
) -> Result<()> {
    let (id, now) = (crate::id::fresh(), now());
    let put = sqlx::query!(
        "insert into application_versions (version_id, version_name, version_timestamp, created_at, application_name)
         select ?1, ?2, max(?3, coalesce((select max(version_timestamp) + 1 from application_versions), 0)), ?3, ?4 where true
         on conflict (version_name) do update set version_timestamp = excluded.version_timestamp where ?5",
        id,
        name,
        now,
        application,
        latest,
    );
    put.execute(&store.writer).await.map_err(|error| failed("register a version", error))?;
    Ok(())
}
