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

/// Survives by: retries, results that are held (`worker/settler.rs`), and heartbeats in another table.
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

/// Survives by: every time that matters is the database's, and a lease that ends when either clock says so (`worker/lease.rs`).
pub async fn clocks_are_an_hour_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(600, 100).await;
    // Not even by the fastest clock are these due.
    let early = (0..20).map(|_| {
        JobSpec::new("work", Work { ms: 0, how: How::Sleep, pad: String::new() }).run_in(Duration::from_secs(1800))
    });
    scene.client.add_many(early).await.expect("add");
    scene.start("a");
    let wrong = |how: String| {
        vec![
            ("LD_PRELOAD", std::env::var("BACKFILL_TEST_FAKETIME").expect("asked before")),
            // Clocks that people set; no time passes more or less for it.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", how),
        ]
    };
    let directory = tempfile::tempdir().expect("a directory");
    let set = |name: &str, time: &str| {
        let file = directory.path().join(name);
        // All at once: it is read at every look at the clock.
        let new = directory.path().join("new");
        std::fs::write(&new, time).expect("write");
        std::fs::rename(&new, &file).expect("rename");
        file.display().to_string()
    };
    for (name, time) in [("b", "+1h"), ("c", "-1h"), ("d", "+0")] {
        scene.environment = wrong(set(name, time));
        scene.start(name);
    }
    for name in ["b", "c", "d"] {
        scene
            .until(
                &format!("a start by {name}"),
                &format!("exists (select from told where what = 'start' and worker = '{name}')"),
            )
            .await;
    }
    // One clock is set while its worker runs.
    for time in ["+1h", "-1h", "+0"] {
        set("d", time);
        scene.add(60, 100).await;
        sleep(ground.seconds(2, 8)).await;
    }
    scene.kill("a").await;
    scene.add(100, 100).await;
    scene.until_finished(880).await;
    assert_eq!(
        scene.ask("select count(*) from graphile_worker._private_jobs where attempts = 0 and run_at > now()").await,
        20,
        "nothing starts early"
    );
    scene.sql("delete from graphile_worker._private_jobs where run_at > now() and attempts = 0").await;
    scene.remark =
        "one clock is fast, one slow, one is set again and again; the worker whose clock is right is killed".to_owned();
    scene.end().await
}

/// Survives by: results that are deferred (`worker/settler.rs`) when their rows, or what goes with them, are locked
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

/// Survives by: rescue that passes locked rows by, and comes back for them (`postgres/heartbeat.rs`).
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
    assert_eq!(scene.ask("select count(*) from graphile_worker._private_jobs where locked_by is not null").await, 1);
    theirs.rollback().await.expect("rollback");
    admin.close().await;
    scene.until_answered("its freedom", "select count(*) from graphile_worker._private_jobs where attempts = 2").await;
    scene.recovered = Some(freed);
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, 20);
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

/// Survives by: claims that have time enough after one had not (`postgres/slow_calls.rs`).
pub async fn a_short_timeout_meets_a_long_walk(ground: &Ground) -> Outcome {
    let mut scene = with_role(ground, &["statement_timeout = '100ms'"]).await;
    let count = ground.scaled(600_000, 2_000_000);
    scene
        .sql(&format!(
            "insert into graphile_worker._private_tasks (identifier) values ('of_others');
             insert into graphile_worker._private_jobs (task_id, run_at)
             select (select id from graphile_worker._private_tasks where identifier = 'of_others'), now() - interval '1 day'
             from generate_series(1, {count})"
        ))
        .await;
    scene.add(100, 10).await;
    let begun = Instant::now();
    scene.start("a");
    scene.until_finished(100).await;
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    scene.sql("delete from graphile_worker._private_jobs where run_at < now() - interval '1 hour'").await;
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = format!("behind {count} ready jobs of a task that nobody serves");
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
