//! From nothing, or from any revision since 10, to revision 20.
//!
//! The shared ledger is the table `migrations`: one row per revision that Node's graphile-worker has published, with
//! Node's mark on the breaking ones. Node takes one transaction per revision; we take one for all that is missing
//! (`docs/adr/0002-one-transaction-to-revision-20.md`). Both insert the ledger's rows *before* they change anything,
//! and that insert is what serialises migrators: the second one waits for the first, gets a duplicate key, and
//! looks again.
//!
//! No lock is waited for without a limit: a table's exclusive lock is granted after everybody who reads it (a dump, for an hour), and
//! all who come later wait behind the request, claims and heartbeats among them. So each is asked for during a second, and asked for
//! again after a pause in which the others pass.
//!
//! A new schema is created without a `worker:migrate` notice: nobody can be working on it, and the notice would stop
//! Node's workers on every other schema of the database.

mod look;
#[macro_use]
mod steps;

use std::time::{Duration, Instant};

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, PgConnection};

use super::PostgresStorage;
use super::connection::errors::code;
use super::connection::isolation::{Work, begin_migration};
use super::connection::rights::Need;
use crate::error::{Error, Result, Unready};
use crate::storage::Migrated;
pub(super) use look::{FUNCTIONS, MESSAGE_FUNCTIONS};
use look::{Found, look};
pub(super) use steps::EARLIER_ADD_JOBS;
use steps::{ADD_JOBS, CLAIM, MESSAGES, OWN, TAKE, steps};

/// The revision this crate works with: the last one that Node has published.
pub const REVISION: i32 = 20;
/// Since this revision the tables have the names and columns of today. Whatever only reads and manages jobs works on it.
pub const FIRST_WITH_PRIVATE_TABLES: i32 = 16;
/// Where upgrading starts.
const OLDEST: i32 = 10;
/// Revisions after which an older worker must not go on. Node's marks, exactly.
const BREAKING: [i32; 7] = [1, 3, 11, 13, 14, 16, 19];

/// How often a migration is tried again because somebody else is migrating.
const TRIES: u32 = 60;
/// For how long a migration is tried again because tables are locked, or somebody else is migrating a large schema.
const LOCKED_FOR: Duration = Duration::from_mins(10);
/// The pauses between such tries, in which those who wait behind the migration pass.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long somebody else's installation (Node's, one transaction per revision) may stand still below revision 10
/// before it is taken for an old schema.
const STANDSTILL_TRIES: u32 = 10;

pub(super) async fn migrate(storage: &PostgresStorage) -> Result<Migrated> {
    let mut standstill = (None, 0);
    let mut first_found = None;
    let (begun, mut races, mut pause) = (Instant::now(), 0, FIRST_PAUSE);
    while races < TRIES {
        let mut work = storage.database.work().await?;
        let found = match look(storage, &mut work).await {
            Ok(found) => found,
            Err(error) => {
                // There may be only one connection to ask with.
                drop(work);
                return storage.database.explained(Need::Read, Err(error)).await;
            }
        };
        let from = *first_found.get_or_insert(found.revision);
        check_server(&found)?;
        check_not_too_new(storage, &found)?;
        match found.revision {
            // Either very old, or tables without a ledger; or Node is installing at this moment.
            revision if revision.is_some_and(|revision| revision < OLDEST) || (revision.is_none() && found.jobs) => {
                standstill = if standstill.0 == revision { (revision, standstill.1 + 1) } else { (revision, 0) };
                if standstill.1 >= STANDSTILL_TRIES {
                    return Err(unusable(storage, &found));
                }
            }
            Some(revision) if revision >= REVISION && !lacks_own(&found) && !lacks_messages(storage, &found) => {
                check_found(storage, &found)?;
                storage.database.done(work).await?;
                storage.database.connections.await_returning().await;
                return Ok(Migrated::new(from, revision));
            }
            _ => match apply(storage, work, &found).await {
                Ok(()) => continue,
                Err(error) if is_locked(&error) => {
                    let holders = holders(storage).await;
                    if begun.elapsed() > LOCKED_FOR {
                        let reason = Unready::Locked { waited: begun.elapsed(), holders };
                        let remedy = "nothing was changed: wait until those sessions have ended, or end them by \
                                      pg_terminate_backend(pid), and try again";
                        return Err(storage.database.not_ready(reason, remedy));
                    }
                    let schema = storage.database.schema.name();
                    tracing::warn!(schema, holders, ?pause, "the migration waits for a lock; trying again");
                    tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                    pause = pause.mul_f64(1.5).min(MAX_PAUSE);
                    continue;
                }
                Err(error) if is_race(&error) => {}
                Err(error) => {
                    return storage.database.explained(Need::Migrate, Err(explain(storage, &found, error))).await;
                }
            },
        }
        races += 1;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..250))).await;
    }
    Err(Error::Internal("another process has been migrating the schema for too long".to_owned()))
}

/// Why a schema below [`OLDEST`] cannot be migrated.
fn unusable(storage: &PostgresStorage, found: &Found) -> Error {
    match found.revision {
        Some(found) => storage.database.not_ready(
            Unready::TooOld { found, oldest: OLDEST },
            "run `npx graphile-worker@0.13.0 --schema-only` against it once (that brings it to revision 10), then try again",
        ),
        None => incomplete(storage, 0, "the content of its ledger, migrations,"),
    }
}

/// What to do about a schema of which something is missing.
fn incomplete(storage: &PostgresStorage, found: i32, missing: impl Into<String>) -> Error {
    storage.database.not_ready(
        Unready::Incomplete { found, missing: missing.into() },
        "restore it from a backup or, if no job in it matters, drop the schema and let it be created anew",
    )
}

/// Fails unless the schema can be worked with as it is; answers its revision.
pub(super) async fn check(storage: &PostgresStorage) -> Result<i32> {
    let mut work = storage.database.work().await?;
    let revision = check_on(storage, &mut work).await?;
    storage.database.done(work).await?;
    Ok(revision)
}

/// The same on this connection.
pub(super) async fn check_on(storage: &PostgresStorage, conn: &mut PgConnection) -> Result<i32> {
    let found = look(storage, conn).await?;
    check_server(&found)?;
    check_not_too_new(storage, &found)?;
    match found.revision {
        None if !found.jobs => Err(storage.database.unready(Unready::Missing)),
        None => Err(unusable(storage, &found)),
        Some(revision) if revision < OLDEST => Err(unusable(storage, &found)),
        Some(revision) if revision < REVISION => {
            Err(storage.database.unready(Unready::Outdated { found: revision, needed: REVISION }))
        }
        Some(_) if lacks_own(&found) => Err(storage.database.unready(Unready::OwnObjectsMissing)),
        Some(_) if lacks_messages(storage, &found) => Err(storage.database.unready(Unready::MessagesMissing)),
        Some(revision) => check_found(storage, &found).map(|()| revision),
    }
}

fn lacks_own(found: &Found) -> bool {
    found.own < last_own() || found.claims_elsewhere
}

/// Whether messages are wanted, and something of theirs is missing.
fn lacks_messages(storage: &PostgresStorage, found: &Found) -> bool {
    let last = MESSAGES.iter().map(|(id, ..)| *id).max().unwrap_or_default();
    storage.has_messages && found.messages < last
}

fn last_own() -> i32 {
    OWN.iter().map(|(id, ..)| *id).max().unwrap_or_default()
}

fn check_server(found: &Found) -> Result<()> {
    if found.server_version < 120_000 {
        let found = format!("PostgreSQL {}", found.server_version_text);
        return Err(Error::not_ready("the server", Unready::ServerTooOld { found, needed: "PostgreSQL 12" }));
    }
    Ok(())
}

/// Before anything else: nothing may be written to a schema that we do not understand.
fn check_not_too_new(storage: &PostgresStorage, found: &Found) -> Result<()> {
    match (found.revision, found.breaking) {
        (Some(revision), Some(breaking)) if breaking > REVISION => {
            let breaking = Some(breaking);
            Err(storage.database.unready(Unready::TooNew { found: revision, breaking, supported: REVISION }))
        }
        _ => Ok(()),
    }
}

/// Makes a whole new schema within the caller's transaction. Nobody is notified.
pub(super) async fn create_anew(storage: &PostgresStorage, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    apply_in(storage, conn, &Found::default()).await
}

/// One transaction for everything that is missing. The connection that was used to look is released first: there may be only
/// one.
async fn apply(storage: &PostgresStorage, looked: Work, found: &Found) -> Result<(), sqlx::Error> {
    drop(looked);
    storage.database.connections.await_returning().await;
    let mut tx = begin_migration(&storage.database.db()).await?;
    apply_in(storage, &mut tx, found).await?;
    tx.commit().await
}

async fn apply_in(storage: &PostgresStorage, tx: &mut PgConnection, found: &Found) -> Result<(), sqlx::Error> {
    let from = found.revision.unwrap_or(0);
    let run = |script: &str| sqlx::raw_sql(storage.database.schema.script(script));

    if !found.schema {
        // Only when it is missing: a role without the right to create schemas may work in one made for it.
        // Dynamic because a schema's name cannot be a parameter; it is quoted.
        let create = format!("create schema if not exists {}", storage.database.schema.quoted());
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *tx).await?;
    }
    if !found.ledger || !found.breaking_column {
        run(script!("ledger.sql")).execute(&mut *tx).await?;
        sqlx::query!("update graphile_worker.migrations set breaking = true where id = any ($1)", &BREAKING)
            .execute(storage.database.schema.on(&mut *tx))
            .await?;
    }

    if from < REVISION {
        // First of all, as Node does it: this waits for, or fails because of, anybody else who migrates.
        sqlx::query!(
            r#"
insert into graphile_worker.migrations (id, breaking)
select id, id = any ($2)
from generate_series($1::integer + 1, $3::integer) as id
"#,
            from,
            &BREAKING,
            REVISION,
        )
        .execute(storage.database.schema.on(&mut *tx))
        .await?;
        for script in steps(from) {
            run(script).execute(&mut *tx).await?;
        }
        if from > 0 {
            sqlx::query!(
                r#"
select pg_notify('worker:migrate', json_build_object('migrationNumber', id, 'breaking', id = any ($2))::text)
from generate_series($1::integer + 1, $3::integer) as id
"#,
                from,
                &BREAKING,
                REVISION,
            )
            .execute(storage.database.schema.on(&mut *tx))
            .await?;
        }
    }

    if !found.own_ledger {
        run(script!("own/000_ledger.sql")).execute(&mut *tx).await?;
    }
    // The body of a function keeps the name that its schema had.
    let own = if found.claims_elsewhere { found.own.min(CLAIM - 1) } else { found.own };
    for (id, name, script) in OWN.into_iter().filter(|(id, ..)| *id > own) {
        sqlx::query!(
            "insert into graphile_worker.backfill_migrations (id, name) values ($1, $2) on conflict do nothing",
            id,
            name
        )
        .execute(storage.database.schema.on(&mut *tx))
        .await?;
        if id != ADD_JOBS || has_earlier_add_jobs(storage, &mut *tx).await? {
            run(script).execute(&mut *tx).await?;
        }
    }
    // A schema that was renewed because its functions belong to another one has those of its messages renewed, too.
    if storage.has_messages || (found.claims_elsewhere && found.messages > 0) {
        apply_messages(storage, tx, found).await?;
    }
    Ok(())
}

async fn apply_messages(storage: &PostgresStorage, tx: &mut PgConnection, found: &Found) -> Result<(), sqlx::Error> {
    let run = |script: &str| sqlx::raw_sql(storage.database.schema.script(script));
    if !found.messages_ledger {
        run(script!("messages/000_ledger.sql")).execute(&mut *tx).await?;
    }
    let applied = if found.claims_elsewhere { found.messages.min(TAKE - 1) } else { found.messages };
    for (id, name, script) in MESSAGES.into_iter().filter(|(id, ..)| *id > applied) {
        sqlx::query!(
            "insert into graphile_worker.backfill_message_migrations (id, name) values ($1, $2) on conflict do nothing",
            id,
            name
        )
        .execute(storage.database.schema.on(&mut *tx))
        .await?;
        run(script).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Whether `add_jobs` is what an earlier version of this crate made. (Node's own stays as it is, and so does what somebody changed.)
async fn has_earlier_add_jobs(storage: &PostgresStorage, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let bodies = sqlx::query_scalar!(
        r#"
select md5(replace(fn.prosrc, $2, 'S')) as "body!"
from pg_catalog.pg_proc fn
join pg_catalog.pg_namespace schema on schema.oid = fn.pronamespace
where schema.nspname = $1 and fn.proname = 'add_jobs'
"#,
        storage.database.schema.name(),
        storage.database.schema.quoted(),
    )
    .fetch_all(storage.database.schema.on(tx))
    .await?;
    Ok(bodies.iter().any(|body| body == EARLIER_ADD_JOBS))
}

/// At a revision that we can work with.
fn check_found(storage: &PostgresStorage, found: &Found) -> Result<()> {
    let revision = found.revision.unwrap_or_default();
    if !found.missing.is_empty() {
        return Err(incomplete(storage, revision, found.missing.join(", ")));
    }
    if revision > REVISION {
        tracing::warn!(
            schema = storage.database.schema.name(),
            revision,
            known = REVISION,
            "the schema is newer than this version knows; nothing in it is marked as breaking, so going on"
        );
    }
    Ok(())
}

/// Whether somebody's lock was waited for in vain: lock_not_available.
fn is_locked(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// Which sessions have locked something of the schema, for people to read.
async fn holders(storage: &PostgresStorage) -> String {
    let found = sqlx::query_scalar!(
        r#"
select string_agg(
  distinct 'pid ' || held.pid::text || coalesce(' (' || nullif(activity.application_name, '') || ')', ''), ', '
) as "holders?"
from pg_catalog.pg_locks held
join pg_catalog.pg_class rel on rel.oid = held.relation
left join pg_catalog.pg_stat_activity activity on activity.pid = held.pid
where held.granted
  and held.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and held.pid <> pg_backend_pid()
  and rel.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1)
"#,
        storage.database.schema.name(),
    )
    .fetch_one(storage.database.schema.on(&storage.database.db()))
    .await;
    found.ok().flatten().unwrap_or_else(|| "somebody who is gone by now".to_owned())
}

/// Errors that mean that somebody else was at it: look again.
fn is_race(error: &sqlx::Error) -> bool {
    matches!(
        code(error).as_deref(),
        // unique_violation, duplicate_schema, duplicate_table, duplicate_object, serialization_failure,
        // deadlock_detected
        Some("23505" | "42P06" | "42P07" | "42710" | "40001" | "40P01")
    ) || is_concurrent_update(error)
}

/// Whether two changed one row of the catalog at once, which has no SQLSTATE of its own: the server names its routine.
fn is_concurrent_update(error: &sqlx::Error) -> bool {
    let told = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    told.is_some_and(|told| {
        told.code() == "XX000" && matches!(told.routine(), Some("simple_heap_update" | "simple_heap_delete"))
    })
}

/// The SQLSTATE that `refuse_locked_jobs.sql` raises, with the number of jobs as its message.
const LOCKED_JOBS: &str = "BFLCK";

fn explain(storage: &PostgresStorage, found: &Found, error: sqlx::Error) -> Error {
    let revision = found.revision.unwrap_or_default();
    match code(&error).as_deref() {
        Some(LOCKED_JOBS) => {
            // It is our own script that says it.
            let jobs = error.as_database_error().and_then(|error| error.message().parse().ok()).unwrap_or(1);
            storage.database.unready(Unready::JobsRunning { jobs })
        }
        Some("42P01" | "42883" | "42703" | "42704") if found.revision.is_some() => {
            let missing = error.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
            incomplete(storage, revision, missing)
        }
        _ => match storage.database.error("migrate the schema", error) {
            // A migration creates what is missing, so "missing" is not what went wrong.
            error if error.is_missing() => incomplete(storage, revision, "a table"),
            other => other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_before_postgresql_12_is_refused_with_its_version() {
        let mut found = Found { server_version: 110_022, server_version_text: "11.22".to_owned(), ..Found::default() };
        let error = check_server(&found).unwrap_err();
        assert!(
            matches!(&error, Error::NotReady { reason: Unready::ServerTooOld { .. }, .. })
                && error.to_string().contains("11.22"),
            "{error}"
        );
        found.server_version = 120_000;
        check_server(&found).unwrap();
    }

    #[test]
    fn every_revision_since_the_oldest_has_a_way_up_and_ends_with_the_functions() {
        for from in std::iter::once(0).chain(OLDEST..REVISION) {
            assert!(steps(from).contains(&script!("functions.sql")), "revision {from}");
        }
        assert_eq!(steps(19).len(), 2, "revision 20 only changed functions");
    }
}
