//! Schemas that are missing, old, new or incomplete.

use backfill::error::Unready;
use backfill::{BackfillClient, Error, JobSpec};

use crate::support::{ask, client, database, node, sql, until};
use crate::{NEWEST, unmigrated};

#[tokio::test]
async fn without_migrating_a_missing_or_old_schema_is_an_error_that_says_so() {
    let (pool, _) = database().await;
    let error = unmigrated(&pool, "nowhere").await.expect_err("missing");
    assert!(error.is_missing() && error.to_string().contains("client.migrate()"), "{error}");
    node::schema_at(&pool, "old", 18).await;
    let error = unmigrated(&pool, "old").await.expect_err("old");
    assert!(
        matches!(error, Error::NotReady { reason: Unready::Outdated { found: 18, needed: NEWEST }, .. }),
        "{error}"
    );
    node::schema_at(&pool, "nodes", NEWEST).await;
    let error = unmigrated(&pool, "nodes").await.expect_err("without our own objects");
    assert!(matches!(error, Error::NotReady { reason: Unready::OwnObjectsMissing, .. }), "{error}");
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect("migrate");
    assert_eq!(client.migrate().await.expect("again").from, Some(NEWEST));
    unmigrated(&pool, "nodes").await.expect("now it is there");
}

#[tokio::test]
async fn a_client_for_a_url_says_the_same_of_a_schema_and_keeps_no_connection_for_having_looked() {
    let (pool, url) = database().await;
    let url = format!("{url}?application_name=theirs");
    let build = |migrate| BackfillClient::builder().database_url(url.as_str()).migrate(migrate).build();
    assert!(matches!(build(false).await, Err(Error::NotReady { reason: Unready::Missing, .. })));
    assert_eq!(ask(&pool, "", "select count(*) from pg_namespace where nspname = 'graphile_worker'").await, "0");
    build(true).await.expect("it migrates");
    let ready = [build(true).await.expect("nothing to do"), build(false).await.expect("it is there")];
    let theirs = "select count(*) from pg_stat_activity
                  where datname = current_database() and application_name = 'theirs'";
    let sessions = || async { ask(&pool, "", theirs).await.parse::<usize>().expect("a number") };
    until("they have no connection yet", || async { sessions().await == 0 }).await;
    ready[0].add(JobSpec::new("t", 1)).await.expect("add");
    assert!(sessions().await > 0, "this is how they would be seen");
    sql(&pool, "graphile_worker", "drop view S.jobs").await;
    for migrate in [true, false] {
        assert!(matches!(build(migrate).await, Err(Error::NotReady { reason: Unready::Incomplete { .. }, .. })));
    }
    sql(&pool, "graphile_worker", "insert into S.migrations (id, breaking) values (21, true)").await;
    for migrate in [true, false] {
        assert!(matches!(build(migrate).await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));
    }
}

#[tokio::test]
async fn a_schema_older_than_revision_10_is_refused_with_the_way_out() {
    let (pool, _) = database().await;
    for revision in [1, 9] {
        let schema = format!("r{revision}");
        node::schema_at(&pool, &schema, revision).await;
        let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err("too old");
        assert!(matches!(error, Error::NotReady { reason: Unready::TooOld { .. }, .. }), "{error}");
        assert!(error.to_string().contains("graphile-worker@0.13.0"), "{error}");
        assert_eq!(ask(&pool, &schema, "select max(id) from S.migrations").await, revision.to_string());
    }
}

#[tokio::test]
async fn a_newer_schema_works_unless_it_is_breaking() {
    let (client, pool, schema) = client().await;
    sql(&pool, &schema, "insert into S.migrations (id) values (999999)").await;
    let newer = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("newer, not breaking");
    newer.add(JobSpec::new("t", 1)).await.expect("works");
    sql(&pool, &schema, "update S.migrations set breaking = true where id = 999999").await;
    let error = client.migrate().await.expect_err("newer and breaking");
    assert!(
        matches!(
            error,
            Error::NotReady { reason: Unready::TooNew { breaking: Some(999_999), supported: NEWEST, .. }, .. }
        ),
        "{error}"
    );
    assert!(matches!(unmigrated(&pool, &schema).await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));

    // Nothing is written to a schema that we do not understand.
    let (pool, _) = database().await;
    node::schema_at(&pool, "nodes", NEWEST).await;
    sql(&pool, "nodes", "insert into S.migrations (id, breaking) values (21, true)").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect_err("newer and breaking");
    assert!(matches!(error, Error::NotReady { reason: Unready::TooNew { breaking: Some(21), .. }, .. }), "{error}");
    assert!(matches!(unmigrated(&pool, "nodes").await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));
    assert_eq!(ask(&pool, "nodes", "select to_regclass('nodes.backfill_migrations')").await, "");
}

#[tokio::test]
async fn half_a_schema_is_an_error_of_its_own() {
    let damages = [
        (
            "drop view S.jobs; drop table S._private_tasks cascade; drop function S.add_jobs(S.job_spec[], boolean)",
            "table _private_tasks, view jobs, function add_jobs",
        ),
        ("drop view S.jobs", "view jobs"),
        ("drop function S.add_jobs(S.job_spec[], boolean)", "function add_jobs"),
        ("drop table S.backfill_pools", "table backfill_pools"),
    ];
    for (damage, named) in damages {
        let (_, pool, schema) = client().await;
        sql(&pool, &schema, damage).await;
        let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err(damage);
        assert!(
            matches!(&error, Error::NotReady { reason: Unready::Incomplete { missing, .. }, .. } if missing == named),
            "{damage}: {error}"
        );
    }
    let (_, pool, schema) = client().await;
    sql(&pool, &schema, "delete from S.migrations").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err("no ledger");
    assert!(matches!(error, Error::NotReady { reason: Unready::Incomplete { found: 0, .. }, .. }), "{error}");
    assert!(matches!(
        unmigrated(&pool, &schema).await,
        Err(Error::NotReady { reason: Unready::Incomplete { found: 0, .. }, .. })
    ));
    let (pool, _) = database().await;
    node::schema_at(&pool, "half", 14).await;
    sql(&pool, "half", "drop table S.known_crontabs").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), "half").await.expect_err("half of revision 14");
    assert!(matches!(error, Error::NotReady { reason: Unready::Incomplete { found: 14, .. }, .. }), "{error}");
    assert_eq!(ask(&pool, "half", "select max(id) from S.migrations").await, "14", "nothing was changed");
}
