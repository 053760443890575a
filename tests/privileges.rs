//! The least-privilege setup of DATABASE.md, run as it stands there.

mod support;

use backfill::{BackfillClient, Error, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::running::{Running, empty};
use support::{database, soon, sql, unique};

#[tokio::test]
async fn the_documented_roles_can_do_their_work_and_no_more() {
    let (admin, url) = database().await;
    let suffix = unique("").replace('_', "");
    let text = include_str!("../DATABASE.md");
    let section = text.split("## Least privilege").nth(1).expect("the section").split("\n## ").next().expect("its end");
    // Roles belong to the whole server, so this test has its own.
    let mut blocks = section
        .split("```sql")
        .skip(1)
        .map(|block| block.split("```").next().expect("the block's end").replace("jobs_", &format!("jobs_{suffix}_")));
    let as_role = |role: &str| {
        let url = url.replace("//postgres@", &format!("//jobs_{suffix}_{role}@"));
        async move { PgPoolOptions::new().max_connections(3).connect(&url).await.expect("log in") }
    };

    sql(&admin, "", &blocks.next().expect("the roles")).await;
    BackfillClient::with_pool(as_role("migrator").await).await.expect("the migrator migrates");
    sql(&admin, "", &blocks.next().expect("the grants")).await;

    let connect = |pool: PgPool| BackfillClient::builder().pool(pool).migrate(false).build();
    let producer = connect(as_role("producer").await).await.expect("the producer finds the schema in order");
    producer.add(JobSpec::new("t", 1).key("k").serial_queue("q")).await.expect("the producer adds");
    producer.add(JobSpec::new("t", 2).key("k").serial_queue("q")).await.expect("and replaces");
    let error = producer.complete(&[1]).await.expect_err("it may not delete");
    assert!(matches!(error, Error::MissingPrivilege { .. }), "{error}");

    let client = connect(as_role("worker").await).await.expect("the worker finds the schema in order");
    let worker =
        Worker::builder(client.clone()).task(task_fn("t", |_: i32, _: JobContext| async {})).build().expect("worker");
    assert_eq!(worker.run_once().await.expect("the worker runs").completed, 1);
    client.storage().release_stale().await.expect("sweeps");
    client.storage().rescue(std::time::Duration::from_secs(60)).await.expect("rescues");
    client.cleanup(&backfill::Cleanup::new().dead_jobs()).await.expect("deletes");
    assert!(client.migrate().await.is_ok(), "nothing to do is no privilege");

    producer.add(JobSpec::new("t", 3)).await.expect("add");
    let worker = Worker::builder(client.clone()).task(task_fn("t", |_: i32, _: JobContext| async {}));
    let running = Running::start(worker);
    soon("a job is handed over by the producer", async {
        while producer.add(JobSpec::new("t", 4)).await.expect("add").locked_by.is_none() {}
    })
    .await;
    let evict = "update graphile_worker.backfill_pools set seen_at = 'epoch'";
    assert!(sqlx::query(evict).execute(&as_role("producer").await).await.is_err(), "it may not take workers for dead");
    empty(&client).await;
    running.end().await;

    producer.add(JobSpec::new("t", 3)).await.expect("add");
    let viewer = as_role("viewer").await;
    let seen: i64 = sqlx::query_scalar("select count(*) from graphile_worker.jobs")
        .fetch_one(&viewer)
        .await
        .expect("the viewer looks");
    assert_eq!(seen, 1);
    assert!(sqlx::query("select payload from graphile_worker._private_jobs").execute(&viewer).await.is_err());
    for (role, drop) in
        [("worker", "drop table graphile_worker._private_jobs"), ("producer", "drop view graphile_worker.jobs")]
    {
        assert!(sqlx::raw_sql(drop).execute(&as_role(role).await).await.is_err(), "{role}");
    }
}
