//! Faults that meet jobs which are being handed off: stored as claimed by a worker that hears of it only then.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use tokio::time::sleep;

use super::Ground;
use crate::cluster::Stop;
use crate::scene::{Outcome, Scene};
use crate::support::LISTENS;
use crate::worker::{How, Work};

/// How often a single job is added.
const EVERY: Duration = Duration::from_millis(15);
/// Within this time jobs of a worker that died or lost its listener are free.
const FREE_WITHIN: Duration = Duration::from_secs(25);

/// Starts workers that offer to take jobs.
async fn idle(scene: &mut Scene, names: &[&str]) {
    for name in names {
        scene.start(name);
        let listening = format!("exists (select from told where what = 'listening' and worker = '{name}')");
        scene.until(&format!("{name} listens"), &listening).await;
    }
}

/// Adds single short jobs for this long, while something else is done; tells how many were handed off. What cannot be added was
/// not accepted.
async fn while_adding(scene: &mut Scene, time: Duration, other: impl AsyncFnOnce(&mut Scene)) -> usize {
    let client = scene.client.clone();
    let adding = tokio::spawn(async move {
        let begun = Instant::now();
        let mut added = Vec::new();
        while begun.elapsed() < time {
            let work = Work { ms: 5, how: How::Sleep, pad: String::new() };
            if let Ok(job) = client.add(JobSpec::new("work", work)).await {
                added.push(job);
            }
            sleep(EVERY).await;
        }
        added
    });
    other(scene).await;
    let added = adding.await.expect("no panic");
    scene.accept(added.iter().map(|job| job.id.number()));
    let handed_off = added.iter().filter(|job| job.locked_by.is_some()).count();
    scene.remark = format!("{handed_off} of {} jobs were handed off", added.len());
    handed_off
}

/// Waits until all is done, in time.
async fn until_free(scene: &Scene, what: &str) {
    let begun = Instant::now();
    scene.until_answered(what, "select (count(*) = 0)::int::bigint from graphile_worker._private_jobs").await;
    assert!(begun.elapsed() < FREE_WITHIN, "{what}: {:?}", begun.elapsed());
}

/// Survives by: the end of the offer with its session (`postgres/handoff`), and rescue of what was handed off a moment before.
pub async fn workers_are_killed_while_jobs_are_handed_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    idle(&mut scene, &["a", "b"]).await;
    let rounds = ground.scaled(3, 12);
    let handed_off = while_adding(&mut scene, Duration::from_secs(2 * rounds + 1), async |scene| {
        for round in 0..rounds {
            sleep(Duration::from_secs(2)).await;
            let victim = scene.names().into_iter().min().expect("a worker");
            scene.kill(&victim).await;
            scene.start(&format!("c{round}"));
        }
    })
    .await;
    assert!(handed_off > 20, "{handed_off}");
    until_free(&scene, "what the last one held is rescued").await;
    scene.end().await
}

/// Survives by: rescue, and by handing only one job at a time off to each worker (`postgres/handoff`).
pub async fn a_worker_is_stopped_while_jobs_are_handed_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    idle(&mut scene, &["a", "b"]).await;
    let handed_off = while_adding(&mut scene, Duration::from_secs(25), async |scene| {
        sleep(Duration::from_secs(2)).await;
        scene.signal("a", "STOP").await;
        scene.hits("a");
        sleep(Duration::from_secs(22)).await;
        // All but the one that may have been handed off to it, and what it ran, are long done.
        let held = scene
            .ask(
                "select count(*) from graphile_worker._private_jobs
                 where created_at between now() - interval '20 s' and now() - interval '1 s'",
            )
            .await;
        assert_eq!(held, 0, "others run what comes meanwhile, and what it held was rescued");
        scene.signal("a", "CONT").await;
    })
    .await;
    assert!(handed_off > 20, "{handed_off}");
    until_free(&scene, "the rest").await;
    let outcome = scene.end().await;
    // What it ran at that moment, of one client, is one job.
    assert!(outcome.starts <= outcome.jobs + 1, "what was handed off to it while it was stopped starts elsewhere only");
    outcome
}

/// Survives by: releasing what is held unknown when the listener was lost (`worker/engine/handoff.rs`).
pub async fn the_listener_is_terminated_while_jobs_are_handed_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    idle(&mut scene, &["a"]).await;
    let rounds = ground.scaled(15, 60);
    let handed_off = while_adding(&mut scene, Duration::from_millis(200 * rounds), async |scene| {
        for _ in 0..rounds {
            sleep(Duration::from_millis(200)).await;
            scene.sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {LISTENS}")).await;
        }
        scene.hits("a");
    })
    .await;
    // How many depends on how fast the machine is.
    assert!(handed_off > 0, "{handed_off}");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the listener's loopback checks, and then the same.
pub async fn the_listener_dies_without_a_word_while_jobs_are_handed_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    idle(&mut scene, &["a"]).await;
    let handed_off = while_adding(&mut scene, Duration::from_secs(6), async |scene| {
        sleep(Duration::from_secs(2)).await;
        let port = scene.ask(&format!("select client_port::bigint from pg_stat_activity where {LISTENS}")).await;
        scene.proxy.kill_one_silently(port.try_into().expect("a port"));
        scene.hits("a");
    })
    .await;
    assert!(handed_off > 20, "{handed_off}");
    until_free(&scene, "what was handed off unheard is released").await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the same; and what was handed off is as durable as what was added.
pub async fn the_server_crashes_while_jobs_are_handed_off(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    idle(&mut scene, &["a", "b"]).await;
    let rounds = ground.scaled(2, 6);
    let handed_off = while_adding(&mut scene, Duration::from_secs(4 * rounds), async |scene| {
        for _ in 0..rounds {
            sleep(Duration::from_secs(2)).await;
            scene.subject.stop(Stop::Immediate).await;
            scene.subject.start().await;
            scene.outage_is_over();
        }
    })
    .await;
    assert!(handed_off > 20, "{handed_off}");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}
