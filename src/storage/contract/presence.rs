//! Cases about signs of life.

use std::time::Duration;

use super::{Subject, add, claim, must_read, spec};
use crate::storage::PoolId;

/// Nobody is silent for as little as no time at all, unless time has passed since the sign.
async fn let_time_pass() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// What a silent pool held is free, with its attempt used and the reason told; its queue too.
pub async fn silent_pools_are_rescued(storage: Subject) {
    let (dead, alive) = (PoolId::random(), PoolId::random());
    assert!(storage.show_presence(&dead, true).await.expect("presence"));
    add(&storage, vec![spec().serial_queue("q"), spec(), spec().serial_queue("q")]).await;
    let held = claim(&storage, &dead, 2).await;
    assert_eq!(held.len(), 2);
    let_time_pass().await;
    let rescued = storage.rescue(Duration::from_millis(1)).await.expect("rescue");
    assert_eq!(rescued.len(), 1);
    assert_eq!((rescued[0].pool.as_str(), rescued[0].jobs), (dead.as_str(), 2));
    for job in &held {
        let job = must_read(&storage, job.id).await;
        assert_eq!((job.attempts, job.locked_by), (1, None));
        assert!(job.last_error.is_some_and(|text| text.contains(dead.as_str())));
    }
    assert_eq!(claim(&storage, &alive, 10).await.len(), 2);
    assert!(storage.rescue(Duration::from_millis(1)).await.expect("rescue").is_empty(), "once is enough");
}

/// Only registered pools can be silent.
pub async fn pools_that_show_signs_of_life_or_never_registered_are_left_alone(storage: Subject) {
    let (alive, foreign, stopped) = (PoolId::random(), PoolId::random(), PoolId::random());
    storage.show_presence(&alive, true).await.expect("presence");
    storage.show_presence(&stopped, true).await.expect("presence");
    storage.withdraw_presence(&stopped).await.expect("withdraw");
    add(&storage, vec![spec(), spec(), spec()]).await;
    for pool in [&alive, &foreign, &stopped] {
        assert_eq!(claim(&storage, pool, 1).await.len(), 1);
    }
    let_time_pass().await;
    assert!(storage.rescue(Duration::from_secs(60)).await.expect("rescue").is_empty());
    assert!(storage.show_presence(&alive, false).await.expect("presence"));
    assert_eq!(storage.counts().await.expect("counts").running, 3);
}

/// A pool that was taken for dead finds out at its next sign.
pub async fn a_rescued_pool_learns_it(storage: Subject) {
    let pool = PoolId::random();
    storage.show_presence(&pool, true).await.expect("presence");
    assert!(storage.show_presence(&pool, false).await.expect("presence"));
    let_time_pass().await;
    storage.rescue(Duration::from_millis(1)).await.expect("rescue");
    assert!(!storage.show_presence(&pool, false).await.expect("presence"));
    assert!(storage.show_presence(&PoolId::random(), true).await.expect("a new identity"));
}
