//! The one loop that decides.
//!
//! It owns everything that runs: the jobs (a `JoinSet`), the claim in flight, the settler, the upkeep. Each turn it
//! starts claimed jobs in free slots, asks for more if more may be there, and then waits for whatever comes first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::builder::Options;
use super::execute::{execute, failed};
use super::pace::Pace;
use super::settler::{Finished, Settler, Summary, Written};
use super::shutdown::{Urgency, on_signals};
use super::upkeep;
use crate::client::BackfillClient;
use crate::error::{Error, Result};
use crate::job::{Job, JobId};
use crate::storage::{ClaimRef, ClaimRequest, Outcome, PoolId, Settlement, Storage, Wakeup};
use crate::task::{Handler, JobContext, RetryPolicy, TaskError};

/// Claimed jobs that have not started within this time are given back: the pace was misjudged.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(500);
/// No claims while more results than this (plus what can run) wait to be written.
const MAX_UNWRITTEN: usize = 5_000;
/// How long a dropped job may take to unwind, and how long a hurried shutdown lasts.
const HURRY: Duration = Duration::from_secs(1);
/// How long results may take to be written after the last job ended, at the least.
const WRITE_GRACE: Duration = Duration::from_secs(5);
/// The delays between tries to claim while the storage fails.
const FIRST_CLAIM_DELAY: Duration = Duration::from_millis(100);
const MAX_CLAIM_DELAY: Duration = Duration::from_secs(5);

/// When the engine ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    UntilShutdown,
    UntilIdle,
}

/// A job that was started.
struct Started {
    job: Arc<Job>,
    pool: Arc<PoolId>,
    handler: Handler,
}

/// The claim in flight: how many were asked for, and what came.
type Claiming = BoxFuture<'static, (usize, Arc<PoolId>, Result<Vec<Job>>)>;

pub(super) struct Engine {
    client: BackfillClient,
    storage: Arc<dyn Storage>,
    handlers: Arc<HashMap<String, Handler>>,
    tasks: Arc<[String]>,
    options: Options,
    mode: Mode,

    pool: Arc<PoolId>,
    pool_changes: watch::Sender<Arc<PoolId>>,
    /// Cancelled for the jobs of the present identity.
    cancel: CancellationToken,
    /// Drops the jobs' futures.
    drop_jobs: CancellationToken,

    running: JoinSet<(Outcome, Duration)>,
    started: HashMap<Id, Started>,
    /// Claimed by the present identity, and not yet known to be written.
    held: HashSet<JobId>,
    /// A claim failed, and may have taken jobs that we do not know of.
    claim_in_doubt: bool,
    /// Claimed and waiting for a slot.
    waiting: VecDeque<(Arc<Job>, Arc<PoolId>)>,
    waiting_since: Instant,
    claiming: Option<Claiming>,
    /// Whether a claim may find something.
    more: bool,
    /// A wakeup came while a claim was in flight, which may not have seen what it announces.
    woken: bool,
    pace: Pace,
    claim_delay: Duration,
    /// No claim before this moment, because the last one failed.
    claim_not_before: Option<Instant>,
    next_poll: Instant,
    /// The earliest moment at which a job of ours is known to become ready.
    next_due: Option<Instant>,

    results: mpsc::UnboundedSender<Finished>,
    written: mpsc::UnboundedReceiver<Written>,
    settler: JoinHandle<(Summary, usize)>,
    give_up: CancellationToken,

    shutdown: watch::Receiver<Urgency>,
    handle: super::ShutdownHandle,
    ending: Option<Ending>,
    failure: Option<Error>,
}

/// A shutdown under way.
struct Ending {
    /// When running jobs are asked to end.
    cancel: Instant,
    /// When their futures are dropped.
    drop: Instant,
    /// When jobs that do not even unwind are abandoned.
    abandon: Instant,
}

impl Engine {
    pub(super) fn new(worker: &Worker, pool: PoolId, mode: Mode) -> Self {
        let storage = Arc::clone(worker.client.storage());
        let (results, finished) = mpsc::unbounded_channel();
        let (written_tx, written) = mpsc::unbounded_channel();
        let give_up = CancellationToken::new();
        let settler = Settler {
            storage: Arc::clone(&storage),
            finished,
            written: written_tx,
            give_up: give_up.clone(),
            summary: Summary::default(),
            unwritten: 0,
        };
        let pool = Arc::new(pool);
        let now = Instant::now();
        Self {
            client: worker.client.clone(),
            storage,
            handlers: Arc::clone(&worker.handlers),
            tasks: worker.handlers.keys().cloned().collect(),
            options: worker.options.clone(),
            mode,
            pool_changes: watch::Sender::new(Arc::clone(&pool)),
            pool,
            cancel: CancellationToken::new(),
            drop_jobs: CancellationToken::new(),
            running: JoinSet::new(),
            started: HashMap::new(),
            held: HashSet::new(),
            claim_in_doubt: false,
            waiting: VecDeque::new(),
            waiting_since: now,
            claiming: None,
            more: true,
            woken: false,
            pace: Pace::default(),
            claim_delay: FIRST_CLAIM_DELAY,
            claim_not_before: None,
            next_poll: now,
            next_due: None,
            results,
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
        let handle = (self.options.handle_signals && self.mode == Mode::UntilShutdown).then(|| self.handle.clone());
        let signals = async move {
            match handle {
                Some(handle) => on_signals(handle).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(signals);
        let begun = tokio::select! {
            begun = begin(&*self.storage, &self.tasks, &self.pool, self.mode) => begun,
            () = &mut signals => Ok(()),
            _ = self.shutdown.wait_for(|urgency| *urgency > Urgency::Run) => Ok(()),
        };
        if let Err(error) = begun {
            self.fail(error);
        }
        let (evicted_tx, evicted) = mpsc::unbounded_channel();
        let upkeep =
            upkeep::run(Arc::clone(&self.storage), self.pool_changes.subscribe(), self.options.clone(), evicted_tx);
        let storage = Arc::clone(&self.storage);
        // The upkeep ends with the loop, not before: while jobs finish, others must not take us for dead.
        tokio::select! {
            engine = self.turn(evicted) => engine.end().await,
            () = upkeep => Err(Error::Internal("the worker's upkeep ended".to_owned())),
            () = signals => Err(Error::Internal("signal handling ended".to_owned())),
        }
        .inspect(|summary| tracing::info!(?summary, storage = storage.name(), "the worker has ended"))
    }

    /// Turns until everything has ended.
    async fn turn(mut self, mut evicted: mpsc::UnboundedReceiver<Arc<PoolId>>) -> Self {
        let listen = self.options.listen && self.mode == Mode::UntilShutdown;
        let mut wakeups = if listen { self.storage.wakeups() } else { futures::stream::pending().boxed() };
        self.schedule_poll();
        loop {
            self.start_waiting();
            self.claim_if_useful();
            if self.is_over() {
                return self;
            }
            let alarm = self.next_alarm();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    self.ended(ended);
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                claimed = in_flight(&mut self.claiming) => self.claimed(claimed),
                wakeup = next_wakeup(&mut wakeups) => self.wake(wakeup),
                Some(written) = self.written.recv() => self.written(&written),
                Some(pool) = evicted.recv() => self.evicted(&pool).await,
                changed = self.shutdown.changed() => {
                    if changed.is_ok() {
                        let urgency = *self.shutdown.borrow_and_update();
                        self.shut_down(urgency);
                    }
                }
                () = tokio::time::sleep_until(alarm) => self.alarm(),
            }
        }
    }

    // --- starting and ending jobs -------------------------------------------------------------------------------

    fn start_waiting(&mut self) {
        while self.running.len() < self.options.concurrency {
            let Some((job, pool)) = self.waiting.pop_front() else { break };
            self.waiting_since = Instant::now();
            let Some(handler) = self.handlers.get(&job.task).cloned() else {
                // Cannot happen: only jobs of our tasks are asked for. If it does, nothing is lost.
                self.settle(&pool, &job, Outcome::Returned);
                continue;
            };
            let ctx = JobContext::new(Arc::clone(&job), self.client.clone(), self.cancel.clone());
            let dropped = self.drop_jobs.clone();
            let started = Started { job: Arc::clone(&job), pool, handler: handler.clone() };
            let task = self.running.spawn(async move {
                let begin = std::time::Instant::now();
                let outcome = execute(&handler, job, ctx, dropped).await;
                (outcome, begin.elapsed())
            });
            self.started.insert(task.id(), started);
        }
    }

    fn ended(&mut self, ended: Result<(Id, (Outcome, Duration)), tokio::task::JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(started) = self.started.remove(&id) else { return };
        let outcome = match result {
            Ok((outcome, took)) => {
                self.pace.job_took(took);
                outcome
            }
            // The guard around the task catches panics; what is left is a panic while its future was dropped.
            Err(error) => failed(
                &started.job,
                started.handler.retry_policy(),
                TaskError::new(format!("the task panicked while it was dropped: {error}")),
            ),
        };
        log_outcome(&started.job, &outcome);
        self.settle(&started.pool, &started.job, outcome);
    }

    fn settle(&self, pool: &Arc<PoolId>, job: &Job, outcome: Outcome) {
        let settlement = Settlement { claim: ClaimRef::of(job), outcome };
        // The settler lives until this sender is dropped, so the send cannot fail.
        let _ = self.results.send(Finished { pool: Arc::clone(pool), settlement });
    }

    /// Gives back jobs that were claimed and have not started.
    fn give_back_waiting(&mut self) {
        while let Some((job, pool)) = self.waiting.pop_front() {
            self.settle(&pool, &job, Outcome::Returned);
        }
    }

    // --- claiming -----------------------------------------------------------------------------------------------

    fn claim_if_useful(&mut self) {
        if self.claiming.is_some() || !self.more || self.ending.is_some() || self.failure.is_some() {
            return;
        }
        let now = Instant::now();
        if self.claim_not_before.is_some_and(|earliest| now < earliest) {
            return;
        }
        let concurrency = self.options.concurrency;
        let full = concurrency + self.pace.ahead(concurrency);
        let have = self.running.len() + self.waiting.len();
        // With slow jobs: whenever a slot is free. With fast ones: when half of what was claimed ahead is used up.
        let useful = have < concurrency || have <= full / 2;
        if !useful || self.held.len() > full + MAX_UNWRITTEN {
            return;
        }
        let limit = full - have;
        let (storage, pool, tasks) = (Arc::clone(&self.storage), Arc::clone(&self.pool), Arc::clone(&self.tasks));
        let in_doubt = self.claim_in_doubt.then(|| self.held.iter().copied().collect::<Vec<JobId>>());
        self.woken = false;
        self.claiming = Some(Box::pin(async move {
            if let Some(held) = in_doubt {
                match storage.release_unknown(&pool, &held).await {
                    Ok(0) => {}
                    Ok(jobs) => tracing::warn!(jobs, "gave back jobs of a claim whose answer was lost"),
                    Err(error) => return (limit, pool, Err(error)),
                }
            }
            let claimed = storage.claim(&ClaimRequest::new(&pool, &tasks, limit)).await;
            (limit, pool, claimed)
        }));
    }

    fn claimed(&mut self, (limit, pool, claimed): (usize, Arc<PoolId>, Result<Vec<Job>>)) {
        self.claiming = None;
        match claimed {
            Ok(jobs) => {
                self.claim_delay = FIRST_CLAIM_DELAY;
                self.claim_not_before = None;
                self.claim_in_doubt = false;
                // Fewer than asked for means that no more are ready, unless serial queues were among them: a queue gives
                // one job per claim, and its next ones may have hidden others.
                self.more = self.woken || jobs.len() >= limit || jobs.iter().any(|job| job.queue.is_some());
                self.held.extend(jobs.iter().map(|job| job.id));
                if self.waiting.is_empty() {
                    self.waiting_since = Instant::now();
                }
                self.waiting.extend(jobs.into_iter().map(|job| (Arc::new(job), Arc::clone(&pool))));
                if self.ending.is_some() {
                    self.give_back_waiting();
                }
            }
            Err(error) if self.mode == Mode::UntilIdle => {
                self.claim_in_doubt = true;
                self.fail(error);
            }
            Err(error) => {
                self.claim_in_doubt = true;
                tracing::warn!(%error, delay = ?self.claim_delay, "jobs could not be claimed; trying again");
                self.claim_not_before = Some(Instant::now() + self.claim_delay.mul_f64(0.5 + fastrand::f64() / 2.0));
                self.claim_delay = (self.claim_delay * 2).min(MAX_CLAIM_DELAY);
            }
        }
    }

    fn wake(&mut self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::JobsAdded(_) => self.look(),
            Wakeup::Listening => {
                tracing::debug!("listening for wakeups");
                self.look();
            }
            Wakeup::Deaf { reason } => {
                tracing::warn!(reason, poll_interval = ?self.options.poll_interval, "not listening; polling meanwhile");
            }
            Wakeup::BreakingMigration { revision } => {
                tracing::error!(revision, "the schema was migrated beyond what this version knows; shutting down");
                self.fail(Error::BreakingMigration {
                    schema: self.storage.name(),
                    revision,
                    supported: crate::storage::postgres::REVISION,
                });
            }
        }
    }

    /// Claims soon, even if a claim in flight finds nothing.
    fn look(&mut self) {
        self.more = true;
        self.woken = true;
    }

    fn written(&mut self, written: &Written) {
        match written {
            // The queue's next job is ready now, and nobody is notified of that. And a run that ends when idle has nobody
            // to tell it what its jobs have added.
            Written::Batch { jobs, freed_queue } => {
                for job in jobs {
                    self.held.remove(job);
                }
                if *freed_queue || self.mode == Mode::UntilIdle {
                    self.look();
                }
            }
            Written::Due(due) => {
                let due = Instant::from_std(*due);
                self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
            }
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
        let give_back = (!self.waiting.is_empty()).then(|| self.waiting_since + GIVE_BACK_AFTER);
        let poll = (self.ending.is_none()).then_some(self.next_poll);
        let claim = self.claim_not_before.filter(|_| self.more && self.claiming.is_none());
        let due = self.next_due.filter(|_| self.ending.is_none());
        [ending, give_back, poll, claim, due]
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
        if self.next_due.is_some_and(|due| now >= due) {
            self.next_due = None;
            self.look();
        }
        if self.claim_not_before.is_some_and(|earliest| now >= earliest) {
            self.claim_not_before = None;
        }
        if !self.waiting.is_empty() && now >= self.waiting_since + GIVE_BACK_AFTER {
            tracing::debug!(jobs = self.waiting.len(), "jobs claimed ahead could not start in time; giving them back");
            self.pace.forget();
            self.give_back_waiting();
        }
        if let Some(ending) = &self.ending {
            if now >= ending.cancel {
                self.cancel.cancel();
            }
            if now >= ending.drop {
                self.drop_jobs.cancel();
            }
        }
    }

    fn schedule_poll(&mut self) {
        self.next_poll = Instant::now() + self.options.poll_interval.mul_f64(0.9 + fastrand::f64() / 5.0);
    }

    // --- identity -----------------------------------------------------------------------------------------------

    /// Others took this pool for dead and released what it held. Its results no longer count (the fence sees to that),
    /// so its jobs are asked to end, and the worker goes on as somebody else.
    async fn evicted(&mut self, pool: &Arc<PoolId>) {
        if *pool != self.pool {
            return;
        }
        let new = Arc::new(match self.mode {
            Mode::UntilShutdown => PoolId::random(),
            Mode::UntilIdle => PoolId::random_one_time(),
        });
        tracing::error!(
            was = %pool, now = %new, running = self.running.len(),
            "this worker was taken for dead; its jobs were released to others and are asked to end here"
        );
        match self.storage.show_presence(&new, true).await {
            Ok(_) => {
                self.cancel.cancel();
                self.cancel = CancellationToken::new();
                self.give_back_waiting();
                // Whatever the old identity held was released by those who took it for dead.
                self.held.clear();
                self.claim_in_doubt = false;
                self.pool = Arc::clone(&new);
                self.pool_changes.send_replace(new);
                self.look();
            }
            // The upkeep will notice again.
            Err(error) => tracing::warn!(%error, "the new identity could not be registered; trying again"),
        }
    }

    // --- the end ------------------------------------------------------------------------------------------------

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.shut_down(Urgency::Graceful);
    }

    fn shut_down(&mut self, urgency: Urgency) {
        let now = Instant::now();
        if urgency == Urgency::Run {
            return;
        }
        let ending = self.ending.get_or_insert_with(|| {
            let drop = now + self.options.grace;
            Ending { cancel: (now + self.options.cancel_after).min(drop), drop, abandon: drop + HURRY }
        });
        if urgency == Urgency::Hurry {
            ending.cancel = now;
            ending.drop = ending.drop.min(now + HURRY);
            ending.abandon = ending.drop + HURRY;
        }
        tracing::info!(running = self.running.len(), waiting = self.waiting.len(), "no more jobs are started");
        self.give_back_waiting();
    }

    fn is_over(&self) -> bool {
        if self.claiming.is_some() {
            return false;
        }
        let idle = self.running.is_empty() && self.waiting.is_empty();
        match &self.ending {
            Some(ending) => idle || (self.drop_jobs.is_cancelled() && Instant::now() >= ending.abandon),
            None => self.mode == Mode::UntilIdle && idle && !self.more && self.held.is_empty(),
        }
    }

    /// Settles what is left and waits until everything is written.
    async fn end(mut self) -> Result<Summary> {
        // Jobs that block their thread cannot be dropped. Their claims are settled as failed; the fence keeps a late end
        // from counting.
        let abandoned: Vec<Started> = self.started.drain().map(|(_, started)| started).collect();
        for started in &abandoned {
            tracing::error!(job = started.job.id, task = started.job.task, "the job blocks its thread; abandoning it");
            let error = TaskError::new("the worker shut down while the job blocked its thread");
            self.settle(&started.pool, &started.job, failed(&started.job, &RetryPolicy::default(), error));
        }
        self.running.detach_all();
        let Self { results, settler, give_up, storage, pool, ending, failure, options, claim_in_doubt, .. } = self;
        drop(results);
        let out_of_time = ending.map_or(options.grace, |ending| ending.abandon - Instant::now()).max(WRITE_GRACE);
        let timer = give_up.clone();
        let (summary, unwritten) = tokio::select! {
            ended = settler => ended,
            () = async move {
                tokio::time::sleep(out_of_time).await;
                timer.cancel();
                std::future::pending::<()>().await;
            } => Ok((Summary::default(), 0)),
        }
        .map_err(|error| Error::Internal(format!("the settler failed: {error}")))?;
        // Only a pool that holds nothing takes its sign of life away; for what it holds, others must notice its silence.
        if unwritten == 0 {
            let withdraw = async {
                if claim_in_doubt {
                    storage.release_unknown(&pool, &[]).await?;
                }
                storage.withdraw_presence(&pool).await
            };
            if !matches!(tokio::time::timeout(WRITE_GRACE, withdraw).await, Ok(Ok(()))) {
                tracing::warn!("the sign of life could not be taken away; others will notice the silence");
            }
        }
        match (failure, unwritten) {
            (Some(error), _) => Err(error),
            (None, 0) => Ok(summary),
            (None, jobs) => Err(Error::Unsettled { jobs }),
        }
    }
}

/// Registers tasks and pool, waiting for the storage as long as it takes (or failing at once, in a run that ends).
async fn begin(storage: &dyn Storage, tasks: &[String], pool: &PoolId, mode: Mode) -> Result<()> {
    let mut delay = FIRST_CLAIM_DELAY;
    loop {
        let begun = async {
            storage.register_tasks(tasks).await?;
            storage.show_presence(pool, true).await.map(drop)
        };
        match begun.await {
            Ok(()) => return Ok(()),
            Err(error) if mode == Mode::UntilShutdown && error.is_transient() => {
                tracing::warn!(%error, ?delay, "the worker cannot start yet; trying again");
                tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(MAX_CLAIM_DELAY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The claim in flight, or never.
async fn in_flight(claiming: &mut Option<Claiming>) -> (usize, Arc<PoolId>, Result<Vec<Job>>) {
    match claiming {
        Some(claiming) => claiming.await,
        None => std::future::pending().await,
    }
}

async fn next_wakeup(wakeups: &mut BoxStream<'static, Wakeup>) -> Wakeup {
    match wakeups.next().await {
        Some(wakeup) => wakeup,
        None => std::future::pending().await,
    }
}

fn log_outcome(job: &Job, outcome: &Outcome) {
    match outcome {
        Outcome::Failed { error, .. } if job.attempts >= job.max_attempts => {
            tracing::error!(
                job = job.id,
                task = job.task,
                attempt = job.attempts,
                error,
                "the job is dead: no attempts left"
            );
        }
        Outcome::Failed { error, retry, .. } => {
            tracing::warn!(job = job.id, task = job.task, attempt = job.attempts, error, ?retry, "the job failed");
        }
        Outcome::Dead { error } => {
            tracing::error!(
                job = job.id,
                task = job.task,
                attempt = job.attempts,
                error,
                "the job is dead: its task gave up"
            );
        }
        Outcome::Completed | Outcome::Snoozed { .. } | Outcome::Returned => {
            tracing::debug!(job = job.id, task = job.task, ?outcome, "the job ended");
        }
    }
}
