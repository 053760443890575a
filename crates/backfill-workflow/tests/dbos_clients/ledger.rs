//! The shared schema: whoever comes first, both find what they need.

use std::time::Duration;

use backfill_workflow::postgres::{PostgresStore, VERSION};
use backfill_workflow::store::Store;
use sqlx::PgPool;

use crate::{database, python, succeeds};

/// Everything about the schema that a client could depend on, a line each.
async fn shape(pool: &PgPool) -> Vec<String> {
    let lines = sqlx::query_scalar::<_, String>(
        "select format('column %s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
         from information_schema.columns where table_schema = 'dbos'
         union all
         select format('index %s', indexdef) from pg_indexes where schemaname = 'dbos'
         union all
         select format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid))
         from pg_constraint where connamespace = 'dbos'::regnamespace
         union all
         select format('function %s(%s) %s', proname, pg_get_function_arguments(oid), pg_get_function_result(oid))
         from pg_proc where pronamespace = 'dbos'::regnamespace
         union all
         select format('trigger %s', pg_get_triggerdef(oid)) from pg_trigger
         where tgrelid in (select oid from pg_class where relnamespace = 'dbos'::regnamespace) and not tgisinternal
         union all
         select format('version %s', version) from dbos.dbos_migrations
         order by 1",
    );
    lines.fetch_all(pool).await.unwrap()
}

fn assert_same(ours: &[String], theirs: &[String]) {
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let extra: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

async fn migrate(pool: &PgPool) {
    PostgresStore::new(pool.clone(), "dbos").unwrap().migrate().await.unwrap();
}

async fn theirs(url: &str, version: &str) {
    let mut command = python("migrate.py", url);
    command.arg(version);
    succeeds(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_schema_is_theirs() {
    let (ours, _) = database("ours").await;
    let (others, url) = database("theirs").await;
    migrate(&ours).await;
    theirs(&url, "125").await;
    assert_same(&shape(&ours).await, &shape(&others).await);
}

/// Versions of DBOS's libraries for Go (107), Python 2.31 (108), Python 3.0 (114), 3.1 (122), and TypeScript 5.3 (123).
#[tokio::test(flavor = "multi_thread")]
async fn what_older_libraries_made_becomes_the_same() {
    let (newest, url) = database("newest").await;
    theirs(&url, "125").await;
    let expected = shape(&newest).await;
    for version in ["100", "107", "108", "114", "122", "123"] {
        let (pool, url) = database(&format!("v{version}")).await;
        theirs(&url, version).await;
        migrate(&pool).await;
        assert_same(&shape(&pool).await, &expected);
        // Theirs finds nothing left to do.
        theirs(&url, "125").await;
        assert_same(&shape(&pool).await, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_an_index_that_was_interrupted_is_done_again() {
    let (pool, url) = database("interrupted").await;
    theirs(&url, "114").await;
    // What a killed `create index concurrently` leaves.
    let broken = "create index idx_workflow_status_deadline on dbos.workflow_status (workflow_deadline_epoch_ms);
        update pg_index set indisvalid = false where indexrelid = 'dbos.idx_workflow_status_deadline'::regclass";
    sqlx::raw_sql(broken).execute(&pool).await.unwrap();
    migrate(&pool).await;
    let valid: bool = sqlx::query_scalar(
        "select indisvalid from pg_index where indexrelid = 'dbos.idx_workflow_status_deadline'::regclass",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_and_newer_schemas_are_told_from_each_other() {
    let (pool, url) = database("old").await;
    theirs(&url, "47").await;
    let error = PostgresStore::new(pool.clone(), "dbos").unwrap().migrate().await.unwrap_err();
    assert!(error.to_string().contains("version 47") && error.to_string().contains("2.30"), "{error}");
    let (pool, _) = database("new").await;
    migrate(&pool).await;
    sqlx::query("update dbos.dbos_migrations set version = 1000").execute(&pool).await.unwrap();
    migrate(&pool).await;
    let version: i64 = sqlx::query_scalar("select version from dbos.dbos_migrations").fetch_one(&pool).await.unwrap();
    assert_eq!(version, 1000, "a newer one is taken as it is");
    assert!(VERSION < version);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_migrate_at_once_make_one_schema() {
    let (pool, _) = database("at_once").await;
    let stores: Vec<_> = (0..6).map(|_| PostgresStore::new(pool.clone(), "dbos").unwrap()).collect();
    let all = futures::future::try_join_all(stores.iter().map(Store::migrate));
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap().unwrap();
}
