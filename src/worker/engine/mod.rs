//! The one loop that decides.
//!
//! It owns everything that runs: the jobs (a `JoinSet`), the claims in flight, the settler, the maintenance. Each turn it
//! starts claimed jobs in free slots, asks for more if more may be there, and then waits for whatever comes first.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `jobs` | starting jobs, and what becomes of them |
//! | `claiming` | when to ask for more, and for how many |
//! | `handoff` | when to offer to receive jobs, and what becomes of them |
//! | `identity` | who the worker is: registering, and what becomes of it when it was declared dead |
//! | `tasks` | which tasks it runs, when that changes |
//! | `ending` | shutdown, and the last writes |

mod claiming;
mod ending;
mod handoff;
mod identity;
mod jobs;
mod tasks;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::builder::Options;
use super::events::{Event, Events};
use super::lease::{Lease, sent_now};
use super::maintenance::{Identity, Maintenance, News};
use super::pace::Pace;
use super::settler::{Backlog, Finished, Settler, Summary, Written};
use super::shutdown::{Stage, on_signals};
use super::tasks::Tasks;
use super::{ShutdownHandle, Worker};
use crate::client::BackfillClient;
use crate::cron::{CronEntry, Scheduler};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::storage::{ClaimToken, Line, Wakeup, WorkerId};
use crate::task::{Chain, Handler};
use claiming::{Claims, FIRST_CLAIM_DELAY, FIRST_PAUSE};
use ending::Ending;
use handoff::Handoffs;
use identity::{Registering, begin};
use jobs::{Ended, RELEASE_AFTER, Started, Waiting};
use tasks::Telling;

/// How many moments at which jobs become ready are remembered; polling finds the others.
const MAX_DUE: usize = 1_000;

/// By numbers that nobody chooses to do harm, hashed in a fifth of the standard time: there are several looks for each job.
type ByNumber<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

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
    line: Line,
    handlers: Arc<HashMap<String, Arc<Handler>>>,
    middleware: Chain,
    tasks: Arc<[String]>,
    /// The tasks that have a limit of their own.
    limited: Vec<(String, usize)>,
    /// The others: jobs of these may be handed off at any moment.
    offered: Arc<[String]>,
    /// What these are to be.
    task_sets: watch::Receiver<Arc<Tasks>>,
    /// Those that the worker has registered with.
    registered_with: Arc<[String]>,
    telling: Option<Telling>,
    crontab: Vec<CronEntry>,
    options: Options,
    mode: Mode,
    events: Events,

    worker: Arc<WorkerId>,
    identities: watch::Sender<Identity>,
    registering: Option<Registering>,
    /// Cancelled when the first claim is answered, and it is known whether the listener hears: then the heartbeats begin.
    under_way: CancellationToken,
    /// How long others take this identity for alive.
    lease: Lease,
    /// Cancelled for the jobs of the present identity.
    cancel: Arc<CancellationToken>,
    /// Drops the jobs' futures.
    drop_jobs: Arc<CancellationToken>,

    running: JoinSet<Ended>,
    started: ByNumber<Id, Started>,
    /// What the present identity has claimed and is not yet known to be written, with the claim: a job may
    /// be claimed again before the news of its last result is here.
    held: ByNumber<JobId, ClaimToken>,
    /// Claimed and waiting for a slot.
    waiting: VecDeque<Waiting>,
    /// Of their payloads.
    waiting_bytes: usize,
    waiting_since: Instant,
    /// When to look for runs of serial queues that take longer than was expected, and to release the rest of each.
    rests_back_at: Option<Instant>,
    /// Prefetched jobs waited for too long; nothing is prefetched until a job has ended.
    prefetch_rests: bool,
    /// How many jobs the last claim asked for.
    asked_for: usize,
    /// How many jobs were announced since.
    announced: u64,
    /// How many announced jobs end the delay of a refetch.
    abort_refetch_delay_at: Option<u64>,

    claims: Claims,
    handoff: Handoffs,
    /// Whether a claim may find something.
    more: bool,
    /// A wakeup came while a claim was in flight, which may not have seen what it announces.
    woken: bool,
    /// Since this moment, a claim whose answer was lost may take jobs that we do not know of.
    doubt_since: Option<Instant>,
    /// When to look for such jobs again.
    next_doubt: Instant,
    /// No claim before this moment: the last one failed, or found only what others were holding.
    claim_not_before: Option<Instant>,
    claim_delay: Duration,
    pause: Duration,
    pace: Pace,
    next_poll: Instant,
    /// The storage may have passed jobs by, and finds them then.
    rescan_at: Option<Instant>,
    /// Moments at which jobs of ours are known to become ready.
    due: BTreeSet<Instant>,

    results: mpsc::UnboundedSender<Finished>,
    /// How many bytes are in the results that are not written yet.
    backlog: Backlog,
    written: mpsc::UnboundedReceiver<Written>,
    settler: JoinHandle<(Summary, usize)>,
    give_up: CancellationToken,

    shutdown: watch::Receiver<Stage>,
    handle: ShutdownHandle,
    ending: Option<Ending>,
    failure: Option<Error>,
}

impl Engine {
    pub(super) fn new(worker: &Worker, mode: Mode) -> Self {
        let line = Line::to(worker.client.storage().consumer());
        let (results, finished) = mpsc::unbounded_channel();
        let (written_tx, written) = mpsc::unbounded_channel();
        let give_up = CancellationToken::new();
        let backlog = Backlog::default();
        let events = worker.events.clone();
        let settler = Settler::new(line.clone(), finished, written_tx, give_up.clone(), events, backlog.clone());
        let mut task_sets = worker.tasks.subscribe();
        let tasks = Arc::clone(&task_sets.borrow_and_update());
        let id = Arc::new(mode.identity());
        let now = Instant::now();
        let lease = Lease::new(worker.options.dead_after, sent_now());
        Self {
            client: worker.client.clone(),
            line,
            handlers: Arc::clone(&tasks.handlers),
            middleware: worker.middleware.clone(),
            tasks: Arc::clone(&tasks.names),
            limited: tasks.limited.clone(),
            offered: Arc::clone(&tasks.offered),
            task_sets,
            registered_with: Arc::clone(&tasks.names),
            telling: None,
            crontab: worker.crontab.clone(),
            options: worker.options.clone(),
            mode,
            events: worker.events.clone(),
            identities: watch::Sender::new(Identity { worker: Arc::clone(&id), lease: lease.clone() }),
            worker: id,
            registering: None,
            under_way: CancellationToken::new(),
            lease,
            cancel: Arc::default(),
            drop_jobs: Arc::default(),
            running: JoinSet::new(),
            started: ByNumber::default(),
            held: ByNumber::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waiting_since: now,
            rests_back_at: None,
            prefetch_rests: false,
            asked_for: 0,
            announced: 0,
            abort_refetch_delay_at: None,
            claims: Claims::default(),
            handoff: Handoffs::new(),
            more: true,
            woken: false,
            doubt_since: None,
            next_doubt: now,
            claim_not_before: None,
            claim_delay: FIRST_CLAIM_DELAY,
            pause: FIRST_PAUSE,
            pace: Pace::default(),
            next_poll: now,
            rescan_at: None,
            due: BTreeSet::new(),
            results,
            backlog,
            written,
            settler: tokio::spawn(settler.run()),
            give_up,
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
            self.line.clone(),
            self.client.storage(),
            self.identities.subscribe(),
            self.options.clone(),
            self.events.clone(),
            news_tx,
        );
        self.under_way = maintenance.under_way();
        let registrar = maintenance.registrar();
        let first = Arc::clone(&self.worker);
        let begun = tokio::select! {
            begun = begin(&self.line, &registrar, &self.tasks, first, self.mode) => begun.map(Some),
            () = &mut signals => Ok(None),
            _ = self.shutdown.wait_for(|stage| *stage > Stage::Run) => Ok(None),
        };
        let begun = begun.map(|registered| {
            if let Some((worker, sent)) = registered {
                // To register may have taken long.
                self.lease.extend(sent);
                self.worker = Arc::clone(&worker);
                self.identities.send_replace(Identity { worker, lease: self.lease.clone() });
            }
        });
        match begun {
            Ok(()) => self.events.tell(|| Event::Started {
                worker: Arc::clone(&self.worker),
                storage: self.line.storage().name(),
                tasks: self.tasks.to_vec(),
                concurrency: self.options.concurrency,
            }),
            Err(error) => self.fail(error),
        }
        let crontab = self.run_crontab();
        let events = self.events.clone();
        let name = self.line.storage().name();
        // Maintenance and signals go on until the last result is written: meanwhile others must not declare us dead, and a
        // second signal must be heard.
        tokio::select! {
            ended = async { self.turn(news).await.end().await } => ended,
            () = maintenance.run() => Err(Error::Internal("the worker's maintenance ended".to_owned())),
            () = signals => Err(Error::Internal("signal handling ended".to_owned())),
            () = crontab => Err(Error::Internal("the crontab's scheduler ended".to_owned())),
        }
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
            line: self.line.clone(),
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
            self.line.storage().wakeups(Some(self.handoff.offers()))
        } else {
            futures::stream::pending().boxed()
        };
        self.schedule_poll();
        // Whoever asked before the loop was there to hear it.
        let stage = *self.shutdown.borrow_and_update();
        self.shut_down(stage);
        let mut listens = false;
        loop {
            self.start_waiting();
            self.release_unheard();
            self.await_lease();
            self.claim_if_useful();
            self.offer_if_idle();
            if self.is_over() {
                return self;
            }
            // To begin to listen costs both sides a connection and many exchanges. The first claim does not wait for those.
            listens |= self.claims.is_empty();
            if listens && !listen {
                self.under_way.cancel();
            }
            let alarm = self.next_alarm();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    self.ended(ended);
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                Some(answer) = self.claims.in_flight.next(), if !self.claims.is_empty() => self.claimed(answer),
                wakeup = next_wakeup(&mut wakeups), if listens => self.wake(wakeup),
                Some(written) = self.written.recv() => self.written(written),
                Some(news) = news.recv() => match news {
                    News::Evicted(worker) => self.evicted(&worker),
                    News::Gone(error) => self.gone(error),
                },
                (worker, sent, registered) = in_flight(&mut self.registering) => self.registered(worker, sent, registered),
                released = in_flight(&mut self.handoff.releasing) => self.released(released),
                Ok(()) = self.task_sets.changed() => self.tasks_changed(),
                () = in_flight(&mut self.telling) => self.telling = None,
                changed = self.shutdown.changed() => {
                    if changed.is_ok() {
                        let stage = *self.shutdown.borrow_and_update();
                        self.shut_down(stage);
                    }
                }
                () = tokio::time::sleep_until(alarm) => self.alarm(),
            }
        }
    }

    fn wake(&mut self, wakeup: Wakeup) {
        self.under_way.cancel();
        match wakeup {
            Wakeup::JobsAdded(count) => {
                self.events.tell(|| Event::Notified { count });
                self.announced(count);
            }
            Wakeup::Listening => {
                tracing::debug!("listening for wakeups");
                self.events.tell(|| Event::Listening);
                self.look();
            }
            Wakeup::HandedOff(handoff) => self.handed_off(*handoff),
            Wakeup::ListenerLost { reason } => {
                self.handoff.listener_lost();
                self.events.tell(|| Event::ListenerLost { reason: reason.clone() });
                tracing::warn!(reason, poll_interval = ?self.options.poll_interval, "not listening; polling meanwhile");
            }
            Wakeup::BreakingMigration { revision, supported } => {
                self.events.tell(|| Event::BreakingMigration { revision });
                tracing::error!(revision, "the schema was migrated beyond what this version knows; shutting down");
                self.fail(Error::BreakingMigration { storage: self.line.storage().name(), revision, supported });
            }
        }
    }

    fn written(&mut self, written: Written) {
        match written {
            Written::Batch { claims, freed_queue } => {
                for (job, token) in claims {
                    if self.held.get(&job) == Some(&token) {
                        self.held.remove(&job);
                    }
                }
                // The queue's next job is ready now, and nobody is notified of that. And a run that ends when idle has
                // nobody to tell it what its jobs have added.
                if freed_queue || self.mode == Mode::UntilIdle {
                    self.look();
                }
                if freed_queue && std::mem::take(&mut self.claims.awaits_queues) {
                    self.claim_not_before = None;
                }
            }
            Written::Due(due) => {
                self.due.insert(Instant::from_std(due));
                if self.due.len() > MAX_DUE {
                    self.due.pop_last();
                }
            }
            Written::Gone(error) => self.gone(error),
        }
    }

    // --- time ---------------------------------------------------------------------------------------------------

    fn next_alarm(&self) -> Instant {
        let ending = self.ending.as_ref().map(|ending| {
            if !self.cancel.is_cancelled() {
                ending.cancel
            } else if !self.drop_jobs.is_cancelled() {
                ending.drop
            } else {
                ending.abandon
            }
        });
        let release_at = self.release_at();
        let poll = (self.ending.is_none()).then_some(self.next_poll);
        let claim = self.claim_not_before.filter(|_| self.more && self.claims.is_empty());
        let due = self.due.first().copied().filter(|_| self.ending.is_none());
        let again = self.rescan_at.filter(|_| self.ending.is_none());
        let handoff = self.handoff.alarm().filter(|_| self.ending.is_none());
        [ending, release_at, self.rests_back_at, poll, claim, due, again, handoff]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.options.poll_interval)
    }

    fn alarm(&mut self) {
        let now = Instant::now();
        if now >= self.next_poll {
            self.schedule_poll();
            // A run that ends when idle has looked already; a poll must not keep it alive.
            if self.mode == Mode::UntilShutdown {
                self.look();
            }
        }
        while self.due.first().is_some_and(|due| now >= *due) {
            self.due.pop_first();
            self.look();
        }
        if self.rescan_at.is_some_and(|time| now >= time) {
            self.rescan_at = None;
            self.look();
        }
        if self.claim_not_before.is_some_and(|earliest| now >= earliest) {
            self.claim_not_before = None;
            self.abort_refetch_delay_at = None;
        }
        if self.release_at().is_some_and(|time| now >= time) {
            tracing::debug!(jobs = self.waiting.len(), "jobs claimed ahead could not start in time; releasing them");
            self.pace.forget();
            if let Some(prefetch) = self.options.prefetch {
                self.prefetch_rests = true;
                let (old, rest): (VecDeque<Waiting>, VecDeque<Waiting>) =
                    self.waiting.drain(..).partition(|waiting: &Waiting| now >= waiting.since + prefetch.ttl);
                self.waiting = rest;
                self.waiting_bytes -= old.iter().map(Waiting::bytes).sum::<usize>();
                self.release_unstarted(old);
            } else {
                self.release_waiting();
            }
        }
        if self.rests_back_at.is_some_and(|time| now >= time) {
            self.release_rests(now.checked_sub(RELEASE_AFTER));
            let rests = self.started.values().filter(|started| !started.rest.is_empty());
            self.rests_back_at = rests.map(|started| started.since + RELEASE_AFTER).min();
        }
        self.further_the_end(now);
    }

    /// When jobs that wait inside the worker have waited for too long.
    fn release_at(&self) -> Option<Instant> {
        match self.options.prefetch {
            Some(prefetch) => self.waiting.iter().map(|waiting| waiting.since + prefetch.ttl).min(),
            None => (!self.waiting.is_empty()).then(|| self.waiting_since + RELEASE_AFTER),
        }
    }

    fn schedule_poll(&mut self) {
        self.next_poll = Instant::now() + self.options.poll_interval.mul_f64(0.9 + fastrand::f64() / 5.0);
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
