//! What a worker does beside running jobs: signs of life, rescue, and the sweep of stale locks.
//!
//! The sign of life has a loop of its own with a limit on each call: nothing else may delay it. Both loops only ever wait
//! and call the storage, and each call is whole or not at all, so they may be dropped at any moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::builder::Options;
use crate::storage::{PoolId, Storage};

/// Graphile's schedule for the sweep: the first within a minute, then every eight to ten (eight, and up to two more).
const FIRST_SWEEP_WITHIN: Duration = Duration::from_secs(60);
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_secs(480), Duration::from_secs(120));

/// Runs until it is dropped.
pub(super) async fn run(
    storage: Arc<dyn Storage>,
    pool: watch::Receiver<Arc<PoolId>>,
    options: Options,
    evicted: mpsc::UnboundedSender<Arc<PoolId>>,
) {
    tokio::join!(show_signs(&*storage, pool, &options, evicted), look_after_others(&*storage, &options));
}

/// Shows the sign of life. The engine has registered the pool before it claimed anything.
async fn show_signs(
    storage: &dyn Storage,
    mut pool: watch::Receiver<Arc<PoolId>>,
    options: &Options,
    evicted: mpsc::UnboundedSender<Arc<PoolId>>,
) {
    let mut tick = interval(options.sign_of_life);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let current = Arc::clone(&pool.borrow_and_update());
        match timeout(options.sign_of_life, storage.show_presence(&current, false)).await {
            Ok(Ok(true)) => {}
            // Nobody hears it any more when the worker is at its end, and then it does not matter.
            Ok(Ok(false)) => drop(evicted.send(current)),
            Ok(Err(error)) => tracing::warn!(%error, "the sign of life could not be shown"),
            Err(_) => tracing::warn!("the sign of life was not answered in time"),
        }
    }
}

/// Frees the jobs of pools that fell silent, and locks that are stale.
async fn look_after_others(storage: &dyn Storage, options: &Options) {
    let mut tick = interval(options.sign_of_life);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_sweep = Instant::now() + FIRST_SWEEP_WITHIN.mul_f64(fastrand::f64());
    loop {
        tick.tick().await;
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
