//! What is in the tables, and how the database is set.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use tokio::time::sleep;

use super::{Ground, three_workers};
use crate::scene::Outcome;
use crate::worker::{How, Work};

/// Survives by: the index of what is available, in which dead jobs are not (`jobs_main_index`), and results written in batches.
pub async fn many_jobs_fail(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let count = ground.scaled(10_000, 100_000);
    scene.add_small(count, "fail", 1).await;
    scene.start("a");
    scene.start("b");
    scene
        .until_answered(
            "the failure of all",
            &format!(
                "select (count(*) = {count})::int::bigint from graphile_worker._private_jobs
                 where attempts = 1 and last_error = 'it always fails' and locked_at is null"
            ),
        )
        .await;
    // The dead ones are in nobody's way.
    scene.add(100, 10).await;
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = format!("{count} dead jobs are kept");
    outcome
}

/// Survives by: `MAX_ERROR_BYTES`.
pub async fn an_error_has_ten_megabytes(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add_how(20, 10, How::LongError).await;
    scene.add(20, 10).await;
    scene.start("a");
    scene.hits("a");
    let mut outcome = scene.end().await;
    outcome.remark = "kept shortened".to_owned();
    outcome
}

/// Survives by: lenient reading of rows (`postgres/row.rs`), and settling in halves (`worker/settler.rs`).
pub async fn rows_are_poisoned_by_hand(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let specs = (0..12).map(|_| JobSpec::new("work", Work { ms: 10, how: How::Sleep, pad: String::new() }));
    let added = scene.client.add_many(specs).await.expect("add");
    let ids: Vec<i64> = added.iter().map(|job| job.id).collect();
    let jobs = "update graphile_worker._private_jobs set";
    scene
        .sql(&format!(
            "{jobs} attempts = -7 where id = {};
             {jobs} run_at = '-infinity' where id = {};
             {jobs} run_at = 'infinity' where id = {};
             {jobs} flags = '[1, null, {{\"a\": 2}}]' where id = {};
             {jobs} flags = '\"odd\"' where id = {};
             {jobs} priority = -32768 where id = {};
             {jobs} revision = 2147483647 where id = {};
             {jobs} created_at = '4713-01-01 BC', updated_at = 'infinity' where id = {};
             {jobs} payload = 'null' where id = {};
             {jobs} locked_at = 'infinity', locked_by = 'somebody' where id = {};
             {jobs} job_queue_id = 4711 where id = {};
             {jobs} last_error = repeat('x', 1000000), key = repeat('k', 512) where id = {};",
            ids[0], ids[1], ids[2], ids[3], ids[4], ids[5], ids[6], ids[7], ids[8], ids[9], ids[10], ids[11]
        ))
        .await;
    // Of infinity nobody can wait the end, a foreign lock is honoured, a payload that is no Work fails, and a queue that does
    // not exist is taken for none by nobody: these are not expected to run.
    let stay = [ids[2], ids[8], ids[9], ids[10]];
    scene.accept(ids.iter().copied());
    scene.disown(&stay);
    scene.add(50, 10).await;
    for name in ["a", "b", "c"] {
        scene.start(name);
    }
    let begun = Instant::now();
    while scene.finished().await < 58 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the healthy ones run: {}", scene.finished().await);
        sleep(Duration::from_millis(50)).await;
    }
    scene
        .sql(&format!(
            "delete from graphile_worker._private_jobs where id in ({}, {}, {}, {})",
            stay[0], stay[1], stay[2], stay[3]
        ))
        .await;
    scene.remark = "12 kinds of poison; workers and the other jobs are not affected".to_owned();
    scene.end().await
}

/// Survives by: the fence; a settlement of a row that is gone changes nothing.
pub async fn jobs_are_deleted_while_they_run(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(50, 1000).await;
    scene.add_serial(20, 2, 300).await;
    three_workers(&mut scene).await;
    scene.sql("delete from graphile_worker._private_jobs where locked_at is not null").await;
    scene.hits_all();
    scene.end().await
}

/// Survives by: retries, results that are held (`worker/settler.rs`), and signs of life in another table.
pub async fn the_table_is_locked(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(400, 300).await;
    three_workers(&mut scene).await;
    let time = ground.scaled(8, 30);
    scene
        .sql(&format!(
            "begin; lock table graphile_worker._private_jobs in access exclusive mode; select pg_sleep({time}); commit"
        ))
        .await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the limit that the planner cannot see (`postgres/claim.rs`): the walk in the order of the index always looks better than a sort.
pub async fn the_table_has_no_statistics(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene
        .sql(
            "alter table graphile_worker._private_jobs set (autovacuum_enabled = false);
             alter table graphile_worker._private_job_queues set (autovacuum_enabled = false)",
        )
        .await;
    let count = ground.scaled(20_000, 100_000);
    scene.add_small(count, "nothing", 25).await;
    scene.add_serial(500, 100, 0).await;
    let begun = Instant::now();
    scene.start("a");
    scene.start("b");
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = format!("{count} of them no-op jobs, all done in {:.1} s", begun.elapsed().as_secs_f64());
    outcome
}

/// A transaction elsewhere keeps every deleted row in the table.
pub async fn a_snapshot_is_held(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let time = ground.seconds(10, 600);
    let admin = scene.admin().await;
    let mut holder = admin.begin().await.expect("begin");
    sqlx::raw_sql(
        "set transaction isolation level repeatable read; select count(*) from graphile_worker._private_jobs",
    )
    .execute(&mut *holder)
    .await
    .expect("a snapshot");
    scene.start("a");
    scene.start("b");
    let begun = Instant::now();
    let mut jobs = 0;
    while begun.elapsed() < time {
        let second = Instant::now();
        scene.add_small(300, "nothing", 25).await;
        jobs += 300;
        sleep(Duration::from_secs(1).saturating_sub(second.elapsed())).await;
    }
    scene.add(100, 10).await;
    let caught_up = Instant::now();
    let dead = scene.ask("select n_dead_tup from pg_stat_user_tables where relname = '_private_jobs'").await;
    scene.until_finished(jobs + 100).await;
    let caught_up = caught_up.elapsed();
    holder.rollback().await.expect("rollback");
    admin.close().await;
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = format!(
        "{jobs} of them no-op jobs at 300/s, {dead} dead rows, the last 100 jobs done in {:.1} s",
        caught_up.as_secs_f64()
    );
    outcome
}

/// A role with these settings, through which the workers connect.
async fn with_role(ground: &Ground, settings: &[&str]) -> crate::scene::Scene {
    let mut scene = ground.scene().await;
    let role = format!("role_{}", scene.database);
    let mut text = format!("create role {role} login superuser;");
    for setting in settings {
        text += &format!("alter role {role} set {setting};");
    }
    scene.sql(&text).await;
    scene.told.url = scene.told.url.replacen("postgres@", &format!("{role}@"), 1);
    scene
}

/// Survives by: retries, and by no statement or transaction of ours that needs long.
pub async fn the_role_has_short_timeouts(ground: &Ground) -> Outcome {
    let settings =
        ["statement_timeout = '100ms'", "lock_timeout = '50ms'", "idle_in_transaction_session_timeout = '200ms'"];
    let mut scene = with_role(ground, &settings).await;
    scene.add(1000, 50).await;
    scene.add_serial(200, 10, 10).await;
    three_workers(&mut scene).await;
    // Long enough for every one of them to strike.
    scene
        .sql("begin; lock table graphile_worker._private_jobs in access exclusive mode; select pg_sleep(2); commit")
        .await;
    scene.hits_all();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: `postgres/isolation.rs`.
pub async fn the_default_isolation_is_serializable(ground: &Ground) -> Outcome {
    let mut scene = with_role(ground, &["default_transaction_isolation = 'serializable'"]).await;
    scene.add(2000, 5).await;
    scene.add_serial(300, 10, 5).await;
    three_workers(&mut scene).await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: every time that matters is the database's.
pub async fn clocks_are_an_hour_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(600, 100).await;
    scene.start("a");
    scene.told.clock_hours = 1;
    scene.start("b");
    scene.told.clock_hours = -1;
    scene.start("c");
    sleep(ground.seconds(5, 25)).await;
    scene.kill("a").await;
    scene.add(100, 100).await;
    scene.remark = "one clock is fast, one is slow, and the worker whose clock is right is killed".to_owned();
    scene.end().await
}

/// Survives by: no claims while too many results wait to be written (`worker/engine/claiming.rs`), and smaller batches when one
/// takes too long.
pub async fn results_are_written_slowly(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    // Claims are as fast as ever; to complete a job takes the server five milliseconds.
    scene
        .sql(
            "create function crawl() returns trigger language plpgsql as $$ begin perform pg_sleep(0.005); return old; end $$;
             create trigger crawl before delete on graphile_worker._private_jobs for each row execute function crawl()",
        )
        .await;
    scene.start("a");
    scene.until("listening", "exists (select from told where what = 'listening')").await;
    let before = scene.memory();
    let jobs = ground.scaled(3_000, 20_000);
    scene.add(jobs, 0).await;
    let jobs = i64::try_from(jobs).expect("few");
    scene.until_finished(jobs).await;
    let waiting = scene.ask("select count(*) from graphile_worker._private_jobs").await;
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 20, "memory stays bounded: {grown} MiB more");
    scene.remark = format!("{waiting} results of finished jobs were yet to be written, {grown} MiB more");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}
