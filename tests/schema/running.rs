//! Workers that run while schemas are created, migrated or were renamed.

use backfill::{BackfillClient, Error, JobContext, JobSpec, Worker, task_fn};

use crate::support::{ask, database, node, soon, sql, until};

#[tokio::test]
async fn a_running_worker_obeys_a_breaking_migration_of_its_own_schema_only() {
    // A database of its own: the notices below would reach every worker of the shared one.
    let (pool, url) = database().await;
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "mine").await.expect("migrate");
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .handle_signals(false)
        .build()
        .expect("worker");
    let running = tokio::spawn(async move { worker.run().await });
    let done = |what: &'static str| {
        let client = client.clone();
        async move {
            client.add(JobSpec::new("t", ())).await.expect("add");
            until(what, || async { client.counts().await.expect("counts").total() == 0 }).await;
        }
    };
    done("the first job").await;

    // Another schema of the same database is created by us, and migrated by Node; and somebody cries wolf.
    BackfillClient::with_pool_and_schema(pool.clone(), "other").await.expect("migrate");
    node::migrate("graphile-worker", &url, "another").await;
    sql(&pool, "mine", r#"select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')"#).await;
    done("a job after the others' migrations").await;
    assert!(!running.is_finished());

    sql(&pool, "mine", "insert into S.migrations (id, breaking) values (21, true)").await;
    sql(&pool, "mine", r#"select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')"#).await;
    let error = soon("the worker stops", running).await.expect("no panic").expect_err("a breaking migration");
    assert!(matches!(error, Error::BreakingMigration { revision: 21, .. }), "{error}");
}

#[tokio::test]
async fn creating_a_schema_does_not_stop_node_workers_of_another() {
    let (pool, url) = database().await;
    let mut node = node::start("worker.mjs", &[&url, "graphile_worker", "1"]);
    until("Node has migrated", || async {
        ask(&pool, "pg_catalog", "select to_regclass('graphile_worker.jobs')").await == "graphile_worker.jobs"
    })
    .await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    BackfillClient::with_pool_and_schema(pool.clone(), "second").await.expect("migrate");
    client.add(JobSpec::new("record", serde_json::json!({}))).await.expect("add");
    until("Node has run the job", || async { client.counts().await.expect("counts").total() == 0 }).await;
    assert!(node.try_wait().expect("wait").is_none(), "Node still runs");
}

#[tokio::test]
async fn a_worker_in_a_schema_that_was_renamed_claims_there() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add(JobSpec::new("t", 1)).await.expect("add");
    sql(&pool, "", "alter schema graphile_worker rename to \"moved on\"").await;
    let client = BackfillClient::new_with_schema(&url, "moved on").await.expect("migrate");
    let worker = Worker::builder(client).task(task_fn("t", async |_: u8, _: JobContext| {})).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
}
