//! Locks and snapshots of others.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use tokio::time::sleep;

use super::super::{Ground, three_workers};
use crate::scene::Outcome;
use crate::worker::{How, Work};

/// Survives by: retries, results that are held (`worker/settler/mod.rs`), and heartbeats in another table.
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

/// Survives by: results that are deferred (`worker/settler/mod.rs`) when their rows, or what goes with them, are locked
/// (`postgres/settle.rs`), and are asked for together later.
pub async fn rows_of_running_jobs_stay_locked(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.concurrency = 100;
    scene.sql("create table notes (job bigint references graphile_worker._private_jobs (id) on delete cascade)").await;
    let work = |ms| Work { ms, how: How::Sleep, pad: String::new() };
    let keyed = scene.client.add(JobSpec::new("work", work(3_000)).key("k")).await.expect("add");
    scene.accept([keyed.id.number()]);
    scene.add(60, 3_000).await;
    scene.start("a");
    scene.until_started(61).await;
    let admin = scene.admin().await;
    let mut theirs = admin.begin().await.expect("begin");
    // Whoever adds a job under the key of a running one locks its row until he commits; another one locks whatever is running.
    sqlx::query("select graphile_worker.add_job('work', '{\"ms\": 1, \"how\": \"Sleep\"}', job_key => 'k')")
        .execute(&mut *theirs)
        .await
        .expect("add");
    sqlx::query("select id from graphile_worker._private_jobs where locked_by is not null for update")
        .execute(&mut *theirs)
        .await
        .expect("lock");
    // And one job is referred to, by a row that would be deleted with it.
    let referred = scene.client.add(JobSpec::new("work", work(3_000))).await.expect("add");
    scene.accept([referred.id.number()]);
    scene.until_started(62).await;
    scene.sql(&format!("insert into notes values ({})", referred.id.number())).await;
    sqlx::query("select from notes for update").execute(&mut *theirs).await.expect("lock");
    let begun = Instant::now();
    let time = ground.seconds(15, 240);
    let mut jobs = 62;
    while begun.elapsed() < time {
        scene.add(50, 10).await;
        scene.add_serial(20, 3, 1).await;
        jobs += 70;
        scene.until_finished(jobs).await;
        scene
            .until_answered(
                "the results of all others, soon",
                "select (count(*) = 62)::int::bigint from graphile_worker._private_jobs",
            )
            .await;
        sleep(Duration::from_secs(1)).await;
    }
    theirs.rollback().await.expect("rollback");
    admin.close().await;
    scene.remark = format!("62 rows for {} s; the results of the others are written meanwhile", time.as_secs());
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: rescue that passes locked rows by, and comes back for them (`postgres/rescue.rs`).
pub async fn a_dead_workers_row_stays_locked(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(10, 5_000).await;
    scene.start("a");
    scene.until_started(10).await;
    scene.kill("a").await;
    let admin = scene.admin().await;
    let mut theirs = admin.begin().await.expect("begin");
    sqlx::query("select id from graphile_worker._private_jobs order by id limit 1 for update")
        .execute(&mut *theirs)
        .await
        .expect("lock");
    let begun = Instant::now();
    scene.start("b");
    scene.until_finished(9).await;
    let freed = begun.elapsed();
    assert!(freed < Duration::from_secs(40), "the others are free: {freed:?}");
    let held = "select (count(*) = 1)::int::bigint from graphile_worker._private_jobs where locked_by is not null";
    scene.until_answered("only the locked one is left", held).await;
    theirs.rollback().await.expect("rollback");
    admin.close().await;
    scene.until_answered("its freedom", "select count(*) from graphile_worker._private_jobs where attempts = 2").await;
    scene.recovered = Some(freed);
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, 20);
    outcome
}
