//! Results that cannot be written as they are: halved, made simpler, or put off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, Item, Mark, without_details};
use super::write::Tried;
use super::{MAX_BATCH_BYTES, MAX_DELAY, Settler};
use crate::error::Error;
use crate::storage::{Outcome, WorkerId, clean_error};

/// For how long a done job whose row cannot be deleted is tried, before it is kept as dead.
const REFUSED_FOR: Duration = Duration::from_secs(20);

/// A result that waits by itself, so that the others need not.
pub(super) struct Deferred {
    pub worker: Arc<WorkerId>,
    pub item: Item,
    pub again: Instant,
}

impl Settler {
    /// Writes again what was deferred and whose time has come: all together what somebody kept locked, which costs little, or one
    /// that was refused, so that the channel has its turn between two.
    pub(super) async fn write_deferred(&mut self) {
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
    pub(super) async fn write_all(&mut self, worker: &Arc<WorkerId>, batch: Batch) {
        let mut stack = vec![batch];
        while let Some(mut batch) = stack.pop() {
            let tried = if batch.len() > 1 && batch.weight() > MAX_BATCH_BYTES {
                Tried::SplitOrStrip
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
                Tried::SplitOrStrip if batch.len() > 1 => {
                    let half = batch.split_off(batch.len() / 2);
                    stack.push(half);
                    stack.push(batch);
                }
                Tried::SplitOrStrip => {
                    for Item { settlement, mark } in batch.into_items() {
                        self.backlog.remove(&settlement);
                        if let Some(settlement) = without_details(settlement) {
                            self.backlog.add(&settlement);
                            let mark = Mark { in_doubt: mark.in_doubt, ..Mark::default() };
                            stack.push(Batch::from_iter([Item { settlement, mark }]));
                        }
                    }
                }
                Tried::Refused { error } => {
                    let again = batch.into_items().filter_map(|item| self.refused(worker, item, &error));
                    stack.extend(again.map(|item| Batch::from_iter([item])));
                }
                Tried::TimedOut => {
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
    pub(super) fn refused(&mut self, worker: &Arc<WorkerId>, mut item: Item, error: &Error) -> Option<Item> {
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
                self.backlog.add(&item.settlement);
                return Some(item);
            }
            if let Some(simpler) = without_details(item.settlement.clone()) {
                tracing::error!(%job, %error, "a result was refused; writing it without its details");
                self.backlog.remove(&item.settlement);
                self.backlog.add(&simpler);
                item.settlement = simpler;
                return Some(item);
            }
        }
        tracing::error!(%job, %error, "a result was refused; trying again later");
        self.defer(worker, item);
        None
    }

    pub(super) fn defer(&mut self, worker: &Arc<WorkerId>, mut item: Item) {
        let again = Instant::now() + item.mark.delay;
        item.mark.delay = (item.mark.delay * 2).min(MAX_DELAY);
        self.deferred.push(Deferred { worker: Arc::clone(worker), item, again });
    }
}
