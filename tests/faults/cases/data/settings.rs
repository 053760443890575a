//! Settings of a role and of the database, and clocks.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use tokio::time::sleep;

use super::super::{Ground, three_workers};
use crate::scene::Outcome;
use crate::worker::{How, Work};

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
