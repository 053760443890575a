//! Results that are written together, and what is known of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::FIRST_DEFERRAL;
use crate::storage::{INTERRUPTED, Outcome, Settlement, Then};
use crate::task::RetryPolicy;

/// A result that is being written.
pub(super) struct Item {
    pub(super) settlement: Settlement,
    pub(super) mark: Mark,
}

/// What happened to a result on its way.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// It was tried before without an answer: then it may have been written all the same.
    pub(super) in_doubt: bool,
    /// How long it waits if it is deferred.
    pub(super) delay: Duration,
    /// Since when the database has refused it.
    pub(super) refused_since: Option<Instant>,
    /// How often the database has said no by a code that is known to pass, to it or to a batch that it was in, and when it first did.
    pub(super) refusals: u32,
    pub(super) first_refusal: Option<Instant>,
}

impl Default for Mark {
    fn default() -> Self {
        Self { in_doubt: false, delay: FIRST_DEFERRAL, refused_since: None, refusals: 0, first_refusal: None }
    }
}

/// Results that are written together: the settlements as a storage takes them, and beside each its mark.
pub(super) struct Batch {
    pub(super) settlements: Vec<Settlement>,
    pub(super) marks: Vec<Mark>,
}

impl Batch {
    pub(super) fn new(settlements: Vec<Settlement>) -> Self {
        let marks = vec![Mark::default(); settlements.len()];
        Self { settlements, marks }
    }

    pub(super) fn len(&self) -> usize {
        self.settlements.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Settlement, &Mark)> {
        self.settlements.iter().zip(&self.marks)
    }

    pub(super) fn into_items(self) -> impl Iterator<Item = Item> {
        self.settlements.into_iter().zip(self.marks).map(|(settlement, mark)| Item { settlement, mark })
    }

    pub(super) fn split_off(&mut self, at: usize) -> Self {
        Self { settlements: self.settlements.split_off(at), marks: self.marks.split_off(at) }
    }

    /// It may have been written, the answer lost.
    pub(super) fn doubt(&mut self) {
        for mark in &mut self.marks {
            mark.in_doubt = true;
        }
    }

    /// The database said no once more; answers how often it has to the one that heard it most.
    pub(super) fn refused_again(&mut self) -> u32 {
        for mark in &mut self.marks {
            mark.refusals = mark.refusals.saturating_add(1);
            mark.first_refusal.get_or_insert_with(Instant::now);
        }
        self.marks.iter().map(|mark| mark.refusals).max().unwrap_or_default()
    }

    /// How many bytes it sends, about.
    pub(super) fn weight(&self) -> usize {
        self.settlements.iter().map(details).sum()
    }
}

impl FromIterator<Item> for Batch {
    fn from_iter<T: IntoIterator<Item = Item>>(items: T) -> Self {
        let (settlements, marks) = items.into_iter().map(|item| (item.settlement, item.mark)).unzip();
        Self { settlements, marks }
    }
}

/// How many bytes of errors and payloads wait to be written. Shared by the engine, which claims no more beyond a limit.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    pub(in super::super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(in super::super) fn add(&self, settlement: &Settlement) {
        self.0.fetch_add(details(settlement), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, settlement: &Settlement) {
        self.0.fetch_sub(details(settlement), Ordering::Relaxed);
    }
}

/// How many bytes of errors and payloads are in a result.
fn details(settlement: &Settlement) -> usize {
    settlement.then.bytes()
        + match &settlement.outcome {
            Outcome::Failed { error, payload, .. } | Outcome::Interrupted { error, payload, .. } => {
                error.len() + payload.as_ref().map_or(0, |payload| payload.as_str().len())
            }
            Outcome::Dead { error, .. } => error.len(),
            _ => 0,
        }
}

/// Whether anything but the fence is in it.
pub(super) fn can_be_simpler(batch: &[Settlement]) -> bool {
    batch.len() > 1 || batch.iter().any(|settlement| without_details(settlement.clone()).is_some())
}

/// The same outcome without what the task put into it.
pub(super) fn without_details(mut settlement: Settlement) -> Option<Settlement> {
    const TEXT: &str = "the attempt failed, and its error could not be stored";
    if !settlement.then.is_nothing() {
        // To be done without what follows would lose that. So it is tried again, as after any failure.
        let error = "the job is done, and what follows it could not be stored";
        let attempt = RetryPolicy::default().delay(1);
        settlement.then = Then::default();
        settlement.outcome = Outcome::failed(error, attempt);
        return Some(settlement);
    }
    match &mut settlement.outcome {
        Outcome::Failed { error, payload, .. } if error != TEXT || payload.is_some() => {
            TEXT.clone_into(error);
            *payload = None;
            Some(settlement)
        }
        Outcome::Interrupted { error, payload, .. } if error != INTERRUPTED || payload.is_some() => {
            INTERRUPTED.clone_into(error);
            *payload = None;
            Some(settlement)
        }
        Outcome::Dead { error, .. } if error != TEXT => {
            TEXT.clone_into(error);
            Some(settlement)
        }
        _ => None,
    }
}
