//! What is in the tables, and how the database is set.

mod locks;
mod settings;

pub use locks::{
    a_dead_workers_row_stays_locked, a_snapshot_is_held, rows_of_running_jobs_stay_locked, the_table_is_locked,
};
pub use settings::{
    a_short_timeout_meets_a_long_walk, clocks_are_an_hour_off, the_default_isolation_is_serializable,
    the_role_has_short_timeouts,
};

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

/// Survives by: lenient reading of rows (`postgres/row.rs`), and settling in halves (`worker/settler/mod.rs`).
pub async fn rows_are_poisoned_by_hand(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let specs = (0..12).map(|_| JobSpec::new("work", Work { ms: 10, how: How::Sleep, pad: String::new() }));
    let added = scene.client.add_many(specs).await.expect("add");
    let ids: Vec<i64> = added.iter().map(|job| job.id.number()).collect();
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

/// Survives by: the limit that the planner cannot see (`postgres/claim`): the walk in the order of the index always looks better than a sort.
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

/// Survives by: the same as for locked rows; a done job whose row cannot be deleted is kept as dead in the end.
pub async fn a_result_is_refused(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(1, 300).await;
    scene.add(300, 10).await;
    scene
        .sql(
            "create table kept (job bigint references graphile_worker._private_jobs (id));
             insert into kept select min(id) from graphile_worker._private_jobs",
        )
        .await;
    scene.start("a");
    scene.start("b");
    scene.until_finished(301).await;
    scene
        .until_answered(
            "the end of the others",
            "select (count(*) = 1)::int::bigint from graphile_worker._private_jobs",
        )
        .await;
    scene
        .until_answered(
            "what is left of it",
            "select count(*) from graphile_worker._private_jobs
             where locked_by is null and attempts = max_attempts and last_error like 'the job is done%kept_job_fkey%'",
        )
        .await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// A worker, beside a server that needs five milliseconds to write each result of this kind. Answers how much memory it has.
async fn one_slow_to_write(scene: &mut crate::scene::Scene, moment: &str, which: &str) -> u64 {
    scene
        .sql(&format!(
            "create function crawl() returns trigger language plpgsql as $$
             begin perform pg_sleep(0.005); if tg_op = 'DELETE' then return old; end if; return new; end $$;
             create trigger crawl {moment} on graphile_worker._private_jobs for each row {which} execute function crawl()"
        ))
        .await;
    scene.start("a");
    scene.until("listening", "exists (select from told where what = 'listening')").await;
    scene.memory()
}

/// Survives by: the bound on the bytes of what is unwritten (`worker/engine/claiming.rs`).
pub async fn long_errors_are_written_slowly(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let before = one_slow_to_write(&mut scene, "before update", "when (new.last_error is not null)").await;
    let jobs = ground.scaled(4_000, 12_000);
    scene.add_with(jobs, 0, How::Fail, 1).await;
    let jobs = i64::try_from(jobs).expect("few");
    let mut most = 0;
    while scene.finished().await < jobs {
        most = most.max(scene.memory());
        sleep(Duration::from_millis(50)).await;
    }
    let grown = most.max(scene.memory()).saturating_sub(before);
    assert!(grown < 130, "memory stays bounded: {grown} MiB more");
    scene
        .until_answered(
            "the last result",
            "select (count(*) = 0)::int::bigint from graphile_worker._private_jobs where last_error is null",
        )
        .await;
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = format!("errors of 32 KiB, {grown} MiB more");
    outcome
}

/// Survives by: no claims while too many results wait to be written (`worker/engine/claiming.rs`), and smaller batches when one
/// takes too long.
pub async fn results_are_written_slowly(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    // Claims are as fast as ever; to complete a job takes the server five milliseconds.
    let before = one_slow_to_write(&mut scene, "before delete", "").await;
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
