//! What belongs together.

use futures::future::BoxFuture;

use super::{DocumentChange, DocumentKey, Expect, Hold, NewEvent};
use crate::error::{Error, FailureKind, Result};
use crate::job::{Job, JobId, NewJob};
use crate::storage::{Outcome, Settled, Settlement, Storage, WorkerId};

/// What is done as a whole or not at all. Nothing of it is done unless every expectation holds and every hold stands.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Unit {
    /// Documents that must be so. (What this unit itself changes is not seen.)
    pub expect: Vec<Expect>,
    /// Keys that no job may have. (Whoever adds under such a key at the same moment, and not by a unit that expects the same and a document
    /// of both, is not kept out.)
    pub expect_no_job: Vec<String>,
    /// Documents to change, each once.
    pub change: Vec<DocumentChange>,
    /// Jobs to settle, each once.
    pub settle: Vec<Settle>,
    /// Jobs to add. No two have the same key.
    pub add: Vec<NewJob>,
    /// Events to append.
    pub events: Vec<NewEvent>,
}

impl Unit {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, if this holds.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect.push(expect);
        self
    }

    /// The same, if no job has this key.
    #[must_use]
    pub fn expect_no_job(mut self, key: impl Into<String>) -> Self {
        self.expect_no_job.push(key.into());
        self
    }

    /// The same, and this.
    #[must_use]
    pub fn change(mut self, change: DocumentChange) -> Self {
        self.change.push(change);
        self
    }

    /// The same, and a held job ended so.
    #[must_use]
    pub fn settle(mut self, hold: Hold, outcome: Outcome) -> Self {
        self.settle.push(Settle { hold, outcome });
        self
    }

    /// The same, and these jobs.
    #[must_use]
    pub fn adding(mut self, jobs: impl IntoIterator<Item = NewJob>) -> Self {
        self.add.extend(jobs);
        self
    }

    /// The same, and this event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Refuses what no storage can do.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`], [`Error::DuplicateKey`].
    pub fn check(&self) -> Result<()> {
        let mut keys = std::collections::HashSet::new();
        if let Some(key) = self.add.iter().filter_map(|job| job.key.as_ref()).find(|key| !keys.insert(*key)) {
            return Err(Error::DuplicateKey { key: key.clone() });
        }
        let mut jobs = std::collections::HashSet::new();
        if let Some(settle) = self.settle.iter().find(|settle| !jobs.insert(settle.hold.id())) {
            let id = settle.hold.id().to_string();
            return Err(Error::invalid_message("the job", &id, "is settled twice in one unit"));
        }
        let mut documents = std::collections::HashSet::new();
        if let Some(change) = self.change.iter().find(|change| !documents.insert(change.key())) {
            return Err(Error::invalid_message("the document", &change.key().key, "is changed twice in one unit"));
        }
        self.expect.iter().map(|expect| &expect.key).try_for_each(DocumentKey::check)?;
        self.change.iter().try_for_each(DocumentChange::check)?;
        self.events.iter().try_for_each(NewEvent::check)
    }
}

/// Refuses what no storage can do. Every storage does so before it writes anything.
///
/// # Errors
/// Those of [`Unit::check`].
pub fn check_units(units: &[Unit]) -> Result<()> {
    units.iter().try_for_each(Unit::check)
}

/// How a held job ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settle {
    /// By what it is held.
    pub hold: Hold,
    /// How it ended.
    pub outcome: Outcome,
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It was done.
    Done(Done),
    /// Nothing of it was done, because of this.
    Refused(Refusal),
}

impl Applied {
    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// What it did, if it was done.
    #[must_use]
    pub fn done(self) -> Option<Done> {
        if let Self::Done(done) = self { Some(done) } else { None }
    }
}

/// What a unit did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Done {
    /// The jobs that it added, in order.
    pub added: Vec<Job>,
    /// The versions of the documents that it stored, in the order of its changes; `None` of what it removed.
    pub versions: Vec<Option<u64>>,
    /// The positions of its events, in order.
    pub positions: Vec<u64>,
}

/// Why a unit was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A document is not as expected: it has this version, or is not there.
    #[non_exhaustive]
    Document {
        /// Which.
        key: DocumentKey,
        /// Its version, if it is there.
        found: Option<u64>,
    },
    /// A job has a key that none may have.
    #[non_exhaustive]
    Key {
        /// Which.
        key: String,
    },
    /// A hold does not stand: the job is gone, was given back, or somebody else holds it.
    #[non_exhaustive]
    Hold {
        /// Of which job.
        id: JobId,
    },
    /// Another transaction keeps something locked at this moment, as by a row lock. Nothing was done: ask again.
    Busy {
        /// Which job, or one of the unit's if it is something else; `None` if the unit has none.
        id: Option<JobId>,
    },
    /// The storage refused to write it, as where a trigger raises an error.
    #[non_exhaustive]
    Storage {
        /// What it said.
        message: String,
    },
    /// The owner of a document is not registered.
    #[non_exhaustive]
    Owner {
        /// Who.
        worker: WorkerId,
    },
}

/// Does units by a function that does all of them or fails. What the storage refuses as a whole is done in halves, until the culprit is
/// alone: that one is answered as refused, and takes nothing of the others with it.
///
/// # Errors
/// Those after which it is not known what was done, or which may pass.
pub async fn in_halves<'u, F>(units: &'u [Unit], apply: F) -> Result<Vec<Applied>>
where
    F: Fn(&'u [Unit]) -> BoxFuture<'u, Result<Vec<Applied>>>,
{
    let mut applied = Vec::with_capacity(units.len());
    let mut stack = vec![units];
    while let Some(part) = stack.pop() {
        match apply(part).await {
            Ok(done) => applied.extend(done),
            Err(error) if error.is_refusal() && !error.is_transient() => match part {
                [] | [_] => applied.push(Applied::Refused(Refusal::Storage { message: error.to_string() })),
                _ => {
                    let (first, second) = part.split_at(part.len() / 2);
                    stack.extend([second, first]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

impl Unit {
    /// A worker's result, and all that follows it.
    #[must_use]
    pub fn of_settlement(worker: &WorkerId, settlement: &Settlement) -> Self {
        let hold = Hold::Claim { worker: worker.clone(), claim: settlement.claim.clone() };
        let mut unit = Self::new().settle(hold, settlement.outcome.clone());
        unit.add.clone_from(&settlement.then.jobs);
        unit.change.clone_from(&settlement.then.documents);
        unit.events.clone_from(&settlement.then.events);
        unit
    }
}

/// Writes results that documents and events follow, for storages: these are units. Answers as
/// [`Consumer::settle`](crate::storage::Consumer::settle) does.
///
/// # Errors
/// Those of [`Messages::apply`](super::Messages::apply); and when the storage refuses one, or has no messages.
pub async fn settle_units(storage: &dyn Storage, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
    let units: Vec<Unit> = settled.iter().map(|settlement| Unit::of_settlement(worker, settlement)).collect();
    let (mut done, mut busy, mut freed, mut refused) = (Vec::new(), Vec::new(), 0, None);
    for (settlement, applied) in settled.iter().zip(storage.require_messages()?.apply(&units).await?) {
        match applied {
            Applied::Done(_) => {
                done.push(settlement.claim.id);
                freed += usize::from(settlement.claim.queue.is_some());
            }
            Applied::Refused(Refusal::Hold { .. }) => {}
            Applied::Refused(Refusal::Busy { .. }) => busy.push(settlement.claim.id),
            Applied::Refused(refusal) => {
                let message = match refusal {
                    Refusal::Storage { message } => message,
                    other => format!("what follows job {} was refused: {other:?}", settlement.claim.id),
                };
                refused = Some(Error::storage("write results", FailureKind::Invalid, message));
                busy.push(settlement.claim.id);
            }
        }
    }
    // What was written is told. Those that were refused are sent again by themselves, and then it is known which they are.
    if let Some(error) = refused.filter(|_| done.is_empty()) {
        return Err(error);
    }
    Ok(Settled::applied(done).busy(busy).freed_queues(freed))
}

/// The results that documents or events follow, and the others.
#[must_use]
pub fn split_settled(settled: &[Settlement]) -> (Vec<Settlement>, Vec<Settlement>) {
    settled.iter().cloned().partition(|settlement| settlement.then.needs_messages())
}
