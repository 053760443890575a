//! Writing outcomes by group commit.
//!
//! The settler takes whatever has gathered in its channel, writes it in one call, and looks again. There is no timer:
//! an idle worker's result is written at once, a busy worker's results go in large batches because they gather while
//! the previous write is in flight.
//!
//! The channel is unbounded but never holds more than was claimed: the engine stops claiming while too much is
//! unwritten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::{Event, Events};
use crate::job::{JobId, RunAt};
use crate::storage::{Line, Outcome, PoolId, Settlement, is_unanswered};

/// The most settlements in one write.
const MAX_BATCH: usize = 4_000;
/// So many results of one claim are written by themselves.
const MANY: usize = 200;
/// The most bytes of errors and payloads in one write.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// The delays between tries to write.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A write that has not been answered for this long never will be.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// One result on its way to be written.
#[derive(Debug)]
pub(super) struct Finished {
    /// Who claimed the job.
    pub pool: Arc<PoolId>,
    pub settlement: Settlement,
}

/// What the engine has to know about a write.
#[derive(Debug)]
pub(super) enum Written {
    /// The results of these claims (job and moment) were written; whether one of them freed a serial queue.
    Batch { claims: Vec<(JobId, DateTime<Utc>)>, freed_queue: bool },
    /// A job will be ready again at this moment, which no wakeup will tell.
    Due(Instant),
}

/// What a worker did, by what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Jobs given back unstarted.
    pub returned: u64,
    /// Results that came too late: the claim had been broken, by an administrator or because the worker was taken for
    /// dead. Whoever holds the job now decides about it.
    pub lost: u64,
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Dead { .. } => self.dead += 1,
            Outcome::Snoozed { .. } => self.snoozed += 1,
            Outcome::Returned => self.returned += 1,
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
}

impl Settler {
    pub(super) fn new(
        line: Line,
        finished: mpsc::UnboundedReceiver<Finished>,
        written: mpsc::UnboundedSender<Written>,
        give_up: CancellationToken,
        events: Events,
    ) -> Self {
        Self { line, finished, written, give_up, events, summary: Summary::default(), unwritten: 0 }
    }

    /// Writes until every sender is gone and everything is written; answers what was written, and how many results were
    /// not.
    pub(super) async fn run(mut self) -> (Summary, usize) {
        let mut batch = Vec::new();
        while self.finished.recv_many(&mut batch, MAX_BATCH).await > 0 {
            // Nearly always one pool; two after the worker was taken for dead and got a new identity.
            while let Some(first) = batch.first() {
                let pool = Arc::clone(&first.pool);
                let moment = first.settlement.claim.locked_at;
                let is_of_claim = |item: &Finished| item.pool == pool && item.settlement.claim.locked_at == moment;
                // A storage can be quicker with many results of one claim, whose fence is the same.
                let by_claim = batch.iter().filter(|item| is_of_claim(item)).count() >= MANY;
                let (of_pool, others): (Vec<_>, Vec<_>) =
                    batch.drain(..).partition(|item| if by_claim { is_of_claim(item) } else { item.pool == pool });
                batch = others;
                let settlements: Vec<Settlement> = of_pool.into_iter().map(|item| item.settlement).collect();
                self.write_all(&pool, settlements).await;
            }
        }
        (self.summary, self.unwritten)
    }

    /// Writes a batch; when the storage refuses it for what is in it, its halves, so that one bad result cannot hold up
    /// the others.
    async fn write_all(&mut self, pool: &PoolId, batch: Vec<Settlement>) {
        // With each batch, whether it was tried before without an answer: then it may have been written all the same.
        let mut stack = vec![(batch, false)];
        while let Some((mut batch, in_doubt)) = stack.pop() {
            let written = if batch.len() > 1 && weight(&batch) > MAX_BATCH_BYTES {
                Err(NotAsItIs { in_doubt })
            } else {
                self.write(pool, &batch, in_doubt).await
            };
            match written {
                Ok(()) => {}
                Err(NotAsItIs { in_doubt }) if batch.len() > 1 => {
                    let half = batch.split_off(batch.len() / 2);
                    stack.push((half, in_doubt));
                    stack.push((batch, in_doubt));
                }
                Err(NotAsItIs { in_doubt }) => {
                    if let Some(plain) = batch.pop().and_then(without_details) {
                        stack.push((vec![plain], in_doubt));
                    }
                }
            }
        }
    }

    /// Writes a batch, trying again until it is written, refused, or there is no more time.
    async fn write(&mut self, pool: &PoolId, batch: &[Settlement], mut in_doubt: bool) -> Result<(), NotAsItIs> {
        let mut delay = FIRST_DELAY;
        loop {
            let settled = tokio::select! {
                settled = self.line.call(WRITE_TIMEOUT, self.line.storage().settle(pool, batch)) => settled,
                () = self.give_up.cancelled() => {
                    self.unwritten += batch.len();
                    return Ok(());
                }
            };
            let error = match settled {
                Ok(applied) => {
                    let mut applied: HashSet<JobId> = applied.into_iter().collect();
                    if in_doubt {
                        let before = self.applied_before(batch, &applied).await;
                        applied.extend(before);
                    }
                    self.applied(batch, &applied);
                    return Ok(());
                }
                Err(error) => error,
            };
            if (error.took_too_long() || is_unanswered(&error)) && batch.len() > 1 {
                tracing::warn!(%error, jobs = batch.len(), "results took too long to write; writing fewer at a time");
                return Err(NotAsItIs { in_doubt: in_doubt || is_unanswered(&error) });
            }
            if !error.is_transient() && can_be_simpler(batch) {
                tracing::error!(%error, jobs = batch.len(), "results were refused; looking for the one to blame");
                return Err(NotAsItIs { in_doubt });
            }
            self.events.tell(|| Event::WriteFailed { jobs: batch.len(), error: error.to_string() });
            tracing::warn!(%error, jobs = batch.len(), ?delay, "results could not be written; trying again");
            // It may have been applied all the same, its answer lost.
            in_doubt = true;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.give_up.cancelled() => {
                    self.unwritten += batch.len();
                    return Ok(());
                }
            }
            delay = (delay * 2).min(MAX_DELAY).mul_f64(0.75 + fastrand::f64() / 2.0);
        }
    }

    /// Of a batch that was tried before without an answer: what an earlier try has written. A job that should be gone and is
    /// there was claimed by somebody else meanwhile; of the others nobody can tell, and they are taken for written.
    async fn applied_before(&self, batch: &[Settlement], applied: &HashSet<JobId>) -> Vec<JobId> {
        let unknown = || batch.iter().filter(|settlement| !applied.contains(&settlement.claim.id));
        let gone: Vec<JobId> = unknown()
            .filter(|settlement| settlement.outcome == Outcome::Completed)
            .map(|settlement| settlement.claim.id)
            .collect();
        if gone.is_empty() {
            return unknown().map(|settlement| settlement.claim.id).collect();
        }
        let present = tokio::select! {
            present = self.line.call(WRITE_TIMEOUT, self.line.storage().present(&gone)) => present,
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

    fn applied(&mut self, batch: &[Settlement], applied: &HashSet<JobId>) {
        let mut freed_queue = false;
        let mut lost = Vec::new();
        for settlement in batch {
            freed_queue |= settlement.claim.queue.is_some();
            if !applied.contains(&settlement.claim.id) {
                self.summary.lost += 1;
                lost.push(settlement.claim.id);
                tracing::warn!(job = settlement.claim.id, "a result came too late: the job's claim had been broken");
                continue;
            }
            self.summary.count(&settlement.outcome);
            if let Some(due) = due(&settlement.outcome) {
                // The engine may be gone at the very end; then nobody needs to know.
                let _ = self.written.send(Written::Due(due));
            }
        }
        self.events.tell(|| Event::Written {
            jobs: batch.iter().map(|settlement| settlement.claim.id).filter(|id| !lost.contains(id)).collect(),
            lost,
        });
        let claims = batch.iter().map(|settlement| (settlement.claim.id, settlement.claim.locked_at)).collect();
        let _ = self.written.send(Written::Batch { claims, freed_queue });
    }
}

/// A batch cannot be written as it is: for what is in it, or for its size.
struct NotAsItIs {
    in_doubt: bool,
}

/// How many bytes a batch sends, about.
fn weight(batch: &[Settlement]) -> usize {
    let details = |settlement: &Settlement| match &settlement.outcome {
        Outcome::Failed { error, payload, .. } => {
            error.len() + payload.as_ref().map_or(0, |payload| payload.as_str().len())
        }
        Outcome::Dead { error } => error.len(),
        _ => 0,
    };
    batch.iter().map(details).sum()
}

/// Whether anything but the fence is in it.
fn can_be_simpler(batch: &[Settlement]) -> bool {
    batch.len() > 1 || batch.iter().any(|settlement| without_details(settlement.clone()).is_some())
}

/// The same outcome without what the task put into it.
fn without_details(mut settlement: Settlement) -> Option<Settlement> {
    const TEXT: &str = "the attempt failed, and its error could not be stored";
    match &mut settlement.outcome {
        Outcome::Failed { error, payload, .. } if error != TEXT || payload.is_some() => {
            TEXT.clone_into(error);
            *payload = None;
            Some(settlement)
        }
        Outcome::Dead { error } if error != TEXT => {
            TEXT.clone_into(error);
            Some(settlement)
        }
        _ => None,
    }
}

/// When a job that was written will be ready, if that is soon.
fn due(outcome: &Outcome) -> Option<Instant> {
    let (Outcome::Failed { retry: when, .. } | Outcome::Snoozed { until: when }) = outcome else {
        return None;
    };
    let delay = match when {
        RunAt::In(delay) => *delay,
        RunAt::Time(time) => (*time - Utc::now()).to_std().unwrap_or_default(),
    };
    Instant::now().checked_add(delay)
}
