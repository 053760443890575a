//! Ending workflows, changing many at once, executors that live.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{SqliteStore, failed, list, now};
use crate::codec::PORTABLE;
use crate::error::Result;
use crate::store::{Beat, Change, Finish, Held, INTERNAL_QUEUE, Moved, Ms, Status, Transition};

/// How long the lease of a dead executor is remembered.
const REMEMBERED: Ms = 5 * 60 * 1000;

/// Ends workflows in one transaction. A row that is not this execution's any more stays as it is.
pub(super) async fn finish(store: &SqliteStore, finishes: &[Finish]) -> Result<Vec<bool>> {
    let wrong = |error| failed("end a workflow", error);
    let mut tx = store.write("end a workflow").await?;
    let mut answers = Vec::with_capacity(finishes.len());
    for one in finishes {
        answers.push(end(&mut tx, one).await.map_err(wrong)?);
    }
    tx.commit().await.map_err(wrong)?;
    for one in finishes {
        store.tell(Change::Finished(one.run.clone()));
    }
    Ok(answers)
}

async fn end(connection: &mut SqliteConnection, one: &Finish) -> Result<bool, sqlx::Error> {
    let now = now();
    let status = one.status.name();
    let exhausted = one.status == Status::Exhausted;
    let ended = sqlx::query!(
        "update workflow_status set
             status = ?3, completed_at = ?4, updated_at = ?4, owner_xid = null, deduplication_id = null,
             serialization = case when ?5 then serialization else ?6 end, queue_name = case when ?5 then null else queue_name end,
             started_at_epoch_ms = case when ?5 then null else started_at_epoch_ms end
         where workflow_uuid = ?1 and owner_xid = ?2 and status = 'PENDING'",
        one.run,
        one.owner,
        status,
        now,
        exhausted,
        PORTABLE,
    );
    if ended.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    if !exhausted {
        let kept = sqlx::query!(
            "insert into workflow_output (workflow_uuid, output, error) values (?, ?, ?)
             on conflict (workflow_uuid) do update set output = excluded.output, error = excluded.error",
            one.run,
            one.output,
            one.error,
        );
        kept.execute(connection).await?;
    }
    Ok(true)
}

/// Says that an executor lives. Answers which of its executions are no longer its own.
pub(super) async fn beat(store: &SqliteStore, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat> {
    let wrong = |error| failed("write a heartbeat", error);
    let mut tx = store.write("write a heartbeat").await?;
    // One that was written a moment ago is as good: a write would make other processes look, and write theirs.
    let (until, young) = (now() + lease, lease / 6);
    let beat = sqlx::query!(
        "insert into backfill_workflow_executors (executor_id, lives_until) values (?, ?)
         on conflict (executor_id) do update set lives_until = excluded.lives_until
         where lives_until < excluded.lives_until - ?3",
        executor,
        until,
        young,
    );
    beat.execute(&mut *tx).await.map_err(wrong)?;
    tx.commit().await.map_err(wrong)?;
    let mut lost = Vec::new();
    for held in live {
        let row = sqlx::query!("select status, owner_xid from workflow_status where workflow_uuid = ?", held.run);
        let row = row.fetch_optional(&store.readers).await.map_err(wrong)?;
        match row {
            None => lost.push((held.clone(), None)),
            Some(row) if row.status == "PENDING" && row.owner_xid.as_deref() == Some(&held.owner) => {}
            Some(row) => lost.push((held.clone(), Status::parse(&row.status))),
        }
    }
    Ok(Beat { lost })
}

/// Says that an executor has ended.
pub(super) async fn retire(store: &SqliteStore, executor: &str) -> Result<()> {
    let retired =
        sqlx::query!("update backfill_workflow_executors set lives_until = 0 where executor_id = ?", executor);
    retired.execute(&store.writer).await.map_err(|error| failed("end an executor", error))?;
    Ok(())
}

pub(super) async fn transition(store: &SqliteStore, transition: &Transition) -> Result<Vec<Moved>> {
    const ACTION: &str = "change workflows";
    let wrong = |error| failed(ACTION, error);
    // A look that takes no lock comes first: most sweeps find nothing.
    if !is_needed(store, transition).await.map_err(wrong)? {
        return Ok(Vec::new());
    }
    let mut tx = store.write(ACTION).await?;
    // Nobody else writes meanwhile, so the tokens are those of the rows that are changed.
    let owners = owners(&mut tx).await.map_err(wrong)?;
    let mut moved = change(&mut tx, transition).await.map_err(wrong)?;
    for one in &mut moved {
        one.owner = owners.get(&one.id).cloned();
    }
    tx.commit().await.map_err(wrong)?;
    let steered = !matches!(transition, Transition::Release | Transition::Delay { .. });
    for one in &moved {
        if steered {
            store.tell(Change::Steered(one.id.clone()));
        }
        if let Some(queue) = &one.queue {
            store.tell(Change::Queue(queue.clone()));
        }
    }
    Ok(moved)
}

/// The tokens of what runs.
async fn owners(connection: &mut SqliteConnection) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select workflow_uuid as "id!", owner_xid as "owner!" from workflow_status
           where status = 'PENDING' and owner_xid is not null"#,
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, row.owner)).collect())
}

async fn is_needed(store: &SqliteStore, transition: &Transition) -> Result<bool, sqlx::Error> {
    let now = now();
    match transition {
        Transition::Release => {
            let due = sqlx::query_scalar!(
                r#"select exists (
                       select 1 from workflow_status where status = 'DELAYED' and delay_until_epoch_ms <= ?
                   ) as "due!: bool""#,
                now,
            );
            due.fetch_one(&store.readers).await
        }
        Transition::Expire => {
            let due = sqlx::query_scalar!(
                r#"select exists (
                       select 1 from workflow_status
                       where status in ('ENQUEUED', 'PENDING', 'DELAYED') and workflow_deadline_epoch_ms is not null
                         and workflow_deadline_epoch_ms <= ?
                   ) as "due!: bool""#,
                now,
            );
            due.fetch_one(&store.readers).await
        }
        Transition::Reconcile { executor, owners, before } => {
            let owners = list(owners);
            let lost = sqlx::query_scalar!(
                r#"select exists (
                       select 1 from workflow_status
                       where status = 'PENDING' and executor_id = ? and started_at_epoch_ms < ?
                         and owner_xid not in (select value from json_each(?))
                   ) as "lost!: bool""#,
                executor,
                before,
                owners,
            );
            lost.fetch_one(&store.readers).await
        }
        Transition::RecoverLapsed { except, retired } => {
            let until = if *retired { 1 } else { now };
            let lapsed = sqlx::query_scalar!(
                r#"select exists (
                       select 1 from backfill_workflow_executors where lives_until < ? and executor_id <> ?
                   ) as "lapsed!: bool""#,
                until,
                except,
            );
            lapsed.fetch_one(&store.readers).await
        }
        _ => Ok(true),
    }
}

#[expect(clippy::too_many_lines, reason = "it is a list of statements")]
async fn change(connection: &mut SqliteConnection, transition: &Transition) -> Result<Vec<Moved>, sqlx::Error> {
    let now = now();
    match transition {
        Transition::Cancel { ids } => cancel(connection, Some(list(ids)), None, now).await,
        Transition::CancelBefore(before) => cancel(connection, None, Some(*before), now).await,
        Transition::Expire => expire(connection, now).await,
        Transition::Resume { ids, queue } => {
            let ids = list(ids);
            let rows = sqlx::query_as!(
                Moved,
                r#"update workflow_status set
                       status = 'ENQUEUED', queue_name = ?2, recovery_attempts = 0, owner_xid = null,
                       workflow_deadline_epoch_ms = null, deduplication_id = null, started_at_epoch_ms = null, completed_at = null,
                       delay_until_epoch_ms = null, is_debounced = false, updated_at = ?3
                   where workflow_uuid in (select value from json_each(?1)) and status not in ('SUCCESS', 'ERROR')
                   returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
                ids,
                queue,
                now,
            );
            rows.fetch_all(connection).await
        }
        Transition::CancelHeld { held } => {
            let mut moved = Vec::new();
            for held in held {
                let row = sqlx::query_scalar!(
                    r#"update workflow_status set
                           status = 'CANCELLED', completed_at = ?3, updated_at = ?3, owner_xid = null, queue_name = null,
                           deduplication_id = null, started_at_epoch_ms = null
                       where workflow_uuid = ?1 and owner_xid = ?2 and status = 'PENDING'
                       returning workflow_uuid as "id!""#,
                    held.run,
                    held.owner,
                    now,
                );
                let row = row.fetch_optional(&mut *connection).await?;
                moved.extend(row.map(|id| Moved { id, owner: None, queue: None }));
            }
            Ok(moved)
        }
        Transition::Reconcile { executor, owners, before } => {
            let owners = list(owners);
            let rows = sqlx::query_as!(
                Moved,
                r#"update workflow_status set
                       status = 'ENQUEUED', queue_name = coalesce(queue_name, ?4), owner_xid = null, started_at_epoch_ms = null,
                       updated_at = ?5
                   where status = 'PENDING' and executor_id = ?1 and started_at_epoch_ms < ?2
                     and owner_xid not in (select value from json_each(?3))
                   returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
                executor,
                before,
                owners,
                INTERNAL_QUEUE,
                now,
            );
            rows.fetch_all(connection).await
        }
        Transition::RecoverLapsed { except, retired } => recover_lapsed(connection, except, *retired, now).await,
        Transition::Recover { executors, version } => {
            let executors = list(executors);
            let rows = sqlx::query_as!(
                Moved,
                r#"update workflow_status set
                       status = 'ENQUEUED', queue_name = coalesce(queue_name, ?3), owner_xid = null, started_at_epoch_ms = null,
                       updated_at = ?4
                   where status = 'PENDING' and executor_id in (select value from json_each(?1))
                     and (?2 is null or application_version = ?2)
                   returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
                executors,
                version,
                INTERNAL_QUEUE,
                now,
            );
            rows.fetch_all(connection).await
        }
        Transition::Return { held } => {
            let mut moved = Vec::new();
            for held in held {
                let row = sqlx::query_as!(
                    Moved,
                    r#"update workflow_status set
                           status = 'ENQUEUED', queue_name = coalesce(queue_name, ?3), owner_xid = null,
                           started_at_epoch_ms = null, updated_at = ?4
                       where workflow_uuid = ?1 and owner_xid = ?2 and status = 'PENDING'
                       returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
                    held.run,
                    held.owner,
                    INTERNAL_QUEUE,
                    now,
                );
                moved.extend(row.fetch_optional(&mut *connection).await?);
            }
            Ok(moved)
        }
        Transition::Release => {
            let rows = sqlx::query_as!(
                Moved,
                r#"update workflow_status set
                       status = 'ENQUEUED', deduplication_id = case when is_debounced then null else deduplication_id end,
                       updated_at = ?1
                   where status = 'DELAYED' and delay_until_epoch_ms <= ?1
                   returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
                now,
            );
            rows.fetch_all(connection).await
        }
        Transition::Delay { id, until } => {
            let rows = sqlx::query_scalar!(
                r#"update workflow_status set delay_until_epoch_ms = ?2, updated_at = ?3
                   where workflow_uuid = ?1 and status = 'DELAYED'
                   returning workflow_uuid as "id!""#,
                id,
                until,
                now,
            );
            let rows = rows.fetch_all(connection).await?;
            Ok(rows.into_iter().map(|id| Moved { id, owner: None, queue: None }).collect())
        }
    }
}

async fn cancel(
    connection: &mut SqliteConnection,
    ids: Option<String>,
    before: Option<Ms>,
    now: Ms,
) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        r#"update workflow_status set
               status = 'CANCELLED', completed_at = ?3, updated_at = ?3, owner_xid = null, queue_name = null,
               deduplication_id = null, started_at_epoch_ms = null
           where (?1 is null or workflow_uuid in (select value from json_each(?1))) and (?2 is null or created_at < ?2)
             and (status in ('PENDING', 'ENQUEUED', 'DELAYED') or status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' and ?2 is null)
           returning workflow_uuid as "id!""#,
        ids,
        before,
        now,
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|id| Moved { id, owner: None, queue: None }).collect())
}

async fn expire(connection: &mut SqliteConnection, now: Ms) -> Result<Vec<Moved>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        r#"update workflow_status set
               status = 'CANCELLED', completed_at = ?1, updated_at = ?1, owner_xid = null, queue_name = null,
               deduplication_id = null, started_at_epoch_ms = null
           where status in ('ENQUEUED', 'PENDING', 'DELAYED') and workflow_deadline_epoch_ms is not null
             and workflow_deadline_epoch_ms <= ?1
           returning workflow_uuid as "id!""#,
        now,
    );
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|id| Moved { id, owner: None, queue: None }).collect())
}

/// Puts back what executors were running whose lease has lapsed. Leases are forgotten a while later, when no row of theirs is left behind.
async fn recover_lapsed(
    connection: &mut SqliteConnection,
    except: &str,
    retired: bool,
    now: Ms,
) -> Result<Vec<Moved>, sqlx::Error> {
    let until = if retired { 1 } else { now };
    let rows = sqlx::query_as!(
        Moved,
        r#"update workflow_status set
               status = 'ENQUEUED', queue_name = coalesce(queue_name, ?1), owner_xid = null, started_at_epoch_ms = null,
               updated_at = ?2
           where status = 'PENDING' and executor_id in (
               select executor_id from backfill_workflow_executors where lives_until < ?3 and executor_id <> ?4
           )
           returning workflow_uuid as "id!", null as "owner: String", queue_name as queue"#,
        INTERNAL_QUEUE,
        now,
        until,
        except,
    );
    let moved = rows.fetch_all(&mut *connection).await?;
    let before = if retired { Ms::MIN } else { now - REMEMBERED };
    let gone = sqlx::query!(
        "delete from backfill_workflow_executors where lives_until < ?1 and executor_id not in (
             select executor_id from workflow_status where status = 'PENDING' and executor_id is not null
         )",
        before,
    );
    gone.execute(connection).await?;
    Ok(moved)
}
