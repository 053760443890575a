//! What a worker does beside running jobs: signs of life, rescue, and the sweep of stale locks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::builder::Options;
use crate::storage::{PoolId, Storage};

/// Graphile's schedule for the sweep: the first within a minute, then every eight to ten (eight, and up to two more).
const FIRST_SWEEP_WITHIN: Duration = Duration::from_secs(60);
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_secs(480), Duration::from_secs(120));

/// Runs until it is dropped. It only ever waits and calls the storage, and each call is whole or not at all, so it may be
/// dropped at any moment.
pub(super) async fn run(
    storage: Arc<dyn Storage>,
    mut pool: watch::Receiver<Arc<PoolId>>,
    options: Options,
    evicted: mpsc::UnboundedSender<Arc<PoolId>>,
) {
    let mut next_sweep = Instant::now() + FIRST_SWEEP_WITHIN.mul_f64(fastrand::f64());
    let mut tick = tokio::time::interval(options.sign_of_life);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The engine has registered the pool before it claimed anything.
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // A new identity was registered by the engine; nothing to do but to use it from now on.
            changed = pool.changed() => if changed.is_err() { return },
        }
        let current = Arc::clone(&pool.borrow_and_update());
        match storage.show_presence(&current, false).await {
            Ok(true) => {}
            Ok(false) => {
                if evicted.send(current).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the sign of life could not be shown"),
        }
        match storage.rescue(options.dead_after).await {
            Ok(rescued) => {
                for pool in rescued {
                    tracing::warn!(pool = pool.pool, jobs = pool.jobs, "a worker pool fell silent; its jobs are free");
                }
            }
            Err(error) => tracing::warn!(%error, "silent worker pools could not be looked for"),
        }
        if Instant::now() >= next_sweep {
            match storage.release_stale().await {
                Ok(0) => {}
                Ok(jobs) => tracing::warn!(jobs, "released jobs that were locked for more than four hours"),
                Err(error) => tracing::warn!(%error, "stale locks could not be looked for"),
            }
            let (least, spread) = SWEEP_EVERY;
            next_sweep = Instant::now() + least + spread.mul_f64(fastrand::f64());
        }
    }
}
