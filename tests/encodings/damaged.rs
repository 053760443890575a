//! Rows in PostgreSQL that are no text.

use std::sync::Arc;

use backfill::storage::JobFilter;
use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;

use crate::support;
use crate::{DAMAGED, database_in, is_told, rescues_all, run_all, schema_in};

/// A database that checks nothing, with rows whose bytes are no UTF-8 among rows that can be read, and times of the end of days.
async fn with_damaged_rows() -> (BackfillClient, PgPool, String) {
    let pool = database_in("SQL_ASCII").await;
    let (client, schema) = schema_in(&pool).await;
    for n in 1..=6 {
        client.add(JobSpec::new("t", n).key(format!("k{n}"))).await.expect("add");
    }
    let damage = "
        update S._private_jobs set payload = convert_from('\\x22e922', 'SQL_ASCII')::json where id = 1;
        update S._private_jobs set key = convert_from('\\xe9', 'SQL_ASCII') where id = 2;
        update S._private_jobs set last_error = convert_from('\\xe9', 'SQL_ASCII'), attempts = 1 where id = 3;
        update S._private_jobs set flags = convert_from('\\x7b22e9223a747275657d', 'SQL_ASCII')::jsonb where id = 4;
        update S._private_jobs set run_at = '-infinity', created_at = '4713-01-01 BC', updated_at = 'infinity' where id = 5;
        insert into S._private_job_queues (queue_name) values (convert_from('\\xe9', 'SQL_ASCII'));
        insert into S._private_tasks (identifier) values (convert_from('\\xe9', 'SQL_ASCII'));
        insert into S._private_known_crontabs (identifier, known_since) values (convert_from('\\xe9', 'SQL_ASCII'), 'infinity');
        insert into S._private_jobs (task_id, payload) select id, '1' from S._private_tasks where identifier <> 't'";
    support::sql(&pool, &schema, damage).await;
    (client, pool, schema)
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_no_text_are_listed_with_all_others_and_found_by_the_doctor() {
    let (client, ..) = with_damaged_rows().await;
    let jobs = client.jobs(&JobFilter::new()).await.expect("jobs");
    assert_eq!(jobs.len(), 7);
    let job = |id: i64| jobs.iter().find(|job| job.id.number() == id).expect("it is there");
    assert_eq!(job(1).payload.as_str(), "\"\u{fffd}\"");
    assert!(job(1).payload.is_damaged() && job(1).payload.decode::<String>().is_err());
    assert_eq!(job(2).key.as_deref(), Some("\u{fffd}"));
    assert_eq!(job(3).last_error.as_deref(), Some("\u{fffd}"));
    assert_eq!(job(4).flags, ["\u{fffd}"]);
    assert_eq!(job(7).task, "\u{fffd}");
    assert!(!job(6).payload.is_damaged());
    assert!(client.queues().await.expect("queues").iter().any(|queue| queue.name == "\u{fffd}"));
    assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == "\u{fffd}"));
    assert_eq!(client.crontabs().await.expect("crontabs")[0].identifier, "\u{fffd}");
    assert_eq!(client.counts().await.expect("counts").total(), 7);
    let found = client.storage().doctor().expect("doctor").diagnose(backfill::storage::Effort::Exact).await;
    let found: Vec<_> = found.iter().filter(|check| format!("{check:?}").contains("4 jobs hold bytes")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    // To move it would change it.
    let error = client
        .storage()
        .require_transfer()
        .expect("transfer")
        .reserve("move-1", None, 100, u64::MAX)
        .await
        .expect_err("not as it is");
    assert!(error.to_string().contains("the payload of job 1 is not valid UTF-8"), "{error}");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_no_text_stop_no_claims_and_fail_by_themselves() {
    let (client, ..) = with_damaged_rows().await;
    assert_eq!(run_all(&client).await, [(1, Some(DAMAGED.to_owned()))]);
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_holders_that_are_no_text_hold_up_nobody() {
    let pool = database_in("SQL_ASCII").await;
    let (client, schema) = schema_in(&pool).await;
    for n in 1..=4 {
        client.add(JobSpec::new("t", n)).await.expect("add");
    }
    let odd = "convert_from('\\xe9', 'SQL_ASCII')";
    let damage = format!(
        "insert into S.backfill_pools (id, seen_at, serves, handover, tasks) values
           ({odd}, '2020-01-01', array[{odd}], {odd}, array[{odd}]), ('dead', '2020-01-01', null, null, null);
         update S._private_jobs set locked_at = now(), locked_by = {odd} where id = 1;
         update S._private_jobs set locked_at = now(), locked_by = 'dead' where id = 2;
         update S._private_jobs set locked_at = now() - interval '5 hours', locked_by = {odd} || 'x' where id = 3;
         insert into S._private_job_queues (queue_name, locked_at, locked_by) values ({odd}, now(), {odd});
         insert into S._private_tasks (identifier) values ({odd});
         insert into S._private_known_crontabs (identifier, known_since, last_execution)
           values ({odd}, now(), now() + interval '1 day')"
    );
    support::sql(&pool, &schema, &damage).await;
    is_told(&client).await;
    rescues_all(&client).await;
    // Nobody has to be able to read a worker to whom jobs could be handed off.
    let damage = format!("insert into S.backfill_pools (id, handover, tasks) values ({odd}, 'c', array['t'])");
    support::sql(&pool, &schema, &damage).await;
    let ran = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let ran = Arc::clone(&ran);
        task_fn("handed_off", move |_: serde_json::Value, _: JobContext| {
            let ran = Arc::clone(&ran);
            async move { ran.notify_one() }
        })
    };
    let worker = Worker::builder(client.clone()).task(handler).handle_signals(false).build().expect("worker");
    let handle = worker.shutdown_handle();
    let worker = tokio::spawn(async move { worker.run().await });
    let handed_off = async {
        loop {
            let added = client.add(JobSpec::new("handed_off", ())).await.expect("add");
            ran.notified().await;
            if added.locked_by.is_some() {
                break;
            }
        }
    };
    support::soon("a job is handed off", handed_off).await;
    handle.shutdown();
    worker.await.expect("no panic").expect("run");
}
