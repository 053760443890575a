//! What a worker does beside running jobs: heartbeats, rescue, and the sweep of stale locks.
//!
//! The heartbeat has a thread, a connection and a loop of its own: neither a job that blocks its thread, nor one that uses
//! up the pool, nor a write that waits for a lock may make the worker look dead. Each heartbeat has a limit; when one is not
//! answered, the next is sent on a new connection, and if that works the old connections are known to be dead.
//!
//! **Whose missed heartbeats count.** Others are declared dead only by a worker that would have seen them: one that has been in
//! *contact* with the storage itself for as long as they were missing. When the storage was away for everybody, nobody could
//! send a heartbeat, and all get the time to send one again. A worker that has just started has heard nobody yet, and waits as
//! long, whatever ends it. (The storage adds to this what it knows, such as that it was started only just now, or that a worker asks for
//! a longer time.)
//!
//! All loops only ever wait and call the storage, and each call is whole or not at all, so they may be dropped at any moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::events::{Event, Events};
use super::lease::{Lease, sent_now};
use super::reachability::Reachability;
use super::status::Status;
use crate::error::{Error, Result};
use crate::storage::{Consumer, GuardedCalls, Registration, Storage, Watch, WorkerId, WorkerStatus};

/// So many expired documents are forgotten at a time.
const SWEEP_AT_ONCE: u32 = 10_000;
/// Graphile's schedule for the sweep: the first within a minute.
const FIRST_SWEEP_WITHIN: Duration = Duration::from_secs(60);
/// A look after others that has not been answered for this long never will be. It may read the whole table.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// Who the worker is at present.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub worker: Arc<WorkerId>,
    pub lease: Lease,
}

/// When heartbeats are sent, and what missing ones mean.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub(super) heartbeat_interval: Duration,
    pub(super) dead_after: Duration,
    /// Stale locks are looked for once between these.
    pub(super) sweep: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            sweep: (Duration::from_secs(480), Duration::from_secs(600)),
        }
    }
}

/// What the heartbeats bring to light.
#[derive(Debug)]
pub(super) enum News {
    /// Others have declared this worker dead.
    Evicted(Arc<WorkerId>),
    /// The storage itself was taken away.
    Gone(Error),
}

/// A worker to be registered, as the first heartbeat.
struct Register {
    worker: Arc<WorkerId>,
    tasks: Arc<[String]>,
    answer: oneshot::Sender<Result<bool>>,
}

/// Asks for the first heartbeat of a worker, which opens the connection of all later ones.
#[derive(Clone, Debug)]
pub(super) struct Registrar(mpsc::UnboundedSender<Register>);

impl Registrar {
    /// See [`Consumer::register`].
    pub(super) async fn register(&self, worker: &Arc<WorkerId>, tasks: &Arc<[String]>) -> Result<bool> {
        let (answer, answered) = oneshot::channel();
        let wanted = Register { worker: Arc::clone(worker), tasks: Arc::clone(tasks), answer };
        let none = || Error::Internal("heartbeats cannot be sent".to_owned());
        self.0.send(wanted).map_err(|_| none())?;
        answered.await.map_err(|_| none())?
    }
}

/// The maintenance of one worker. Dropping it ends it.
pub(super) struct Maintenance {
    calls: GuardedCalls,
    timing: Timing,
    events: Events,
    contact: watch::Receiver<Reachability>,
    under_way: CancellationToken,
    registrar: Registrar,
    /// Cancelled when no heartbeats are sent any more.
    thread_ended: CancellationToken,
    _end_heartbeats: DropGuard,
}

impl Maintenance {
    /// Starts to send heartbeats, once the engine has [registered](Self::registrar) the worker, and a little later or when the worker
    /// is [under way](Self::under_way).
    pub(super) fn start(
        calls: GuardedCalls,
        storage: &Arc<dyn Storage>,
        identity: watch::Receiver<Identity>,
        timing: Timing,
        status: Option<Status>,
        events: Events,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let under_way = CancellationToken::new();
        let (contact_tx, contact) = watch::channel(Reachability::begins(timing.heartbeat_interval));
        let (registrar, registrations) = mpsc::unbounded_channel();
        let heartbeats = Heartbeats {
            registrations,
            dead_after: timing.dead_after,
            calls: calls.clone(),
            identity,
            under_way: under_way.clone(),
            every: timing.heartbeat_interval,
            status,
            told: None,
            events: events.clone(),
            news,
            contact: contact_tx,
        };
        let end = CancellationToken::new();
        let (ended, storage) = (end.clone(), Arc::clone(storage));
        let thread_ended = CancellationToken::new();
        let ending = thread_ended.clone().drop_guard();
        // Not one of the runtime's threads for blocking work: there may be none left.
        let thread = std::thread::Builder::new().name("backfill-heartbeats".to_owned()).spawn(move || {
            // Dropped at the end, however that comes.
            let _ending = ending;
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "heartbeats cannot be sent");
                    return;
                }
            };
            // It takes its handles to the storage along, so that they are gone when the end is told.
            runtime.block_on(async move {
                // Connections belong to the runtime that opened them.
                let own = storage.consumer();
                drop(storage);
                tokio::select! {
                    () = heartbeats.send(&*own) => {}
                    () = ended.cancelled() => {}
                }
            });
            // Whatever a dead connection still waits for is not waited for.
            runtime.shutdown_background();
        });
        if let Err(error) = thread {
            tracing::error!(%error, "heartbeats cannot be sent");
        }
        let registrar = Registrar(registrar);
        Self { calls, timing, events, contact, under_way, registrar, thread_ended, _end_heartbeats: end.drop_guard() }
    }

    /// To register the worker, before anything is claimed.
    pub(super) fn registrar(&self) -> Registrar {
        self.registrar.clone()
    }

    /// Cancelled when the thread of the heartbeats has ended, and holds nothing of the storage any more.
    pub(super) fn thread_ended(&self) -> CancellationToken {
        self.thread_ended.clone()
    }

    /// To be cancelled when the worker has made its beginning.
    pub(super) fn under_way(&self) -> CancellationToken {
        self.under_way.clone()
    }

    /// Runs until it is dropped; ends only if no heartbeats can be sent.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.thread_ended.cancelled() => {}
            () = look_after_others(&self.calls, &self.timing, &self.events, &self.contact) => {}
        }
    }
}

struct Heartbeats {
    registrations: mpsc::UnboundedReceiver<Register>,
    dead_after: Duration,
    calls: GuardedCalls,
    identity: watch::Receiver<Identity>,
    under_way: CancellationToken,
    every: Duration,
    /// What to tell of it, if anything.
    status: Option<Status>,
    /// What was told last, and as whom.
    told: Option<(Arc<WorkerId>, WorkerStatus)>,
    events: Events,
    news: mpsc::UnboundedSender<News>,
    contact: watch::Sender<Reachability>,
}

impl Heartbeats {
    /// Answers whether the worker is registered now.
    async fn register(&self, storage: &dyn Consumer, wanted: Register) -> bool {
        let Register { worker, tasks, mut answer } = wanted;
        let registration = Registration::new(&worker, &tasks).dead_after(self.dead_after);
        let registered = tokio::select! {
            registered = storage.register(&registration) => registered,
            // It took too long, perhaps on a connection that is dead.
            () = answer.closed() => {
                storage.reconnect();
                return false;
            }
        };
        let is_registered = matches!(registered, Ok(true));
        if is_registered {
            self.contact.send_replace(Reachability::begins(self.every));
        }
        // If nobody waits for the answer any more, the row is left behind, and is swept up with those of the dead.
        answer.send(registered).is_ok() && is_registered
    }

    async fn send(mut self, storage: &dyn Consumer) {
        // The connection of the heartbeats is the first of all, so whoever is registered has it. It is given up for a new one only.
        let registered = loop {
            let Some(wanted) = self.registrations.recv().await else { return };
            let worker = Arc::clone(&wanted.worker);
            if self.register(storage, wanted).await {
                break worker;
            }
        };
        let _ = self.identity.wait_for(|identity| identity.worker == registered).await;
        // Registering was a heartbeat too, so the next one need not be in the way of the first jobs.
        let _ = timeout(self.every / 10, self.under_way.cancelled()).await;
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A heartbeat was not answered, and none has been since.
        let mut suspicious = false;
        loop {
            tick.tick().await;
            let Identity { worker, lease } = self.identity.borrow_and_update().clone();
            // The second try, on a new connection, tells a dead connection from a storage that is away.
            for _ in 0..2 {
                let sent = sent_now();
                match timeout(self.every / 2, storage.heartbeat(&worker)).await {
                    Ok(Ok(known)) => {
                        self.contact.send_modify(Reachability::heard);
                        if std::mem::take(&mut suspicious) && self.calls.storage().reconnect() {
                            self.calls.cut();
                        }
                        if known {
                            lease.extend(sent);
                            self.report(storage, &worker).await;
                        } else {
                            lease.end();
                            // Nobody hears it any more when the worker is at its end, and then it does not matter.
                            let _ = self.news.send(News::Evicted(Arc::clone(&worker)));
                        }
                        break;
                    }
                    Ok(Err(error)) => {
                        self.failed(&error.to_string());
                        if error.is_gone() {
                            lease.end();
                            // As above.
                            let _ = self.news.send(News::Gone(error));
                        }
                        break;
                    }
                    Err(_) => {
                        suspicious = true;
                        storage.reconnect();
                        self.failed(&format!("no answer for {:?}", self.every / 2));
                    }
                }
            }
        }
    }

    /// Tells what the worker does, if that is not what it told last. Only people need it, so it may fail.
    async fn report(&mut self, storage: &dyn Consumer, worker: &Arc<WorkerId>) {
        let told = self.status.as_ref().map(|status| (Arc::clone(worker), status.now()));
        if self.told == told {
            return;
        }
        let Some((_, status)) = &told else { return };
        match timeout(self.every / 4, storage.report(worker, status)).await {
            Ok(Ok(())) => self.told = told,
            Ok(Err(error)) => tracing::debug!(%error, "could not tell what this worker does"),
            Err(_) => {
                tracing::debug!("could not tell what this worker does: no answer");
                storage.reconnect();
            }
        }
    }

    fn failed(&self, error: &str) {
        tracing::warn!(error, "could not send a heartbeat");
        self.events.tell(|| Event::HeartbeatFailed { error: error.to_owned() });
    }
}

/// Frees the jobs of dead workers, and locks that are stale.
async fn look_after_others(
    calls: &GuardedCalls,
    timing: &Timing,
    events: &Events,
    contact: &watch::Receiver<Reachability>,
) {
    let mut tick = interval(timing.heartbeat_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (least, most) = timing.sweep;
    let mut next_sweep = Instant::now() + FIRST_SWEEP_WITHIN.min(most).mul_f64(fastrand::f64());
    loop {
        tick.tick().await;
        let lasts = contact.borrow().lasts();
        if lasts >= timing.dead_after {
            let watch = Watch::new(timing.dead_after).contact(lasts);
            match calls.call(LOOK_TIMEOUT, calls.storage().rescue(&watch)).await {
                Ok(rescued) => {
                    for dead in rescued {
                        tracing::warn!(
                            worker = dead.worker,
                            jobs = dead.jobs,
                            "worker missed its heartbeats; released its jobs"
                        );
                        events.tell(|| Event::Rescued { worker: dead.worker, jobs: dead.jobs });
                    }
                }
                Err(error) => tracing::warn!(%error, "could not look for dead workers"),
            }
        }
        if Instant::now() >= next_sweep {
            match calls.call(LOOK_TIMEOUT, calls.storage().release_stale()).await {
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
            // What jobs have put out is forgotten when its time is over.
            if let Some(messages) = calls.storage().messages() {
                loop {
                    match calls.call(LOOK_TIMEOUT, messages.sweep_documents(SWEEP_AT_ONCE)).await {
                        Ok(gone) if gone >= u64::from(SWEEP_AT_ONCE) => {}
                        Ok(_) => break,
                        Err(error) => {
                            tracing::warn!(%error, "expired documents could not be forgotten");
                            break;
                        }
                    }
                }
            }
            next_sweep = Instant::now() + least + most.saturating_sub(least).mul_f64(fastrand::f64());
        }
    }
}
