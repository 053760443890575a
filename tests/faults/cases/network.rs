//! What happens between a worker and a healthy server.

use std::time::Duration;

use tokio::time::sleep;

use super::{Ground, three_workers};
use crate::proxy::Way;
use crate::scene::Outcome;

/// Survives by: retries.
pub async fn every_connection_is_reset(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let rounds = ground.scaled(10, 60);
    scene.add(rounds * 40, 300).await;
    three_workers(&mut scene).await;
    for _ in 0..rounds {
        scene.proxy.cut();
        sleep(Duration::from_millis(300)).await;
    }
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the sign of life on a new connection, which proves the old ones dead (`storage/line.rs`).
pub async fn connections_die_without_a_word(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(500, 500).await;
    three_workers(&mut scene).await;
    scene.proxy.kill_silently();
    scene.outage_is_over();
    // What was running finishes; nothing new can start until the dead connections are given up.
    sleep(Duration::from_secs(1)).await;
    let before = scene.started().await;
    let begun = std::time::Instant::now();
    scene.until_started(before + 1).await;
    let recovered = begun.elapsed() + Duration::from_secs(1);
    assert!(recovered < Duration::from_secs(15), "new connections within the lease: {recovered:?}");
    scene.recovered = Some(recovered);
    scene.remark = "recovery is up to the first new start".to_owned();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the same, and by not taking anybody for dead right after an outage for all.
pub async fn nothing_passes_for_longer_than_the_lease(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(600, 500).await;
    three_workers(&mut scene).await;
    scene.proxy.set(Way::Stalled);
    sleep(ground.seconds(20, 60)).await;
    scene.proxy.set(Way::Open);
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: settlements that may be sent twice, and the release of claims whose answer was lost.
pub async fn answers_are_lost(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let rounds = ground.scaled(5, 20);
    scene.add(rounds * 60, 200).await;
    three_workers(&mut scene).await;
    for _ in 0..rounds {
        scene.proxy.set(Way::Mute);
        sleep(Duration::from_millis(300)).await;
        scene.proxy.cut();
        scene.proxy.set(Way::Open);
        sleep(Duration::from_millis(700)).await;
    }
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "whether a commit was acknowledged makes no difference");
    outcome
}

pub async fn everything_is_slow(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.proxy.set(Way::Slow(Duration::from_millis(200)));
    scene.add(150, 100).await;
    three_workers(&mut scene).await;
    let before = scene.memory();
    scene.add(500, 0).await;
    scene.until_finished(650).await;
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 20, "memory stays bounded: {grown} MiB more");
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = "200 ms each way".to_owned();
    outcome
}
