//! Writing outcomes, which acknowledges jobs, by group commit.
//!
//! The settler takes whatever has gathered in its channel, writes it in one call, and looks again. There is no timer:
//! an idle worker's result is written at once, a busy worker's results go in large batches because they gather while
//! the previous write is in flight.
//!
//! The channel is unbounded but never holds more than was claimed: the engine stops claiming while too much is
//! unwritten, in number or in bytes.
//!
//! What cannot be written for a reason of its own (somebody has locked the job's row, or a reference to it forbids to delete it)
//! is *deferred* and tried again by itself, so that the results behind it are written meanwhile.
//!
//! A database that is there and says no is not waited for, whatever code it gives: after a few tries the batch is halved until the one
//! to blame is alone. Where nothing at all is accepted any more, it is not one result that is to blame, and each further try waits.

mod batch;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::{Event, Events};
use crate::error::Error;
use crate::job::{JobId, RunAt};
use crate::storage::{ClaimToken, Line, Outcome, Settled, Settlement, WorkerId, clean_error, is_unanswered};
pub(super) use batch::Backlog;
use batch::{Batch, Item, Mark, can_be_simpler, without_details};

/// The most settlements in one write.
const MAX_BATCH: usize = 4_000;
/// So many results of one claim are written by themselves.
const MANY: usize = 200;
/// The most bytes of errors and payloads in one write.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The delays between tries to write.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How often a batch is tried as it is while the database says no by a code that is known to pass.
const MAX_REFUSALS: u32 = 5;
/// After so many refusals in a row it is not one result that is to blame: more than it takes to find one.
const MANY_REFUSALS: u32 = 30;
/// The longest pause between two that follow. Results that would be accepted wait behind it.
const MAX_SPARING: Duration = Duration::from_secs(1);
/// The first delay of a result that is deferred.
const FIRST_DEFERRAL: Duration = Duration::from_millis(250);
/// For how long a done job whose row cannot be deleted is tried, before it is kept as dead.
const REFUSED_FOR: Duration = Duration::from_secs(20);
/// A write that has not been answered for this long never will be.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// One result on its way to be written.
#[derive(Debug)]
pub(super) struct Finished {
    /// Who claimed the job.
    pub worker: Arc<WorkerId>,
    pub settlement: Settlement,
}

/// What the engine has to know about a write.
#[derive(Debug)]
pub(super) enum Written {
    /// The results of these claims were written; whether one of them freed a serial queue.
    Batch { claims: Vec<(JobId, ClaimToken)>, freed_queue: bool },
    /// A job will be ready again at this moment, which no wakeup will tell.
    Due(Instant),
    /// The storage was taken away, and these results with it.
    Gone(Error),
}

/// What a worker did, by what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Jobs done and deleted.
    pub completed: u64,
    /// Attempts that failed and will be tried again if any are left.
    pub failed: u64,
    /// Jobs that a task gave up for good.
    pub dead: u64,
    /// Jobs put off without using an attempt.
    pub snoozed: u64,
    /// Jobs cut off by the worker's end: ready again at once, and no failures.
    pub interrupted: u64,
    /// Jobs released unstarted.
    pub released: u64,
    /// Results that came too late: the claim had been broken, by an administrator or because the worker was taken for
    /// dead. Whoever holds the job now decides about it.
    pub stale: u64,
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { .. } => self.completed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Dead { .. } => self.dead += 1,
            Outcome::Snoozed { .. } => self.snoozed += 1,
            Outcome::Interrupted { .. } => self.interrupted += 1,
            _ => self.released += 1,
        }
    }
}

/// The part of a worker that writes outcomes.
pub(super) struct Settler {
    line: Line,
    finished: mpsc::UnboundedReceiver<Finished>,
    written: mpsc::UnboundedSender<Written>,
    /// Fires when there is no more time: what cannot be written now is left.
    give_up: CancellationToken,
    events: Events,
    summary: Summary,
    /// Results that were given up.
    unwritten: usize,
    /// Results that cannot be written at present, each for a reason of its own.
    deferred: Vec<Deferred>,
    backlog: Backlog,
    /// How often the database has said no since it accepted anything.
    refusals: u32,
    /// When it accepted anything.
    accepted: Option<Instant>,
    /// No more results come.
    closing: bool,
}

impl Settler {
    pub(super) fn new(
        line: Line,
        finished: mpsc::UnboundedReceiver<Finished>,
        written: mpsc::UnboundedSender<Written>,
        give_up: CancellationToken,
        events: Events,
        backlog: Backlog,
    ) -> Self {
        let (summary, unwritten, deferred) = (Summary::default(), 0, Vec::new());
        let (refusals, accepted, closing) = (0, None, false);
        Self {
            line,
            finished,
            written,
            give_up,
            events,
            summary,
            unwritten,
            deferred,
            backlog,
            refusals,
            accepted,
            closing,
        }
    }

    /// Writes until every sender is gone and everything is written; answers what was written, and how many results were
    /// not.
    pub(super) async fn run(mut self) -> (Summary, usize) {
        let mut batch = Vec::new();
        while !self.closing || !self.deferred.is_empty() {
            let again = self.deferred.iter().map(|deferred| deferred.again).min();
            tokio::select! {
                received = self.finished.recv_many(&mut batch, MAX_BATCH), if !self.closing => {
                    self.write_batch(&mut batch).await;
                    if received == 0 {
                        self.closing = true;
                        // There is no time to wait for.
                        let now = Instant::now();
                        for deferred in &mut self.deferred {
                            deferred.again = now;
                            deferred.item.mark.delay = FIRST_DEFERRAL;
                        }
                    }
                }
                () = sleep_until(again), if again.is_some() => self.write_deferred().await,
                () = self.give_up.cancelled(), if self.closing => {
                    for deferred in self.deferred.drain(..) {
                        self.backlog.took(&deferred.item.settlement);
                        self.unwritten += 1;
                    }
                }
            }
        }
        (self.summary, self.unwritten)
    }

    async fn write_batch(&mut self, batch: &mut Vec<Finished>) {
        // Nearly always one identity; two after the worker was declared dead and got a new identity.
        while let Some(first) = batch.first() {
            let worker = Arc::clone(&first.worker);
            let claim = first.settlement.claim.token;
            let is_of_worker = |item: &Finished| item.worker == worker;
            let is_of_claim = |item: &Finished| item.settlement.claim.token == claim && is_of_worker(item);
            // A storage can be quicker with many results of one claim, whose fence is the same.
            let by_claim = batch.iter().filter(|item| is_of_claim(item)).count() >= MANY;
            let joins = |item: &mut Finished| if by_claim { is_of_claim(item) } else { is_of_worker(item) };
            let items = batch.extract_if(.., joins).map(|item| item.settlement).collect();
            self.write_all(&worker, Batch::new(items)).await;
        }
    }

    /// Writes again what was deferred and whose time has come: all together what somebody kept locked, which costs little, or one
    /// that was refused, so that the channel has its turn between two.
    async fn write_deferred(&mut self) {
        let now = Instant::now();
        let is_due = |deferred: &Deferred| deferred.again <= now;
        let Some(first) = self.deferred.iter().position(is_due) else { return };
        let first = self.deferred.swap_remove(first);
        let worker = Arc::clone(&first.worker);
        let mut items = vec![first.item];
        if items[0].mark.refused_since.is_none() {
            let joins = |deferred: &mut Deferred| {
                is_due(deferred) && deferred.worker == worker && deferred.item.mark.refused_since.is_none()
            };
            items.extend(self.deferred.extract_if(.., joins).map(|deferred| deferred.item));
        }
        self.write_all(&worker, items.into_iter().collect()).await;
    }

    /// Writes a batch; when the storage refuses it for what is in it, its halves, and what cannot be written at all is deferred, so
    /// that one bad result cannot hold up the others.
    async fn write_all(&mut self, worker: &Arc<WorkerId>, batch: Batch) {
        let mut stack = vec![batch];
        while let Some(mut batch) = stack.pop() {
            let tried = if batch.len() > 1 && batch.weight() > MAX_BATCH_BYTES {
                Tried::NotAsItIs
            } else {
                self.write(worker, &mut batch).await
            };
            match tried {
                Tried::Done { busy } if busy.is_empty() => {}
                Tried::Done { busy } => {
                    tracing::warn!(
                        jobs = busy.len(),
                        "somebody keeps the rows of finished jobs locked; trying again later"
                    );
                    for mut item in batch.into_items().filter(|item| busy.contains(&item.settlement.claim.id)) {
                        item.mark.refused_since = None;
                        self.defer(worker, item);
                    }
                }
                Tried::NotAsItIs if batch.len() > 1 => {
                    let half = batch.split_off(batch.len() / 2);
                    stack.push(half);
                    stack.push(batch);
                }
                Tried::NotAsItIs => {
                    for Item { settlement, mark } in batch.into_items() {
                        self.backlog.took(&settlement);
                        if let Some(settlement) = without_details(settlement) {
                            self.backlog.gave(&settlement);
                            let mark = Mark { in_doubt: mark.in_doubt, ..Mark::default() };
                            stack.push(Batch::from_iter([Item { settlement, mark }]));
                        }
                    }
                }
                Tried::Refused { error } => {
                    let again = batch.into_items().filter_map(|item| self.refused(worker, item, &error));
                    stack.extend(again.map(|item| Batch::from_iter([item])));
                }
                Tried::TooLong => {
                    for item in batch.into_items() {
                        self.defer(worker, item);
                    }
                }
            }
        }
    }

    /// A result that the database refuses although nothing but the end of the job is in it: a reference to its row, or a trigger
    /// of somebody's. That may pass; a done job whose row still cannot be deleted then must not be held for ever, nor run again.
    /// Answers what to write instead.
    fn refused(&mut self, worker: &Arc<WorkerId>, mut item: Item, error: &Error) -> Option<Item> {
        let since = *item.mark.refused_since.get_or_insert_with(Instant::now);
        let job = item.settlement.claim.id;
        // What is known to pass is held against a result only when others were accepted since it was refused, with or without them.
        let first = item.mark.first_refusal.unwrap_or(since);
        let to_blame = !error.is_transient() || self.accepted.is_some_and(|accepted| accepted > first);
        // At the end there is no time for more tries.
        if to_blame && (self.closing || since.elapsed() > REFUSED_FOR) {
            if item.settlement.outcome.is_completed() && item.settlement.then.is_nothing() {
                tracing::error!(%job, %error, "the job is done, and its row could not be deleted; it is kept as dead");
                let error = clean_error(&format!("the job is done, and its row could not be deleted: {error}"));
                item.settlement.outcome = Outcome::dead(error);
                self.backlog.gave(&item.settlement);
                return Some(item);
            }
            if let Some(simpler) = without_details(item.settlement.clone()) {
                tracing::error!(%job, %error, "a result was refused; writing it without its details");
                self.backlog.took(&item.settlement);
                self.backlog.gave(&simpler);
                item.settlement = simpler;
                return Some(item);
            }
        }
        tracing::error!(%job, %error, "a result was refused; trying again later");
        self.defer(worker, item);
        None
    }

    fn defer(&mut self, worker: &Arc<WorkerId>, mut item: Item) {
        let again = Instant::now() + item.mark.delay;
        item.mark.delay = (item.mark.delay * 2).min(MAX_DELAY);
        self.deferred.push(Deferred { worker: Arc::clone(worker), item, again });
    }

    /// Writes a batch, trying again until it is written, refused, or there is no more time.
    async fn write(&mut self, worker: &WorkerId, batch: &mut Batch) -> Tried {
        let mut delay = FIRST_DELAY;
        loop {
            let settled = tokio::select! {
                settled = self.line.call(WRITE_TIMEOUT, self.line.storage().settle(worker, &batch.settlements)) => settled,
                () = self.give_up.cancelled() => {
                    self.give_up_on(&batch.settlements);
                    return Tried::Done { busy: HashSet::new() };
                }
            };
            let error = match settled {
                Ok(Settled { applied, busy, frees_queue, .. }) => {
                    if busy.len() < batch.len() {
                        self.refusals = 0;
                        self.accepted = Some(Instant::now());
                    }
                    let busy: HashSet<JobId> = busy.into_iter().collect();
                    self.settled(batch, applied, &busy, frees_queue).await;
                    return Tried::Done { busy };
                }
                Err(error) => error,
            };
            if error.is_gone() {
                self.give_up_on(&batch.settlements);
                self.events.tell(|| Event::WriteFailed { jobs: batch.len(), error: error.to_string() });
                // The engine may be gone at the very end; then nobody needs to know.
                let _ = self.written.send(Written::Gone(error));
                return Tried::Done { busy: HashSet::new() };
            }
            if is_unanswered(&error) {
                batch.doubt();
            }
            if (error.took_too_long() || is_unanswered(&error)) && batch.len() > 1 {
                tracing::warn!(%error, jobs = batch.len(), "results took too long to write; writing fewer at a time");
                return Tried::NotAsItIs;
            }
            if error.took_too_long() {
                tracing::warn!(%error, "a result took too long to write; trying again later");
                return Tried::TooLong;
            }
            if !error.is_refusal() && error.is_transient() {
                // It may have been applied all the same, its answer lost.
                batch.doubt();
            }
            let is_answer = error.is_answer();
            if is_answer {
                self.refusals = self.refusals.saturating_add(1);
            }
            let refused = !error.is_transient() || (is_answer && batch.refused_again() >= MAX_REFUSALS);
            if refused && error.is_transient() {
                self.spare().await;
            }
            if refused && (batch.len() > 1 || (!error.is_transient() && can_be_simpler(&batch.settlements))) {
                tracing::error!(%error, jobs = batch.len(), "results were refused; looking for the one to blame");
                return Tried::NotAsItIs;
            }
            self.events.tell(|| Event::WriteFailed { jobs: batch.len(), error: error.to_string() });
            if refused {
                return Tried::Refused { error };
            }
            tracing::warn!(%error, jobs = batch.len(), ?delay, "results could not be written; trying again");
            if !self.pause(&mut delay).await {
                self.give_up_on(&batch.settlements);
                return Tried::Done { busy: HashSet::new() };
            }
        }
    }

    /// Waits before anything else is tried on a database that accepts nothing.
    async fn spare(&self) {
        if let Some(more) = self.refusals.checked_sub(MANY_REFUSALS) {
            let pause = (FIRST_DELAY * 2_u32.pow(more.min(5))).min(MAX_SPARING);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.give_up.cancelled() => {}
            }
        }
    }

    /// Waits before the next try, and longer each time; tells whether there is time for one.
    async fn pause(&self, delay: &mut Duration) -> bool {
        let now = *delay;
        *delay = (*delay * 2).min(MAX_DELAY).mul_f64(0.75 + fastrand::f64() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(now) => true,
            () = self.give_up.cancelled() => false,
        }
    }

    fn give_up_on(&mut self, batch: &[Settlement]) {
        self.unwritten += batch.len();
        for settlement in batch {
            self.backlog.took(settlement);
        }
    }

    /// A batch was written, but for what is busy.
    async fn settled(&mut self, batch: &Batch, applied: Vec<JobId>, busy: &HashSet<JobId>, freed_queue: bool) {
        let in_doubt = batch.marks.iter().any(|mark| mark.in_doubt);
        // As a rule everything is, and nothing has to be looked for.
        if busy.is_empty() && !in_doubt && applied.len() == batch.len() {
            self.applied(freed_queue, &batch.settlements, |_| true);
            return;
        }
        let written: Vec<(&Settlement, &Mark)> =
            batch.iter().filter(|(settlement, _)| !busy.contains(&settlement.claim.id)).collect();
        let mut applied: HashSet<JobId> = applied.into_iter().collect();
        let in_doubt: Vec<&Settlement> =
            written.iter().filter(|(_, mark)| mark.in_doubt).map(|(settlement, _)| *settlement).collect();
        if !in_doubt.is_empty() {
            let before = self.applied_before(&in_doubt, &applied).await;
            applied.extend(before);
        }
        if !written.is_empty() {
            let written = written.into_iter().map(|(settlement, _)| settlement);
            self.applied(freed_queue, written, |job| applied.contains(&job));
        }
    }

    /// Of a batch that was tried before without an answer: what an earlier try has written. A job that should be gone and is
    /// there was claimed by somebody else meanwhile; of the others nobody can tell, and they are taken for written.
    async fn applied_before(&self, batch: &[&Settlement], applied: &HashSet<JobId>) -> Vec<JobId> {
        let unknown = || batch.iter().filter(|settlement| !applied.contains(&settlement.claim.id));
        let gone: Vec<JobId> = unknown()
            .filter(|settlement| settlement.outcome.is_completed())
            .map(|settlement| settlement.claim.id)
            .collect();
        if gone.is_empty() {
            return unknown().map(|settlement| settlement.claim.id).collect();
        }
        let present = tokio::select! {
            present = self.line.call(WRITE_TIMEOUT, self.line.storage().existing(&gone)) => present,
            () = self.give_up.cancelled() => Ok(Vec::new()),
        };
        // One question without an answer is enough: then all are taken for written.
        let gone: HashSet<JobId> = gone.into_iter().collect();
        let present: HashSet<JobId> = present.unwrap_or_default().into_iter().collect();
        unknown()
            .map(|settlement| settlement.claim.id)
            .filter(|id| !(gone.contains(id) && present.contains(id)))
            .collect()
    }

    fn applied<'b>(
        &mut self,
        freed_queue: bool,
        batch: impl IntoIterator<Item = &'b Settlement> + Clone,
        is_applied: impl Fn(JobId) -> bool,
    ) {
        let mut stale = Vec::new();
        for settlement in batch.clone() {
            self.backlog.took(settlement);
            if !is_applied(settlement.claim.id) {
                self.summary.stale += 1;
                stale.push(settlement.claim.id);
                tracing::warn!(job = %settlement.claim.id, "a result came too late: the job's claim had been broken");
                continue;
            }
            self.summary.count(&settlement.outcome);
            if let Some(due) = due(&settlement.outcome) {
                // The engine may be gone at the very end; then nobody needs to know.
                let _ = self.written.send(Written::Due(due));
            }
        }
        let claims: Vec<(JobId, ClaimToken)> =
            batch.into_iter().map(|settlement| (settlement.claim.id, settlement.claim.token)).collect();
        self.events.tell(|| Event::Written {
            jobs: claims.iter().map(|(job, _)| *job).filter(|job| !stale.contains(job)).collect(),
            stale,
        });
        let _ = self.written.send(Written::Batch { claims, freed_queue });
    }
}

/// A result that waits by itself, so that the others need not.
struct Deferred {
    worker: Arc<WorkerId>,
    item: Item,
    again: Instant,
}

/// What became of a try to write a batch.
enum Tried {
    /// It is written (or given up), but for the rows that somebody has locked.
    Done { busy: HashSet<JobId> },
    /// It cannot be written as it is: for what is in it, or for its size.
    NotAsItIs,
    /// It is one result, and took longer than the server allows.
    TooLong,
    /// It is refused, and there is nothing in it that could be left out.
    Refused { error: Error },
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// When a job that was written will be ready, if that is soon.
fn due(outcome: &Outcome) -> Option<Instant> {
    let (Outcome::Failed { retry: when, .. } | Outcome::Snoozed { until: when, .. }) = outcome else {
        return None;
    };
    let delay = match when {
        RunAt::In(delay) => *delay,
        RunAt::Time(time) => (*time - Utc::now()).to_std().unwrap_or_default(),
    };
    Instant::now().checked_add(delay)
}
