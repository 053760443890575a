//! Adding while somebody forgets names that no job has.

use backfill::{BackfillClient, Cleanup, JobSpec};
use sqlx::PgPool;

use crate::support::{self, ask, database, soon, sql, until};

#[tokio::test]
async fn adds_go_on_while_unused_task_names_are_looked_for() {
    let names = "select identifier from graphile_worker._private_tasks order by 1";
    adds_go_on_during(Cleanup::new().tasks(["last"]), names, "first;last;soon replaced with;soon used").await;
}

#[tokio::test]
async fn adds_go_on_while_unused_queues_are_looked_for() {
    let names = "select queue_name from graphile_worker._private_job_queues order by 1";
    adds_go_on_during(Cleanup::new().queues(), names, "first;soon replaced with;soon used").await;
}

/// Names that are used while somebody looks for unused ones are kept, and whoever uses them does not wait.
async fn adds_go_on_during(what: Cleanup, names: &str, left: &str) {
    let (admin, url) = database().await;
    let client = BackfillClient::with_pool(admin.clone()).await.expect("migrate");
    client.add(JobSpec::new("first", 1).key("k").serial_queue("first")).await.expect("add");
    for name in ["unused", "soon used", "soon replaced with"] {
        let job = client.add(JobSpec::new(name, 1).serial_queue(name)).await.expect("add");
        client.complete(&[job.id]).await.expect("complete");
    }
    client.add(JobSpec::new("last", 1)).await.expect("add");
    // Whoever reads the first job, as this role, waits until the gate is opened.
    let role = support::unique("role");
    let gate = format!(
        "create role {role} login;
         grant usage on schema graphile_worker to {role};
         grant select, insert, update, delete on all tables in schema graphile_worker to {role};
         create function gate(bigint) returns boolean language plpgsql as $$
         begin if $1 = 1 then perform pg_advisory_lock_shared(42); perform pg_advisory_unlock_shared(42); end if; return true; end $$;
         create policy gate on graphile_worker._private_jobs to {role} using (gate(id));
         create policy names on graphile_worker._private_tasks to {role} using (true);
         create policy names on graphile_worker._private_job_queues to {role} using (true)"
    );
    sql(&admin, "", &gate).await;
    let pool = PgPool::connect(&url.replace("//postgres@", &format!("//{role}@"))).await.expect("log in");
    let cleaner = BackfillClient::builder().pool(pool).migrate(false).build().await.expect("a client");
    let mut holder = admin.acquire().await.expect("connect");
    sqlx::raw_sql("select pg_advisory_lock(42)").execute(&mut *holder).await.expect("close the gate");
    let cleaning = tokio::spawn(async move { cleaner.cleanup(&what).await });
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())";
    until("the jobs are being read", || async { ask(&admin, "", waits).await == "1" }).await;
    let used = JobSpec::new("soon used", 1).serial_queue("soon used");
    let replaced = JobSpec::new("soon replaced with", 1).serial_queue("soon replaced with").key("k");
    soon("adding", client.add(used)).await.expect("add");
    soon("replacing", client.add(replaced)).await.expect("replace");
    sqlx::raw_sql("select pg_advisory_unlock(42)").execute(&mut *holder).await.expect("open the gate");
    let cleaned = soon("cleaning", cleaning).await.expect("no panic").expect("cleanup");
    assert_eq!(ask(&admin, "", names).await, left);
    assert_eq!(cleaned.tasks + cleaned.queues, 1, "only what no job has");
    sql(&admin, "", &format!("drop owned by {role}; drop role {role}")).await;
}
