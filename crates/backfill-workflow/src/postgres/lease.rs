//! Executors that live, and those that do not.

use super::{PostgresStore, failed};
use crate::error::Result;
use crate::store::{Beat, Held, Ms, Status};

/// Says that an executor lives. Answers which of its executions are no longer its own.
pub(super) async fn beat(store: &PostgresStore, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat> {
    let runs: Vec<&str> = live.iter().map(|held| held.run.as_str()).collect();
    let owners: Vec<&str> = live.iter().map(|held| held.owner.as_str()).collect();
    let rows = sqlx::query!(
        r#"with beat as (
               insert into backfill_workflow.executors (schema_name, executor_id, lives_until)
               values ($1, $2, clock_timestamp() + $3::bigint * interval '1 millisecond')
               on conflict (schema_name, executor_id) do update set lives_until = excluded.lives_until
           )
           select h.run as "run!", h.owner as "owner!", w.status as "status?"
           from unnest($4::text[], $5::text[]) as h (run, owner)
           left join dbos.workflow_status w on w.workflow_uuid = h.run
           where w.status is null or w.status <> 'PENDING' or w.owner_xid is distinct from h.owner"#,
        store.schema.name(),
        executor,
        lease,
        &runs as &[&str],
        &owners as &[&str],
    );
    let rows =
        rows.fetch_all(store.schema.on(&store.pool)).await.map_err(|error| failed("write a heartbeat", error))?;
    let lost = rows.into_iter().map(|row| {
        let status = row.status.as_deref().and_then(Status::parse);
        (Held { run: row.run, owner: row.owner }, status)
    });
    Ok(Beat { lost: lost.collect() })
}

/// Says that an executor has ended.
pub(super) async fn retire(store: &PostgresStore, executor: &str) -> Result<()> {
    let retired = sqlx::query!(
        "update backfill_workflow.executors set lives_until = '-infinity' where schema_name = $1 and executor_id = $2",
        store.schema.name(),
        executor,
    );
    // Whoever retires writes no more, and may close the pool.
    store.kept.clear();
    retired.execute(&store.pool).await.map_err(|error| failed("end an executor", error))?;
    Ok(())
}
