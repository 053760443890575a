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
//!
//! | file | what is there |
//! | --- | --- |
//! | `batch` | results that are written together, and what is known of each |
//! | `write` | one write, until it is answered |
//! | `deferred` | results that cannot be written as they are |
//! | `written` | what was written, and what that means |
//! | `summary` | the sum of it |

mod batch;
mod deferred;
mod summary;
mod write;
mod written;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use crate::error::Error;
use crate::job::JobId;
use crate::storage::{ClaimToken, GuardedCalls, Settlement, WorkerId};
pub(super) use batch::Backlog;
use batch::Batch;
use deferred::Deferred;
pub use summary::Summary;

/// The most settlements in one write.
const MAX_BATCH: usize = 4_000;
/// So many results of one claim are written by themselves.
const MANY: usize = 200;
/// The most bytes of errors and payloads in one write.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The delays between tries to write.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The first delay of a result that is deferred.
const FIRST_DEFERRAL: Duration = Duration::from_millis(250);
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
    /// The results of these claims were written; they freed so many serial queues.
    Batch { claims: Vec<(JobId, ClaimToken)>, freed_queues: usize },
    /// A job will be ready again at this moment, which no wakeup will tell.
    Due(Instant),
    /// The storage was taken away, and these results with it.
    Gone(Error),
}

/// The part of a worker that writes outcomes.
pub(super) struct Settler {
    calls: GuardedCalls,
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
        calls: GuardedCalls,
        finished: mpsc::UnboundedReceiver<Finished>,
        written: mpsc::UnboundedSender<Written>,
        give_up: CancellationToken,
        events: Events,
        backlog: Backlog,
    ) -> Self {
        let (summary, unwritten, deferred) = (Summary::default(), 0, Vec::new());
        let (refusals, accepted, closing) = (0, None, false);
        Self {
            calls,
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
                        self.backlog.remove(&deferred.item.settlement);
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
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
