//! The least-privilege setup of DATABASE.md, run as it stands there.

mod support;

use backfill::messages::Queue;
use backfill::storage::Watch;
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
    let error = producer.complete(&[1.into()]).await.expect_err("it may not delete");
    assert!(matches!(error, Error::MissingPrivilege { .. }), "{error}");

    let client = connect(as_role("worker").await).await.expect("the worker finds the schema in order");
    let worker =
        Worker::builder(client.clone()).task(task_fn("t", |_: i32, _: JobContext| async {})).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("the worker runs").completed, 1);
    client.storage().consumer().release_stale().await.expect("sweeps");
    client.storage().consumer().rescue(&Watch::new(std::time::Duration::from_secs(60))).await.expect("rescues");
    client.cleanup(&backfill::Cleanup::new().dead_jobs()).await.expect("deletes");
    assert!(client.migrate().await.is_ok(), "nothing to do is no privilege");

    producer.add(JobSpec::new("t", 3)).await.expect("add");
    let worker = Worker::builder(client.clone()).task(task_fn("t", |_: i32, _: JobContext| async {}));
    let running = Running::start(worker);
    soon("a job is handed off by the producer", async {
        while producer.add(JobSpec::new("t", 4)).await.expect("add").locked_by.is_none() {}
    })
    .await;
    let evict = "update graphile_worker.backfill_pools set seen_at = 'epoch'";
    assert!(sqlx::query(evict).execute(&as_role("producer").await).await.is_err(), "it may not declare workers dead");
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

#[tokio::test]
async fn the_documented_roles_can_use_messages_where_the_schema_has_them() {
    let (admin, url) = database().await;
    let suffix = unique("").replace('_', "");
    let text = include_str!("../DATABASE.md");
    let section = text.split("## Least privilege").nth(1).expect("the section").split("\n## ").next().expect("its end");
    let mut blocks = section
        .split("```sql")
        .skip(1)
        .map(|block| block.split("```").next().expect("the block's end").replace("jobs_", &format!("jobs_{suffix}_")));
    let open = |role: &str, migrate: bool| {
        let url = url.replace("//postgres@", &format!("//jobs_{suffix}_{role}@"));
        Queue::builder().database_url(url).schema("graphile_worker").migrate(migrate).build()
    };
    sql(&admin, "", &blocks.next().expect("the roles")).await;
    open("migrator", true).await.expect("the migrator migrates");
    sql(&admin, "", &blocks.next().expect("the grants")).await;
    let error = open("worker", false).await.expect_err("it may not see the ledger of messages yet");
    assert!(matches!(error, Error::MissingPrivilege { .. }), "{error}");
    for missing in ["backfill_message_migrations", "backfill_documents", "backfill_document_versions"] {
        assert!(error.to_string().contains(missing), "{error}");
    }
    sql(&admin, "", &blocks.next().expect("the grants of messages")).await;
    let queue = open("worker", false).await.expect("the worker finds the schema in order");
    queue.enqueue("q", &1).id("m").group("g").await.expect("enqueue");
    let claim = async |groups: bool| {
        let claim = queue.claim("q", "w").host("h");
        let claim = if groups { claim.in_groups() } else { claim };
        claim.one().await.expect("claim").expect("it is ready")
    };
    let message = claim(true).await;
    queue.renew(&message, std::time::Duration::ZERO).await.expect("renew");
    let message = claim(false).await;
    queue.complete_with_event(&message, "s", &1).await.expect("complete");
    assert_eq!(queue.events("s", 0, 9).await.expect("events").len(), 1);
    queue.heartbeat("w", "h", "q", None, std::time::Duration::from_secs(9)).await.expect("heartbeat");
    assert_eq!(queue.counts("q").await.expect("counts").ready, 0);
    queue.drop_namespace().await.expect("drop");
}

#[tokio::test]
async fn a_worker_refuses_to_serve_where_it_would_see_or_change_nothing() {
    let (admin, url) = database().await;
    let client = BackfillClient::with_pool(admin.clone()).await.expect("migrate");
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let role = unique("role");
    let grants = format!(
        "create role {role} login; grant usage on schema graphile_worker to {role};
         grant select, insert, update, delete on all tables in schema graphile_worker to {role};
         create policy names on graphile_worker._private_tasks to {role} using (true);
         create policy names on graphile_worker._private_job_queues to {role} using (true);
         create policy names on graphile_worker.backfill_pools to {role} using (true)"
    );
    sql(&admin, "", &grants).await;
    let once = || async {
        let pool = PgPool::connect(&url.replace("//postgres@", &format!("//{role}@"))).await.expect("log in");
        let client = BackfillClient::builder().pool(pool).migrate(false).build().await.expect("the schema is in order");
        let worker = Worker::builder(client).task(task_fn("t", |_: i32, _: JobContext| async {})).build();
        worker.expect("worker").run_until_idle().await
    };

    let error = once().await.expect_err("every job is hidden");
    assert!(matches!(&error, Error::HiddenRows { table, .. } if table == "_private_jobs"), "{error}");
    assert!(error.is_transient() && error.is_refusal() && error.to_string().contains("bypassrls"), "{error}");
    sql(&admin, "", &format!("create policy jobs on graphile_worker._private_jobs to {role} using (true)")).await;
    sql(&admin, "", &format!("alter role {role} set default_transaction_read_only = on")).await;
    let error = once().await.expect_err("nothing may be written");
    let remedy = format!("alter role \"{role}\" reset default_transaction_read_only");
    assert!(matches!(&error, Error::ReadOnly { why, .. } if why.contains(&remedy)), "{error}");
    assert!(error.is_transient() && error.is_refusal(), "a failover may end it");
    sql(&admin, "", &format!("alter role {role} reset default_transaction_read_only")).await;
    assert_eq!(once().await.expect("it runs").completed, 1);
    sql(&admin, "", &format!("drop owned by {role}; drop role {role}")).await;
}
