//! What is created: Node's schema, our own objects in it, and no function of somebody else's replaced.

use backfill::error::Unready;
use backfill::{BackfillClient, Error};

use crate::support::{self, ask, assert_same_lines, catalog, client, database, dump, node, sql};
use crate::{NEWEST, unmigrated};

#[tokio::test]
async fn a_new_schema_is_the_one_that_node_makes() {
    let (node_pool, node_url) = database().await;
    let (our_pool, our_url) = database().await;
    node::migrate("graphile-worker", &node_url, "graphile_worker").await;
    BackfillClient::new(&our_url).await.expect("migrate");
    let (ours, theirs) = (catalog(&our_pool, "graphile_worker").await, catalog(&node_pool, "graphile_worker").await);
    assert!(theirs.len() > 50);
    assert_same_lines(&ours.join("\n"), &theirs.join("\n"));
    if let Some(theirs) = dump(&node_url, "graphile_worker").await {
        let ours = dump(&our_url, "graphile_worker").await.expect("the same pg_dump");
        assert!(theirs.contains("CREATE TABLE") && theirs.contains("CREATE FUNCTION"), "{theirs}");
        assert_same_lines(&ours, &theirs);
    }
    // And Node is content with it: it starts, finds nothing to migrate, and runs what is there.
    let output = node::cli("graphile-worker", &our_url, "graphile_worker", &["--schema-only"]).await;
    assert!(output.status.success());
    let breaking = "select string_agg(id::text, ',' order by id) from S.migrations where breaking";
    assert_eq!(ask(&our_pool, "graphile_worker", breaking).await, "1,3,11,13,14,16,19");
    assert_eq!(ask(&our_pool, "graphile_worker", "select max(id) || '/' || count(*) from S.migrations").await, "20/20");
}

#[tokio::test]
async fn our_own_objects_are_marked_secured_and_in_a_ledger_of_their_own() {
    let (_, pool, schema) = client().await;
    let own = format!(
        "select relname || ' ' || relrowsecurity from pg_class where relnamespace = '\"{schema}\"'::regnamespace and relkind = 'r'
         and relname not like '\\_private%' and relname <> 'migrations' order by 1"
    );
    assert_eq!(ask(&pool, &schema, &own).await, "backfill_imports true;backfill_migrations true;backfill_pools true");
    let keys = format!(
        "select count(*) from pg_constraint where contype = 'f' and connamespace = '\"{schema}\"'::regnamespace"
    );
    assert_eq!(ask(&pool, &schema, &keys).await, "0");
    assert_eq!(
        ask(&pool, &schema, "select id || name from S.backfill_migrations").await,
        "1pools;2imports;3handover;4dead_after;5add_jobs;6claim;7serves;8status;9in_place;10lists"
    );
}

#[tokio::test]
async fn an_earlier_add_jobs_of_ours_is_replaced_and_any_other_is_left() {
    let body =
        "select md5(fn.prosrc) from pg_proc fn where fn.proname = 'add_jobs' and fn.pronamespace = 'S'::regnamespace";
    let body = |schema: &str| body.replace("'S'", &format!("'\"{schema}\"'"));
    let earlier = include_str!("../support/sql/earlier_add_jobs.sql");
    let forget = "delete from S.backfill_migrations where id >= 5";

    let (client, pool, schema) = client().await;
    let ours = ask(&pool, &schema, &body(&schema)).await;
    sql(&pool, &schema, earlier).await;
    sql(&pool, &schema, forget).await;
    assert_ne!(ask(&pool, &schema, &body(&schema)).await, ours);
    assert!(matches!(
        unmigrated(&pool, &schema).await,
        Err(Error::NotReady { reason: Unready::OwnObjectsMissing, .. })
    ));
    client.migrate().await.expect("migrate");
    assert_eq!(ask(&pool, &schema, &body(&schema)).await, ours);

    // What somebody changed stays: it may be on purpose, and `doctor` tells.
    sql(&pool, &schema, &earlier.replace("'{\"r\":'", "'{ \"r\":'")).await;
    let changed = ask(&pool, &schema, &body(&schema)).await;
    sql(&pool, &schema, forget).await;
    client.migrate().await.expect("migrate");
    assert_eq!(ask(&pool, &schema, &body(&schema)).await, changed);

    let (pool, _) = database().await;
    node::schema_at(&pool, "nodes", NEWEST).await;
    let nodes = ask(&pool, "nodes", &body("nodes")).await;
    BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect("our own objects");
    assert_eq!(ask(&pool, "nodes", &body("nodes")).await, nodes);

    // Coming from an older revision of Node's, as the other functions do.
    let (pool, _) = database().await;
    node::schema_at(&pool, "old", 19).await;
    BackfillClient::with_pool_and_schema(pool.clone(), "old").await.expect("migrate");
    let unquoted = |schema: &str| {
        format!(
            "select md5(replace(fn.prosrc, '\"{schema}\"', 'S')) from pg_proc fn where fn.proname = 'add_jobs' and fn.pronamespace = '\"{schema}\"'::regnamespace"
        )
    };
    let (_, pool_of_ours, schema) = support::client().await;
    assert_eq!(ask(&pool, "old", &unquoted("old")).await, ask(&pool_of_ours, &schema, &unquoted(&schema)).await);
}
