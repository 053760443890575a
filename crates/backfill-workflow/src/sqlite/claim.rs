//! Taking work.

use sqlx::SqliteConnection;

use super::read::{RunRow, run_row};
use super::{SqliteStore, failed, list, now};
use crate::error::Result;
use crate::store::{Claim, Claimed, Rate, StepRow};

const ACTION: &str = "claim work";

pub(super) async fn claim(store: &SqliteStore, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
    // A look that takes no lock comes first: most find nothing.
    if !waits(store, claim.queue).await.map_err(|error| failed(ACTION, error))? {
        return Ok(Vec::new());
    }
    let mut tx = store.write(ACTION).await?;
    let claimed = take(&mut tx, claim).await.map_err(|error| failed(ACTION, error))?;
    tx.commit().await.map_err(|error| failed(ACTION, error))?;
    claimed.into_iter().map(|(row, steps)| Ok(Claimed { run: row.run()?, steps })).collect()
}

async fn waits(store: &SqliteStore, queue: &str) -> Result<bool, sqlx::Error> {
    let row = sqlx::query_scalar!(
        r#"select exists (select 1 from workflow_status where queue_name = ? and status = 'ENQUEUED') as "waits!: bool""#,
        queue,
    );
    row.fetch_one(&store.readers).await
}

/// Counts and takes in one transaction: nobody else writes meanwhile.
async fn take(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
) -> Result<Vec<(RunRow, Vec<StepRow>)>, sqlx::Error> {
    let now = now();
    let mut limit = room(connection, claim, None, claim.concurrency, claim.rate, now).await?.min(claim.limit);
    if claim.partition.is_some() {
        let part = claim.partition;
        limit = limit.min(room(connection, claim, part, claim.partition_concurrency, claim.partition_rate, now).await?);
    }
    if limit <= 0 {
        return Ok(Vec::new());
    }
    let names = list(claim.names);
    // The latest version also takes what is for none; where none is registered, everybody is the latest.
    let ids = sqlx::query_scalar!(
        r#"select workflow_uuid as "id!" from workflow_status
           where queue_name = ?1 and status = 'ENQUEUED' and name in (select value from json_each(?2))
             and (application_version = ?3 or application_version is null and coalesce((
                 select version_name from application_versions where application_name is ?4
                 order by version_timestamp desc limit 1
             ) = ?3, true))
             and (application_name is null or application_name = ?4)
             and (?5 is null or queue_partition_key = ?5)
           order by priority, created_at, workflow_uuid limit ?6"#,
        claim.queue,
        names,
        claim.version,
        claim.application,
        claim.partition,
        limit,
    );
    let ids = ids.fetch_all(&mut *connection).await?;
    let rate_limited = claim.rate.is_some() || claim.partition_rate.is_some();
    let mut claimed = Vec::with_capacity(ids.len());
    for id in ids {
        let owner = crate::id::token();
        let marked = sqlx::query!(
            "update workflow_status set
                 status = 'PENDING', executor_id = ?2, owner_xid = ?3, application_version = ?4,
                 application_name = coalesce(application_name, ?5), started_at_epoch_ms = ?6, updated_at = ?6,
                 recovery_attempts = recovery_attempts + 1, rate_limited = ?7,
                 workflow_deadline_epoch_ms = min(
                     coalesce(workflow_deadline_epoch_ms, ?6 + workflow_timeout_ms),
                     coalesce(?6 + workflow_timeout_ms, workflow_deadline_epoch_ms)
                 )
             where workflow_uuid = ?1",
            id,
            claim.executor,
            owner,
            claim.version,
            claim.application,
            now,
            rate_limited,
        );
        marked.execute(&mut *connection).await?;
        let row = run_row(connection, &id).await?;
        let steps = super::read::steps_of(connection, &id).await?;
        claimed.push((row, steps));
    }
    Ok(claimed)
}

/// How many more may start, of a queue or of a part of it.
async fn room(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
    part: Option<&str>,
    concurrency: Option<i64>,
    rate: Option<Rate>,
    now: i64,
) -> Result<i64, sqlx::Error> {
    let mut room = i64::MAX;
    if let Some(concurrency) = concurrency {
        let running = sqlx::query_scalar!(
            r#"select count(*) as "count!: i64" from workflow_status
               where queue_name = ?1 and status = 'PENDING' and (?2 is null or queue_partition_key = ?2)"#,
            claim.queue,
            part,
        );
        room = room.min(concurrency - running.fetch_one(&mut *connection).await?);
    }
    if let Some(rate) = rate {
        let since = now - rate.period;
        let started = sqlx::query_scalar!(
            r#"select count(*) as "count!: i64" from workflow_status
               where queue_name = ?1 and rate_limited and status not in ('ENQUEUED', 'DELAYED') and started_at_epoch_ms > ?2
                 and (?3 is null or queue_partition_key = ?3)"#,
            claim.queue,
            since,
            part,
        );
        room = room.min(rate.limit - started.fetch_one(&mut *connection).await?);
    }
    Ok(room)
}

pub(super) async fn partitions(store: &SqliteStore, queue: &str) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar!(
        r#"select distinct queue_partition_key as "part!" from workflow_status
           where queue_name = ? and status = 'ENQUEUED' and queue_partition_key is not null"#,
        queue,
    );
    rows.fetch_all(&store.readers).await.map_err(|error| failed("look for parts of a queue", error))
}
