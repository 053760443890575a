//! The one loop that decides.
//!
//! It owns everything that runs: the jobs (a `JoinSet`), the claims in flight, the settler, the maintenance. Each turn it
//! starts claimed jobs in free slots, asks for more if more may be there, and then waits for whatever comes first.
//!
//! Its state is in parts. Each knows its own deadline: the next moment at which it has something to do.
//!
//! | file | what is there |
//! | --- | --- |
//! | `slots` | what runs, and what the worker holds |
//! | `buffer` | what is claimed ahead, and waits for a slot |
//! | `jobs` | starting jobs, and what becomes of them |
//! | `decision` | whether to ask for more, and for how many: a pure function, whose answer has a reason |
//! | `claims` | the claims in flight, and when the next one may be sent |
//! | `claiming` | asking for jobs |
//! | `claimed` | what they answer |
//! | `queues` | how many serial queues there are, and how many of them are held |
//! | `news` | what wakeups and written results change |
//! | `looks` | when to look again although nothing tells |
//! | `handoff` | when to offer to receive jobs, and what becomes of them |
//! | `registration` | who the worker is: registering, and what becomes of it when it was declared dead |
//! | `work` | which tasks it runs, and how many jobs at once, when that changes |
//! | `results` | the way to the settler |
//! | `ending` | shutdown, and the last writes |

mod buffer;
mod claimed;
mod claiming;
mod claims;
mod decision;
mod ending;
mod handoff;
mod jobs;
mod looks;
mod news;
mod queues;
mod registration;
mod results;
mod slots;
mod work;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::builder::Options;
use super::events::{Event, Events};
use super::maintenance::{Identity, Maintenance, News};
use super::settler::Summary;
use super::shutdown::{Stage, on_signals};
use super::status::Status;
use super::{ShutdownHandle, Worker};
use crate::client::BackfillClient;
use crate::cron::{CronEntry, Scheduler};
use crate::error::{Error, Result};
use crate::storage::{GuardedCalls, Wakeup, WorkerId};
use crate::task::Chain;
use buffer::Buffer;
use claims::Claims;
pub use decision::Hold;
use ending::Ending;
use handoff::Handoffs;
use jobs::RELEASE_AFTER;
use looks::Looks;
use queues::Queues;
use registration::{Registered, begin};
use results::Results;
use slots::Slots;
use work::CurrentWork;

/// How long the end of a worker waits for the thread of its heartbeats.
const HEARTBEATS_END: Duration = Duration::from_secs(1);

/// When the engine ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    UntilShutdown,
    UntilIdle,
}

impl Mode {
    /// A new identity for a worker of this kind.
    pub(super) fn identity(self) -> WorkerId {
        match self {
            Self::UntilShutdown => WorkerId::random(),
            Self::UntilIdle => WorkerId::random_one_time(),
        }
    }
}

pub(super) struct Engine {
    client: BackfillClient,
    /// The storage with connections of the worker's own, which the user's code cannot use up.
    calls: GuardedCalls,
    middleware: Chain,
    crontab: Vec<CronEntry>,
    options: Options,
    mode: Mode,
    events: Events,

    work: CurrentWork,
    registration: Registered,
    slots: Slots,
    buffer: Buffer,
    claims: Claims,
    queues: Queues,
    handoff: Handoffs,
    looks: Looks,
    results: Results,
    status: Status,

    shutdown: watch::Receiver<Stage>,
    handle: ShutdownHandle,
    ending: Option<Ending>,
    failure: Option<Error>,
}

impl Engine {
    pub(super) fn new(worker: &Worker, mode: Mode) -> Self {
        let calls = GuardedCalls::to(worker.client.storage().consumer());
        let work = CurrentWork::new(worker.work.subscribe());
        let registration = Registered::new(mode, worker.options.timing.dead_after, Arc::clone(&work.now.names));
        Self {
            client: worker.client.clone(),
            results: Results::begin(&calls, &worker.events),
            status: Status::new(worker.work.subscribe(), &worker.options.forbidden_flags),
            calls,
            middleware: worker.middleware.clone(),
            crontab: worker.crontab.clone(),
            options: worker.options.clone(),
            mode,
            events: worker.events.clone(),
            work,
            registration,
            slots: Slots::default(),
            buffer: Buffer::new(),
            claims: Claims::new(),
            queues: Queues::default(),
            handoff: Handoffs::new(),
            looks: Looks::new(worker.options.poll_interval),
            shutdown: worker.shutdown.subscribe(),
            handle: worker.shutdown.clone(),
            ending: None,
            failure: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<Summary> {
        let handle = self.options.handle_signals.then(|| self.handle.clone());
        let same_for = self.options.second_signal_after;
        let signal_events = self.events.clone();
        let signals = async move {
            match handle {
                Some(handle) => on_signals(handle, &signal_events, same_for).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(signals);
        let (news_tx, news) = mpsc::unbounded_channel();
        let maintenance = Maintenance::start(
            self.calls.clone(),
            self.client.storage(),
            self.registration.identities.subscribe(),
            self.options.timing,
            Some(self.status.clone()),
            self.events.clone(),
            news_tx,
        );
        self.registration.under_way = maintenance.under_way();
        let registrar = maintenance.registrar();
        let thread_ended = maintenance.thread_ended();
        let first = Arc::clone(&self.registration.worker);
        let begun = tokio::select! {
            begun = begin(&self.calls, &registrar, &self.work.now.names, first, self.mode) => begun.map(Some),
            () = &mut signals => Ok(None),
            _ = self.shutdown.wait_for(|stage| *stage > Stage::Run) => Ok(None),
        };
        let begun = begun.map(|registered| {
            if let Some((worker, sent)) = registered {
                // To register may have taken long.
                self.registration.lease.extend(sent);
                self.registration.worker = Arc::clone(&worker);
                self.registration.identities.send_replace(Identity { worker, lease: self.registration.lease.clone() });
            }
        });
        match begun {
            Ok(()) => self.events.tell(|| Event::Started {
                worker: Arc::clone(&self.registration.worker),
                storage: self.calls.storage().name(),
                tasks: self.work.now.names.to_vec(),
                concurrency: self.work.now.concurrency,
            }),
            Err(error) => self.fail(error),
        }
        let crontab = self.run_crontab();
        let events = self.events.clone();
        let name = self.calls.storage().name();
        // Maintenance and signals go on until the last result is written: meanwhile others must not declare us dead, and a
        // second signal must be heard.
        let ended = tokio::select! {
            ended = async { self.turn(news).await.end().await } => ended,
            () = maintenance.run() => Err(Error::Internal("the worker's maintenance ended".to_owned())),
            () = signals => Err(Error::Internal("signal handling ended".to_owned())),
            () = crontab => Err(Error::Internal("the crontab's scheduler ended".to_owned())),
        };
        // Whoever closes the storage next finds no worker in it any more.
        let _ = tokio::time::timeout(HEARTBEATS_END, thread_ended.cancelled()).await;
        ended
            .inspect(|Summary { completed, failed, dead, snoozed, interrupted, released, stale }| {
                tracing::info!(
                    completed,
                    failed,
                    dead,
                    snoozed,
                    interrupted,
                    released,
                    stale,
                    storage = name,
                    "the worker has ended"
                );
            })
            .inspect(|summary| events.tell(|| Event::Ended { summary: Some(*summary), error: None }))
            .inspect_err(|error| events.tell(|| Event::Ended { summary: None, error: Some(error.to_string()) }))
    }

    /// Adds what the crontab says, until the worker shuts down. Never ends.
    fn run_crontab(&mut self) -> impl Future<Output = ()> + use<> {
        let entries = std::mem::take(&mut self.crontab);
        let wanted = self.mode == Mode::UntilShutdown && !entries.is_empty();
        let events = self.events.clone();
        let scheduler = Scheduler {
            calls: self.calls.clone(),
            entries,
            clock: self.client.clock().clone(),
            max_payload_bytes: self.client.max_payload_bytes(),
            report: Box::new(move |event| events.tell(|| Event::Cron(event))),
        };
        let mut shutdown = self.handle.subscribe();
        async move {
            if wanted {
                tokio::select! {
                    // Boxed, because it is large and most workers have no crontab.
                    () = Box::pin(scheduler.run()) => {}
                    _ = shutdown.wait_for(|stage| *stage > Stage::Run) => {}
                }
            }
            std::future::pending::<()>().await;
        }
    }

    /// Turns until everything has ended.
    async fn turn(mut self, mut news: mpsc::UnboundedReceiver<News>) -> Self {
        let listen = self.options.listen && self.mode == Mode::UntilShutdown;
        let mut wakeups = if listen {
            self.calls.storage().wakeups(Some(self.handoff.offers()))
        } else {
            futures::stream::pending().boxed()
        };
        // Whoever asked before the loop was there to hear it.
        let stage = *self.shutdown.borrow_and_update();
        self.shut_down(stage);
        let mut listens = false;
        loop {
            self.start_waiting();
            self.release_unheard();
            self.await_lease();
            self.claim_if_useful();
            self.status.runs(self.slots.running.len());
            self.offer_if_idle();
            if self.is_over() {
                return self;
            }
            // To begin to listen costs both sides a connection and many exchanges. The first claim does not wait for those.
            listens |= self.claims.is_empty();
            if listens && !listen {
                self.registration.under_way.cancel();
            }
            let deadline = self.next_deadline();
            tokio::select! {
                Some(ended) = self.slots.running.join_next_with_id(), if !self.slots.running.is_empty() => {
                    self.ended(ended);
                    while let Some(ended) = self.slots.running.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                Some(answer) = self.claims.in_flight.next(), if !self.claims.is_empty() => self.claimed(answer),
                wakeup = next_wakeup(&mut wakeups), if listens => self.wake(wakeup),
                Some(written) = self.results.written.recv() => self.written(written),
                Some(news) = news.recv() => match news {
                    News::Evicted(worker) => self.evicted(&worker),
                    News::Gone(error) => self.gone(error),
                },
                (worker, sent, registered) = in_flight(&mut self.registration.registering) => self.registered(worker, sent, registered),
                released = in_flight(&mut self.handoff.releasing) => self.released(released),
                Ok(()) = self.work.next.changed() => self.work_changed(),
                () = in_flight(&mut self.registration.telling) => self.registration.telling = None,
                changed = self.shutdown.changed() => {
                    if changed.is_ok() {
                        let stage = *self.shutdown.borrow_and_update();
                        self.shut_down(stage);
                    }
                }
                () = tokio::time::sleep_until(deadline) => self.on_deadline(),
            }
        }
    }

    /// When the first of the parts has something to do.
    fn next_deadline(&self) -> Instant {
        let goes_on = self.ending.is_none();
        [
            self.ending.as_ref().map(|ending| ending.deadline(&self.slots)),
            self.buffer.deadline(self.options.prefetch.as_ref()),
            self.slots.deadline(),
            self.claims.deadline(),
            self.looks.deadline().filter(|_| goes_on),
            self.handoff.deadline().filter(|_| goes_on),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| Instant::now() + self.options.poll_interval)
    }

    fn on_deadline(&mut self) {
        let now = Instant::now();
        if self.looks.on_deadline(now, self.mode) {
            self.look();
        }
        self.claims.on_deadline(now);
        if self.buffer.deadline(self.options.prefetch.as_ref()).is_some_and(|time| now >= time) {
            self.release_overdue(now);
        }
        if self.slots.deadline().is_some_and(|time| now >= time) {
            self.release_rests(now.checked_sub(RELEASE_AFTER));
            self.slots.rests_were_released();
        }
        self.further_the_end(now);
    }
}

/// The future in flight, or never. It stays where it is when this is dropped, so nothing of it is lost; once it has
/// answered, its owner takes it away.
async fn in_flight<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_wakeup(wakeups: &mut BoxStream<'static, Wakeup>) -> Wakeup {
    match wakeups.next().await {
        Some(wakeup) => wakeup,
        None => std::future::pending().await,
    }
}
