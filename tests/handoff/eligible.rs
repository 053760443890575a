//! Which jobs are handed off, and by which roles.

use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;

use crate::support::running::empty;
use crate::support::{self, ask, client, database, sql, until};
use crate::{add_until_handed, counting, listening};

#[tokio::test]
async fn only_plain_single_jobs_of_the_clients_own_transaction_are_handed_off() {
    let (client, pool, _) = client().await;
    let (worker, _) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let plain = || JobSpec::new("t", ());
    let others = [
        ("a key", plain().key("k")),
        ("a queue", plain().serial_queue("q")),
        ("a flag", plain().flag("f")),
        ("a time", plain().run_in(Duration::from_millis(1))),
        // If its receiver died before it starts, it would be dead without having run.
        ("its last attempt before it", plain().max_attempts(1)),
        ("another task", JobSpec::new("unknown here", ())),
    ];
    for (what, spec) in others {
        let job = client.add(spec).await.expect("add");
        assert_eq!((job.locked_by, job.attempts), (None, 0), "{what}");
    }
    let many = client.add_many([plain(), plain()]).await.expect("add");
    assert!(many.iter().all(|job| job.locked_by.is_none()), "a batch");
    let mut tx = pool.begin().await.expect("begin");
    assert_eq!(
        client.add(plain()).within(&mut tx).await.expect("add").locked_by,
        None,
        "a transaction of the caller's"
    );
    tx.commit().await.expect("commit");
    add_until_handed(&client).await;
    until("all are done but the one nobody serves", || async { client.counts().await.expect("counts").total() == 1 })
        .await;
    running.end().await;
}

#[tokio::test]
async fn jobs_of_a_task_with_a_limit_of_its_own_are_claimed() {
    let (client, pool, schema) = client().await;
    let handler = || |(): (), _: JobContext| async {};
    let worker = Worker::builder(client.clone())
        .task(task_fn("limited", handler()).concurrency(1))
        .task(task_fn("t", handler()))
        .handle_signals(false)
        .build()
        .expect("a worker");
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    assert_eq!(ask(&pool, &schema, "select tasks from S.backfill_pools").await, "{t}");
    for _ in 0..10 {
        assert_eq!(client.add(JobSpec::new("limited", ())).await.expect("add").locked_by, None);
    }
    empty(&client).await;
    running.end().await;
}

#[tokio::test]
async fn a_role_that_may_not_lock_pools_adds_as_ever() {
    let (admin, url) = database().await;
    let owner = BackfillClient::new(&url).await.expect("migrate");
    let (worker, _) = counting(&owner);
    let (running, _events) = listening(worker).await;
    let role = support::unique("adder");
    sql(
        &admin,
        "graphile_worker",
        &format!(
            "create role {role} login bypassrls; grant usage on schema S to {role};
             grant select on all tables in schema S to {role};
             grant insert, update on S._private_jobs to {role};
             grant insert on S._private_tasks, S._private_job_queues to {role}"
        )
        .replace(" schema S ", " schema graphile_worker "),
    )
    .await;
    let adder = adder(&url, &role).await;
    for _ in 0..20 {
        assert_eq!(adder.add(JobSpec::new("t", ())).await.expect("add").locked_by, None);
    }
    sql(&admin, "graphile_worker", &format!("grant update (started_at) on S.backfill_pools to {role}")).await;
    let adder = self::adder(&url, &role).await;
    add_until_handed(&adder).await;
    sql(&admin, "graphile_worker", &format!("revoke update (started_at) on S.backfill_pools from {role}")).await;
    for _ in 0..20 {
        assert_eq!(adder.add(JobSpec::new("t", ())).await.expect("add").locked_by, None, "after it was revoked");
    }
    empty(&owner).await;
    running.end().await;
}

async fn adder(url: &str, role: &str) -> BackfillClient {
    let url = url.replace("//postgres@", &format!("//{role}@"));
    BackfillClient::builder()
        .pool(PgPool::connect(&url).await.expect("log in"))
        .migrate(false)
        .build()
        .await
        .expect("ready")
}
