//! The schema: from nothing, or from what DBOS's libraries have made.
//!
//! Their ledger is one row with a number. Below 100 the numbers are each library's own; from 100 on they mean the same everywhere. Newer
//! schemas than ours are taken as they are, for whoever made them keeps older clients working.

use std::time::Duration;

use sqlx::{Acquire, AssertSqlSafe, PgConnection, SqlSafeStr};

use super::{PostgresStore, failed};
use crate::error::{Error, Result};

/// The version of the shared schema that this library makes.
pub const VERSION: i64 = 125;
/// The oldest version that is brought up to date here.
const OLDEST: i64 = 100;
/// Whoever migrates holds this lock of the database, so that one does at a time.
const LOCK: i64 = 0x6261_636b_6677_666c;

const TABLES: &str = include_str!("../../sql/postgres/tables.sql");
const INDEXES: &str = include_str!("../../sql/postgres/indexes.sql");
const FUNCTIONS: &str = include_str!("../../sql/postgres/functions.sql");
const UPGRADE: &str = include_str!("../../sql/postgres/upgrade.sql");
const OWN: &str = include_str!("../../sql/postgres/own.sql");

/// Indexes that others have taken the place of.
const REPLACED: [&str; 8] = [
    "idx_workflow_status_in_flight",
    "idx_workflow_status_partition_dequeue",
    "idx_workflow_status_partition_dequeue_v2",
    "idx_operation_outputs_completed_at_function_name",
    "idx_notifications",
    "idx_workflow_status_queue_status_started",
    "workflow_status_status_index",
    "workflow_status_executor_id_index",
];

pub(super) async fn migrate(store: &PostgresStore) -> Result<()> {
    let mut connection = store.pool.acquire().await.map_err(|error| failed("look at the schema", error))?;
    // Most launches find everything in order, and take no lock.
    if version(store, &mut connection).await? >= Some(VERSION) && has_own(&mut connection).await? {
        return Ok(());
    }
    // A lock of the session, because indexes are built outside of transactions. It ends with the connection, if need be.
    let mut connection = connection.detach();
    // It is asked for again and again: whoever waited for it in a statement would be waited for by the building of indexes.
    loop {
        let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK);
        let locked = locked.fetch_one(&mut connection).await;
        if locked.map_err(|error| failed("wait for another migration", error))? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = bring(store, &mut connection).await;
    // The lock ends with it.
    let _ = sqlx::Connection::close(connection).await;
    answer
}

async fn bring(store: &PostgresStore, connection: &mut PgConnection) -> Result<()> {
    match version(store, connection).await? {
        Some(version) if version >= VERSION => {}
        Some(version) if version >= OLDEST => upgrade(store, connection, version).await?,
        Some(version) => {
            return Err(Error::NotReady {
                problem: format!(
                    "the schema {:?} is at version {version} of DBOS's ledger; this library begins at {OLDEST}",
                    store.schema.name()
                ),
                remedy:
                    "Launch a program with DBOS's own library of version 2.30 (Python), 4.26 (TypeScript) or newer \
                         once, or use another schema"
                        .to_owned(),
            });
        }
        None => {
            run(store, connection, &[TABLES, INDEXES, FUNCTIONS], Some(VERSION), true).await?;
            tracing::info!(schema = store.schema.name(), version = VERSION, "made the tables of workflows");
        }
    }
    run(store, connection, &[OWN], None, false).await
}

/// The version of the ledger, if there is one.
async fn version(store: &PostgresStore, connection: &mut PgConnection) -> Result<Option<i64>> {
    let table = sqlx::query_scalar!(
        r#"select exists (
               select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = 'dbos_migrations'
           ) as "exists!""#,
        store.schema.name(),
    );
    let exists = table.fetch_one(&mut *connection).await.map_err(|error| failed("look at the schema", error))?;
    if !exists {
        return Ok(None);
    }
    let row = sqlx::query_scalar!(r#"select max(version) as "version" from dbos.dbos_migrations"#);
    row.fetch_one(store.schema.on(connection)).await.map_err(|error| failed("read the ledger", error))
}

async fn has_own(connection: &mut PgConnection) -> Result<bool> {
    let row = sqlx::query_scalar!(r#"select to_regclass('backfill_workflow.executors') is not null as "has!""#);
    row.fetch_one(connection).await.map_err(|error| failed("look at the schema", error))
}

/// Runs scripts in one transaction, and notes the version that they make.
async fn run(
    store: &PostgresStore,
    connection: &mut PgConnection,
    scripts: &[&str],
    version: Option<i64>,
    create: bool,
) -> Result<()> {
    let make = |error| failed("make the tables of workflows", error);
    let mut tx = connection.begin().await.map_err(make)?;
    if create {
        // Dynamic because the schema is configurable; the only thing put in is the quoted identifier.
        let text = AssertSqlSafe(format!("create schema if not exists {}", store.schema.quoted())).into_sql_str();
        sqlx::raw_sql(text).execute(&mut *tx).await.map_err(make)?;
    }
    for script in scripts {
        sqlx::raw_sql(store.schema.script(script)).execute(&mut *tx).await.map_err(make)?;
    }
    if let Some(version) = version {
        note(store, &mut tx, version).await?;
    }
    tx.commit().await.map_err(make)
}

/// The ledger has one row.
async fn note(store: &PostgresStore, connection: &mut PgConnection, version: i64) -> Result<()> {
    let noted = sqlx::query!(
        "with known as (update dbos.dbos_migrations set version = $1 returning version)
         insert into dbos.dbos_migrations (version) select $1 where not exists (select from known)",
        version,
    );
    noted.execute(store.schema.on(connection)).await.map_err(|error| failed("note the version", error))?;
    Ok(())
}

/// Brings up to date what a DBOS library has made. Tables that are in use are not locked for long: indexes are built beside the traffic.
async fn upgrade(store: &PostgresStore, connection: &mut PgConnection, from: i64) -> Result<()> {
    run(store, connection, &[UPGRADE, FUNCTIONS], None, false).await?;
    for line in INDEXES.lines().filter(|line| line.starts_with("create")) {
        let Some(name) = index_name(line) else { continue };
        match validity(store, connection, name).await? {
            Some(true) => continue,
            // A build that was interrupted has left it so.
            Some(false) => drop_index(store, connection, name).await?,
            None => {}
        }
        let text = line.replacen(" index ", " index concurrently ", 1);
        let built = sqlx::raw_sql(store.schema.script(&text)).execute(&mut *connection).await;
        built.map_err(|error| failed("build an index", error))?;
    }
    for name in REPLACED {
        if validity(store, connection, name).await?.is_some() {
            drop_index(store, connection, name).await?;
        }
    }
    note(store, connection, VERSION).await?;
    tracing::info!(schema = store.schema.name(), from, to = VERSION, "brought the tables of workflows up to date");
    Ok(())
}

/// Whether an index is whole, if it is there.
async fn validity(store: &PostgresStore, connection: &mut PgConnection, name: &str) -> Result<Option<bool>> {
    let row = sqlx::query_scalar!(
        "select i.indisvalid from pg_catalog.pg_index i
         join pg_catalog.pg_class c on c.oid = i.indexrelid
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relname = $2",
        store.schema.name(),
        name,
    );
    row.fetch_optional(connection).await.map_err(|error| failed("look at an index", error))
}

async fn drop_index(store: &PostgresStore, connection: &mut PgConnection, name: &str) -> Result<()> {
    let text = store.schema.script(&format!("drop index concurrently if exists dbos.{name}"));
    sqlx::raw_sql(text).execute(connection).await.map_err(|error| failed("drop an index", error))?;
    Ok(())
}

/// The name in a line `create [unique] index NAME on …`.
fn index_name(line: &str) -> Option<&str> {
    line.split(" index ").nth(1)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_one_line_with_a_name() {
        let lines: Vec<&str> = INDEXES.lines().filter(|line| !line.starts_with("--") && !line.is_empty()).collect();
        assert_eq!(lines.len(), 24);
        for line in lines {
            assert!(line.ends_with(';') && index_name(line).is_some(), "{line}");
        }
    }
}
