//! Who the worker is: how it is registered, and what becomes of it when others declared it dead.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::events::Event;
use super::super::lease::{Lease, Sent, sent_now};
use super::super::maintenance::{Identity, Registrar};
use super::claiming::{FIRST_CLAIM_DELAY, LEASE_PAUSE, MAX_CLAIM_DELAY};
use super::work::Telling;
use super::{Engine, Mode};
use crate::error::{Error, FailureKind, Result};
use crate::storage::{GuardedCalls, Registration, WorkerId};

/// Registering that has not been answered for this long never will be.
pub(super) const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Who the worker is at present.
pub(super) struct Registered {
    pub worker: Arc<WorkerId>,
    pub identities: watch::Sender<Identity>,
    pub registering: Option<Registering>,
    /// Cancelled when the first claim is answered, and it is known whether the listener hears: then the heartbeats begin.
    pub under_way: CancellationToken,
    /// How long others take this identity for alive.
    pub lease: Lease,
    /// The tasks that the worker has registered with, or told since.
    pub told_tasks: Arc<[String]>,
    pub telling: Option<Telling>,
}

impl Registered {
    pub fn new(mode: Mode, dead_after: Duration, tasks: Arc<[String]>) -> Self {
        let worker = Arc::new(mode.identity());
        let lease = Lease::new(dead_after, sent_now());
        Self {
            identities: watch::Sender::new(Identity { worker: Arc::clone(&worker), lease: lease.clone() }),
            worker,
            registering: None,
            under_way: CancellationToken::new(),
            lease,
            told_tasks: tasks,
            telling: None,
        }
    }
}

/// A new identity on its way to be registered, and when that was asked for.
pub(super) type Registering = BoxFuture<'static, (Arc<WorkerId>, Sent, Result<bool>)>;

impl Engine {
    /// Others declared this worker dead and released what it held. Its results no longer count (the fence sees to that),
    /// so its jobs are asked to end, and the worker goes on as somebody else.
    pub(super) fn evicted(&mut self, worker: &Arc<WorkerId>) {
        if *worker != self.registration.worker || self.registration.registering.is_some() {
            return;
        }
        if self.ending.is_some() {
            // No new identity is needed any more.
            if !self.slots.cancel.is_cancelled() {
                tracing::error!(%worker, "lease expired while the worker ends: other workers took over its jobs; cancelling them here");
                self.slots.cancel.cancel();
            }
            return;
        }
        let new = Arc::new(self.mode.identity());
        tracing::error!(
            was = %worker, now = %new, running = self.slots.running.len(),
            "lease expired: other workers took over this worker's jobs; cancelling them here"
        );
        self.events.tell(|| Event::Evicted { was: Arc::clone(worker), now: Arc::clone(&new) });
        self.slots.cancel.cancel();
        self.release_waiting();
        let (calls, tasks, dead_after) =
            (self.calls.clone(), Arc::clone(&self.work.now.names), self.options.timing.dead_after);
        self.registration.told_tasks = Arc::clone(&tasks);
        self.registration.registering = Some(Box::pin(async move {
            let sent = sent_now();
            let registration = Registration::new(&new, &tasks).dead_after(dead_after);
            let registered = calls.call(REGISTER_TIMEOUT, calls.storage().register(&registration)).await;
            (new, sent, registered)
        }));
    }

    pub(super) fn registered(&mut self, new: Arc<WorkerId>, sent: Sent, registered: Result<bool>) {
        self.registration.registering = None;
        match registered {
            Ok(true) => {
                self.slots.cancel = Arc::default();
                // Whatever the old identity held was released by those who declared it dead.
                self.slots.held.clear();
                self.queues.free(0, true);
                self.handoff.begin_anew();
                self.registration.worker = Arc::clone(&new);
                self.registration.lease = Lease::new(self.options.timing.dead_after, sent);
                self.registration
                    .identities
                    .send_replace(Identity { worker: new, lease: self.registration.lease.clone() });
                self.tell_tasks();
                self.look();
            }
            Err(error) if error.is_gone() => self.gone(error),
            // A run that ends when idle tells what fails, and does not wait for better times.
            Err(error) if self.mode == Mode::UntilIdle => self.fail(error),
            // In both cases the maintenance will notice again, and another identity is chosen.
            Ok(false) => tracing::warn!(worker = %new, "this identity is somebody's already; choosing another"),
            Err(error) => tracing::warn!(%error, "the new identity could not be registered; trying again"),
        }
    }
}

impl Engine {
    /// A run that ends when idle claims only while its lease lasts, too: what it claimed without could not be started, would be released,
    /// and claimed again at once. After as long again it fails, as it does when it cannot claim: nobody may be there to restart
    /// what its heartbeats go to.
    pub(super) fn await_lease(&mut self) {
        if self.mode != Mode::UntilIdle
            || !self.claims.more
            || self.ending.is_some()
            || self.registration.registering.is_some()
        {
            return;
        }
        let Some(over) = self.registration.lease.over_for() else { return };
        if over > self.options.timing.dead_after {
            let quiet = over + self.options.timing.dead_after;
            self.fail(Error::storage(
                "send this worker's heartbeats",
                FailureKind::Unknown,
                format!("there was no answer for {quiet:?}"),
            ));
            return;
        }
        let again = Instant::now() + LEASE_PAUSE;
        self.claims.not_before = Some(self.claims.not_before.map_or(again, |earliest| earliest.max(again)));
    }
}

/// Registers tasks and worker, waiting for the storage as long as it takes (or failing at once, in a run that ends). Answers the
/// identity under which the worker is registered (another one if the first is taken), and when that was asked for. It may be taken by
/// ourselves, through a try whose answer was lost; then a row is left behind that holds nothing, and is swept up with those of the
/// dead.
pub(super) async fn begin(
    calls: &GuardedCalls,
    registrar: &Registrar,
    tasks: &Arc<[String]>,
    mut worker: Arc<WorkerId>,
    mode: Mode,
) -> Result<(Arc<WorkerId>, Sent)> {
    let mut delay = FIRST_CLAIM_DELAY;
    let mut first_try = true;
    let storage = calls.storage();
    loop {
        let register = async {
            let sent = sent_now();
            Ok(registrar.register(&worker, tasks).await?.then_some(sent))
        };
        // To register opens the connection of the heartbeats. The first claim needs another one: a question that asks nothing opens it
        // meanwhile. Whatever comes of it, nobody waits for it; and where there may be room for one only, it is not asked again.
        let open_another = async {
            if first_try {
                let _ = storage.now().await;
            }
            std::future::pending().await
        };
        let begun = async {
            tokio::select! {
                biased;
                registered = register => registered,
                never = open_another => never,
            }
        };
        match calls.call(REGISTER_TIMEOUT, begun).await {
            Ok(Some(sent)) => return Ok((worker, sent)),
            Ok(None) => {
                tracing::warn!(%worker, "this identity is somebody's already; choosing another");
                worker = Arc::new(mode.identity());
            }
            Err(error) if mode == Mode::UntilShutdown && error.is_transient() => {
                tracing::warn!(%error, ?delay, "the worker cannot start yet; trying again");
                first_try = false;
                storage.reconnect();
                tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(MAX_CLAIM_DELAY);
            }
            Err(error) => return Err(error),
        }
    }
}
