//! Keeping things going: heartbeats, deadlines, delays, and the work of dead processes.
//!
//! An executor says three times in each lease that it lives. If it was not heard of for the whole of it, others put its workflows back into their
//! queues, and its own writes are refused from then on. Nobody does that who was not in contact for half a lease: after an outage all leases have lapsed, and those
//! who live must have had the time to say so.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::Core;
use crate::error::Result;
use crate::options::millis;
use crate::store::{Filter, Held, Ms, Status, Transition};

/// How often delays and deadlines are looked at, besides when one is known to be due.
const SWEEP: Duration = Duration::from_secs(1);
/// How many executions one heartbeat asks about. With more, each has its turn.
const ASKED: usize = 2000;

/// Says that this process lives.
pub(super) async fn beat(core: &Core) -> Result<()> {
    let mut held = core.held();
    if held.len() > ASKED {
        let start = fastrand::usize(..held.len());
        held.rotate_left(start);
        held.truncate(ASKED);
    }
    ask(core, &held).await
}

async fn ask(core: &Core, held: &[Held]) -> Result<()> {
    let beat = core.store.beat(&core.settings.executor, millis(core.settings.lease), held).await?;
    for (id, status) in beat.lost {
        // What ended a moment ago is no longer here, or ends by itself.
        core.steered(&id, status == Some(Status::Cancelled));
    }
    Ok(())
}

/// Looks at one workflow that somebody has touched.
pub(super) async fn check(core: &Core, id: &str) {
    let held: Vec<Held> = core.held().into_iter().filter(|held| held.run == id).collect();
    if let Err(error) = ask(core, &held).await {
        tracing::debug!(%error, "the next heartbeat asks again");
    }
}

/// Says again and again that this process lives.
pub(super) async fn heartbeats(core: Arc<Core>) {
    let interval = core.settings.lease / 3;
    let closed = core.closed.clone();
    let mut since = 0;
    while closed.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let work = async {
            if let Err(error) = core.set_clock().await.and(beat(&core).await) {
                tracing::warn!(%error, "a heartbeat could not be written; if this goes on, others take over");
            }
            cancelled(&core, &mut since).await;
        };
        closed.run_until_cancelled(work).await;
    }
}

/// Looks for cancellations by programs that send no news of them.
async fn cancelled(core: &Core, since: &mut Ms) {
    if core.running() <= ASKED {
        // The heartbeat has asked about each.
        return;
    }
    let now = core.now();
    let from = if *since == 0 { now - millis(core.settings.lease) } else { *since - 1000 };
    let filter = Filter { statuses: vec![Status::Cancelled], completed_from: Some(from), ..Filter::default() };
    match core.store.runs(&filter).await {
        Ok(runs) => {
            *since = now;
            for run in runs {
                core.steered(&run.id, true);
            }
        }
        Err(error) => tracing::debug!(%error, "the next heartbeat looks again"),
    }
}

/// Moves what is due, cancels what is beyond its deadline, and takes over from dead processes.
pub(super) async fn sweeps(core: Arc<Core>) {
    let closing = core.closing.clone();
    let lease = core.settings.lease;
    let mut contact = Instant::now();
    let mut recovered = Instant::now();
    loop {
        let due = u64::try_from(core.due.load(Ordering::Acquire).saturating_sub(core.now())).unwrap_or(0);
        let pause = SWEEP.mul_f64(0.9 + 0.2 * fastrand::f64()).min(Duration::from_millis(due.max(1)));
        let waited = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = core.sweep.notified() => {}
            }
        };
        if closing.run_until_cancelled(waited).await.is_none() {
            return;
        }
        let recover = contact.elapsed() >= lease / 2 && recovered.elapsed() >= lease / 6;
        match sweep(&core, recover).await {
            Ok(()) if recover => recovered = Instant::now(),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "what is due could not be looked at; it is with the next sweep");
                contact = Instant::now();
            }
        }
    }
}

async fn sweep(core: &Core, recover: bool) -> Result<()> {
    if core.due.load(Ordering::Acquire) <= core.now() {
        core.due.store(Ms::MAX, Ordering::Release);
    }
    let mut queues = HashSet::new();
    for moved in core.store.transition(&Transition::Release).await? {
        queues.extend(moved.queue);
    }
    for moved in core.store.transition(&Transition::Expire).await? {
        core.steered(&moved.id, true);
    }
    if recover {
        let moved = core.store.transition(&Transition::RecoverLapsed).await?;
        if !moved.is_empty() {
            tracing::info!(count = moved.len(), "workflows of executors that were not heard of are put back");
        }
        for one in moved {
            core.steered(&one.id, false);
            queues.extend(one.queue);
        }
    }
    for queue in queues {
        core.wake_queue(&queue);
    }
    Ok(())
}
