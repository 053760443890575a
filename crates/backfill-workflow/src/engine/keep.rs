//! Keeping things going: heartbeats, deadlines, delays, and the work of dead processes.
//!
//! An executor says three times in each lease that it lives. If it was not heard of for the whole of it, others put its workflows back into their
//! queues, and its own writes are refused from then on. Nobody does that who was not in contact for half a lease: after an outage all leases have lapsed, and those
//! who live must have had the time to say so. A process that stood still is no better: it is not in contact either, until it has written a heartbeat.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::core::Core;
use crate::error::Result;
use crate::options::millis;
use crate::store::{Filter, Held, Ms, Status, Transition};

/// How often delays and deadlines are looked at, besides when one is known to be due.
const SWEEP: Duration = Duration::from_secs(1);
/// What was stored or claimed a moment ago may not have begun yet.
const GRACE: Duration = Duration::from_secs(2);
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
    *core.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    for (held, status) in beat.lost {
        // What ended a moment ago is no longer here, or ends by itself.
        core.steered(&held.run, Some(&held.owner), status == Some(Status::Cancelled));
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
    let mut beats = 0_u32;
    while closed.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let work = async {
            if let Err(error) = core.set_clock().await.and(beat(&core).await) {
                tracing::warn!(%error, "a heartbeat could not be written; if this goes on, others take over");
            }
            cancelled(&core, &mut since).await;
            beats += 1;
            if beats.is_multiple_of(3) {
                reconcile(&core).await;
            }
        };
        closed.run_until_cancelled(work).await;
    }
}

/// Puts back what is this process's by its row, and does not run here: a claim whose answer was lost, say. The lease would keep it for ever.
async fn reconcile(core: &Core) {
    // The moment first: whatever begins after the look at what runs here is younger.
    let before = core.now() - millis((core.settings.lease / 3).max(GRACE));
    let transition = Transition::Reconcile { executor: core.settings.executor.clone(), owners: core.owners(), before };
    match core.store.transition(&transition).await {
        Ok(moved) if !moved.is_empty() => {
            tracing::warn!(count = moved.len(), "workflows that should run here and did not are put back");
            for queue in moved.into_iter().filter_map(|one| one.queue) {
                core.wake_queue(&queue);
            }
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the next look finds them"),
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
                check(core, &run.id).await;
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
    // By both clocks: one of them stands still while the machine sleeps.
    let mut last = (Instant::now(), SystemTime::now());
    let longest = SWEEP * 2 + lease / 6;
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
        let gap = last.0.elapsed().max(last.1.elapsed().unwrap_or_default());
        if gap > longest {
            contact = Instant::now();
        }
        let beaten = *core.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        let in_contact = contact.elapsed() >= lease / 2 && beaten.is_some_and(|beaten| beaten >= contact);
        let recover = in_contact && recovered.elapsed() >= lease / 6;
        // Before the sweep: one that stood still is a gap as well.
        last = (Instant::now(), SystemTime::now());
        let swept = sweep(&core, recover).await;
        match swept {
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
        core.steered(&moved.id, moved.owner.as_deref(), true);
    }
    let except = core.settings.executor.clone();
    // Who has said that it ends is not waited for.
    let moved = core.store.transition(&Transition::RecoverLapsed { except, retired: !recover }).await?;
    if !moved.is_empty() {
        tracing::info!(count = moved.len(), "workflows of executors that are gone are put back");
    }
    queues.extend(moved.into_iter().filter_map(|one| one.queue));
    for queue in queues {
        core.wake_queue(&queue);
    }
    Ok(())
}
