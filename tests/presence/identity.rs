//! The id of a worker, its row, and the locks that bear its name.

use std::sync::Arc;

use backfill::storage::{Registration, WorkerId};
use backfill::worker::Event;
use backfill::{JobContext, JobSpec, Worker, task_fn};
use tokio::sync::Semaphore;

use crate::support::running::{Running, empty};
use crate::support::{ask, client, soon, sql};

#[tokio::test]
async fn locks_have_graphiles_shape() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (seen, looked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (seen, looked) = (seen.clone(), looked.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (seen, looked) = (seen.clone(), looked.clone());
            async move {
                seen.add_permits(1);
                looked.acquire().await.expect("open").forget();
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler));
    seen.acquire().await.expect("it runs").forget();
    let same = "select job.locked_by ~ '^pool-[0-9a-f]{18}$' and job.locked_by = queue.locked_by and job.locked_at = queue.locked_at
                and pool.id = job.locked_by and job.attempts = 1
                from S._private_jobs job, S._private_job_queues queue, S.backfill_pools pool";
    assert_eq!(ask(&pool, &schema, same).await, "true");
    looked.add_permits(1);
    empty(&client).await;
    running.end().await;
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "0", "it deregistered");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_by is not null").await,
        "0"
    );
}

#[tokio::test]
async fn two_workers_that_choose_the_same_identity_do_not_share_it() {
    let (client, pool, schema) = client().await;
    let start = || {
        let task = task_fn("t", |(): (), _: JobContext| async {});
        let worker = Worker::builder(client.clone()).handle_signals(false).task(task).build().expect("a worker");
        let (mut events, shutdown) = (worker.events(), worker.shutdown_handle());
        let running = tokio::spawn(async move {
            // Both draw the same numbers: they begin on this thread, and nothing is drawn in between.
            fastrand::seed(20);
            worker.run().await
        });
        let identity = async move {
            loop {
                if let Event::Started { worker, .. } = events.next().await.expect("it starts") {
                    return worker.to_string();
                }
            }
        };
        (identity, shutdown, running)
    };
    let (first, first_shutdown, first_running) = start();
    let first = soon("the first starts", first).await;
    fastrand::seed(20);
    assert_eq!(WorkerId::random().as_str(), first, "this is how it was chosen");
    let (second, second_shutdown, second_running) = start();
    let second = soon("the second starts", second).await;
    assert_ne!(first, second);
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "2");
    for (shutdown, running) in [(first_shutdown, first_running), (second_shutdown, second_running)] {
        shutdown.shutdown();
        running.await.expect("no panic").expect("an orderly end");
    }
}

#[tokio::test]
async fn registering_is_whole_or_not_at_all() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().consumer();
    for table in ["_private_tasks", "backfill_pools"] {
        let refuse = format!(
            "create or replace function S.refuse() returns trigger language plpgsql as $$ begin raise exception 'no more'; end $$;
             create trigger refuse before insert on S.{table} for each row execute function S.refuse()"
        );
        sql(&pool, &schema, &refuse).await;
        let tasks = ["t".to_owned()];
        let error = storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect_err("it is refused");
        assert!(format!("{error:?}").contains("no more"), "{error:?}");
        sql(&pool, &schema, &format!("drop trigger refuse on S.{table}")).await;
        let rows = "select (select count(*) from S._private_tasks) + (select count(*) from S.backfill_pools)";
        assert_eq!(ask(&pool, &schema, rows).await, "0", "{table}");
    }
}
