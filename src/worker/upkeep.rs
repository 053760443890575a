//! What a worker does beside running jobs: signs of life, rescue, and the sweep of stale locks.
//!
//! The sign of life has a loop of its own with a limit on each call: nothing else may delay it. Both loops only ever wait
//! and call the storage, and each call is whole or not at all, so they may be dropped at any moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::builder::Options;
use super::events::{Event, Events};
use crate::storage::{PoolId, Storage};

/// Graphile's schedule for the sweep: the first within a minute.
const FIRST_SWEEP_WITHIN: Duration = Duration::from_secs(60);

/// Runs until it is dropped.
pub(super) async fn run(
    storage: Arc<dyn Storage>,
    pool: watch::Receiver<Arc<PoolId>>,
    options: Options,
    events: Events,
    evicted: mpsc::UnboundedSender<Arc<PoolId>>,
) {
    tokio::join!(
        show_signs(&*storage, pool, &options, &events, evicted),
        look_after_others(&*storage, &options, &events)
    );
}

/// Shows the sign of life. The engine has registered the pool before it claimed anything.
async fn show_signs(
    storage: &dyn Storage,
    mut pool: watch::Receiver<Arc<PoolId>>,
    options: &Options,
    events: &Events,
    evicted: mpsc::UnboundedSender<Arc<PoolId>>,
) {
    let mut tick = interval(options.sign_of_life);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let current = Arc::clone(&pool.borrow_and_update());
        let error = match timeout(options.sign_of_life, storage.show_presence(&current, false)).await {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => {
                // Nobody hears it any more when the worker is at its end, and then it does not matter.
                let _ = evicted.send(current);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer for {:?}", options.sign_of_life),
        };
        tracing::warn!(error, "the sign of life could not be shown");
        events.tell(|| Event::SignOfLifeFailed { error });
    }
}

/// Frees the jobs of pools that fell silent, and locks that are stale.
async fn look_after_others(storage: &dyn Storage, options: &Options, events: &Events) {
    let mut tick = interval(options.sign_of_life);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (least, most) = options.sweep;
    let mut next_sweep = Instant::now() + FIRST_SWEEP_WITHIN.min(most).mul_f64(fastrand::f64());
    loop {
        tick.tick().await;
        match storage.rescue(options.dead_after).await {
            Ok(rescued) => {
                for pool in rescued {
                    tracing::warn!(pool = pool.pool, jobs = pool.jobs, "a worker pool fell silent; its jobs are free");
                    events.tell(|| Event::Rescued { pool: pool.pool, jobs: pool.jobs });
                }
            }
            Err(error) => tracing::warn!(%error, "silent worker pools could not be looked for"),
        }
        if Instant::now() >= next_sweep {
            match storage.release_stale().await {
                Ok(jobs) => {
                    if jobs > 0 {
                        tracing::warn!(jobs, "released jobs that were locked for more than four hours");
                    }
                    events.tell(|| Event::Swept { jobs });
                }
                Err(error) => {
                    tracing::warn!(%error, "stale locks could not be looked for");
                    events.tell(|| Event::SweepFailed { error: error.to_string() });
                }
            }
            next_sweep = Instant::now() + least + most.saturating_sub(least).mul_f64(fastrand::f64());
        }
    }
}
