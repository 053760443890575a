//! What becomes of units: decided in one place, for every storage.
//!
//! A storage locks and reads what [`Needs`] names, hands it over as [`Present`], and writes what the [`Plan`] says. Units are judged in
//! order: what an earlier one does is seen by the later ones.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::{Applied, Changes, Document, DocumentChange, DocumentKey, Done, Hold, NewEvent, Refusal, Settle, Unit};
use crate::job::{Job, JobId, NewJob};
use crate::storage::{ClaimRef, ClaimToken, WorkerId};

/// What has to be locked and read before units can be judged: documents first, then workers, then jobs, each in this order.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Needs<'a> {
    /// Documents that are expected or changed.
    pub documents: BTreeSet<&'a DocumentKey>,
    /// Workers that own some.
    pub owners: BTreeSet<&'a str>,
    /// Jobs that are settled.
    pub jobs: BTreeSet<JobId>,
    /// Keys that no job may have.
    pub keys: BTreeSet<&'a str>,
    /// How many versions are needed for documents, at the most.
    pub versions: usize,
}

impl<'a> Needs<'a> {
    /// What these units need.
    #[must_use]
    pub fn of(units: &'a [Unit]) -> Self {
        let mut needs = Self::default();
        for unit in units {
            needs.documents.extend(unit.expect.iter().map(|expect| &expect.key));
            needs.documents.extend(unit.change.iter().map(DocumentChange::key));
            needs.owners.extend(unit.change.iter().filter_map(DocumentChange::owner).map(WorkerId::as_str));
            needs.jobs.extend(unit.settle.iter().map(|settle| settle.hold.id()));
            needs.keys.extend(unit.expect_no_job.iter().map(String::as_str));
            needs.versions += unit.change.len();
        }
        needs
    }
}

/// What is there, locked until the plan has been carried out.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// The present.
    pub now: DateTime<Utc>,
    /// Of the documents that are needed those that are there, expired or not.
    pub documents: HashMap<DocumentKey, Document>,
    /// Of the owners those that are registered.
    pub workers: HashSet<String>,
    /// Of the jobs those that are there. Payloads need not be read.
    pub jobs: HashMap<JobId, Job>,
    /// Of the keys those that a job has.
    pub keys: HashSet<String>,
    /// Jobs that somebody else keeps locked.
    pub busy: HashSet<JobId>,
    /// Versions that were never given to a document, rising.
    pub versions: Vec<u64>,
}

/// What to write of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobWrite {
    /// It is gone.
    Delete(JobId),
    /// It is so; its payload, if that was not changed, stays as it is stored.
    Keep {
        /// The job, free.
        job: Box<Job>,
        /// Whether its payload was changed.
        payload_changed: bool,
    },
}

/// A serial queue to free, if it is still held so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreedQueue {
    /// Its name.
    pub name: String,
    /// By whom it was held.
    pub locked_by: String,
    /// Its lock's moment.
    pub locked_at: DateTime<Utc>,
}

/// Jobs of several units, to be added at once.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// The jobs, unit by unit.
    pub jobs: Vec<NewJob>,
    /// How many each unit has.
    sizes: Vec<usize>,
}

impl Batch {
    /// The stored jobs, unit by unit.
    #[must_use]
    pub fn split(&self, stored: Vec<Job>) -> Vec<Vec<Job>> {
        let mut stored = stored.into_iter();
        self.sizes.iter().map(|size| stored.by_ref().take(*size).collect()).collect()
    }
}

/// What to write, and what becomes of the units.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan<'a> {
    units: Vec<Applied>,
    /// Jobs to delete or write, each once.
    pub jobs: Vec<JobWrite>,
    /// Serial queues to free.
    pub freed: Vec<FreedQueue>,
    /// Documents to store, or to remove.
    pub documents: BTreeMap<DocumentKey, Option<Document>>,
    /// Jobs to add, by the place of their unit. Those of two may have one key: see [`batches`](Self::batches).
    pub add: Vec<(usize, &'a [NewJob])>,
    /// Events to append, by the place of their unit.
    pub events: Vec<(usize, &'a NewEvent)>,
    /// What listeners are to be told.
    pub changes: Changes,
}

impl<'a> Plan<'a> {
    /// What becomes of these units.
    #[must_use]
    pub fn of(units: &'a [Unit], mut present: Present) -> Self {
        let mut plan = Self {
            units: Vec::with_capacity(units.len()),
            jobs: Vec::new(),
            freed: Vec::new(),
            documents: BTreeMap::new(),
            add: Vec::new(),
            events: Vec::new(),
            changes: Changes::default(),
        };
        let mut versions = std::mem::take(&mut present.versions).into_iter();
        for (place, unit) in units.iter().enumerate() {
            let applied = match present.refusal(unit) {
                Some(refusal) => Applied::Refused(refusal),
                None => Applied::Done(plan.carry_out(place, unit, &mut present, &mut versions)),
            };
            plan.units.push(applied);
        }
        plan
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.jobs.is_empty() && self.documents.is_empty() && self.add.is_empty() && self.events.is_empty()
    }

    /// The jobs to add, in as few batches as can be: in none two have the same key.
    #[must_use]
    pub fn batches(&self) -> Vec<Batch> {
        let mut batches = vec![Batch::default()];
        let mut keys: HashSet<&str> = HashSet::new();
        for (_, jobs) in &self.add {
            let named = || jobs.iter().filter_map(|job| job.key.as_deref());
            if named().any(|key| keys.contains(key)) {
                keys.clear();
                batches.push(Batch::default());
            }
            keys.extend(named());
            if let Some(batch) = batches.last_mut() {
                batch.jobs.extend_from_slice(jobs);
                batch.sizes.push(jobs.len());
            }
        }
        batches.retain(|batch| !batch.jobs.is_empty());
        batches
    }

    /// The answer, once everything was written: the jobs that were added, unit by unit as in [`add`](Self::add), and the positions of the events.
    #[must_use]
    pub fn applied(mut self, added: Vec<Vec<Job>>, positions: Vec<u64>) -> Vec<Applied> {
        for ((place, _), jobs) in self.add.iter().zip(added) {
            if let Applied::Done(done) = &mut self.units[*place] {
                done.added = jobs;
            }
        }
        for ((place, _), position) in self.events.iter().zip(positions) {
            if let Applied::Done(done) = &mut self.units[*place] {
                done.positions.push(position);
            }
        }
        self.units
    }

    fn carry_out(
        &mut self,
        place: usize,
        unit: &'a Unit,
        present: &mut Present,
        versions: &mut impl Iterator<Item = u64>,
    ) -> Done {
        let mut done = Done::default();
        for settle in &unit.settle {
            self.settle(settle, present);
        }
        for change in &unit.change {
            let stored = versions.next().and_then(|version| change.stored(version, present.now));
            done.versions.push(stored.as_ref().map(|document| document.version));
            self.changes.documents.insert(&change.key().kind);
            match &stored {
                Some(document) => drop(present.documents.insert(change.key().clone(), document.clone())),
                None => drop(present.documents.remove(change.key())),
            }
            self.documents.insert(change.key().clone(), stored);
        }
        if !unit.add.is_empty() {
            for job in &unit.add {
                self.changes.lines.insert(&job.task);
                present.keys.extend(job.key.clone());
            }
            self.add.push((place, &unit.add));
        }
        for event in &unit.events {
            self.changes.streams.insert(&event.stream);
            self.events.push((place, event));
        }
        done
    }

    fn settle(&mut self, settle: &Settle, present: &mut Present) {
        let Some(mut job) = present.jobs.remove(&settle.hold.id()) else { return };
        let claim = claim_of(&settle.hold, &job);
        if let (Some(name), Some(locked_by), Some(locked_at)) = (&claim.queue, &job.locked_by, job.locked_at) {
            self.freed.push(FreedQueue { name: name.clone(), locked_by: locked_by.clone(), locked_at });
        }
        // What stands behind it may be ready now; and it may be itself.
        if job.queue.is_some() || !settle.outcome.is_completed() {
            self.changes.lines.insert(&job.task);
        }
        self.jobs.push(if settle.outcome.is_completed() {
            job.key.as_ref().map(|key| present.keys.remove(key));
            JobWrite::Delete(job.id)
        } else {
            settle.outcome.apply(&claim, &mut job, present.now);
            let payload_changed = settle.outcome.change().is_some_and(|change| change.payload.is_some());
            JobWrite::Keep { job: Box::new(job), payload_changed }
        });
    }
}

impl Present {
    /// Why a unit cannot be done.
    fn refusal(&self, unit: &Unit) -> Option<Refusal> {
        for expect in &unit.expect {
            let found = self.documents.get(&expect.key).filter(|document| document.is_there(self.now));
            let found = found.map(|document| document.version);
            if found != expect.version {
                return Some(Refusal::Document { key: expect.key.clone(), found });
            }
        }
        if let Some(key) = unit.expect_no_job.iter().find(|key| self.keys.contains(*key)) {
            return Some(Refusal::Key { key: key.clone() });
        }
        for settle in &unit.settle {
            let id = settle.hold.id();
            if self.busy.contains(&id) {
                return Some(Refusal::Busy { id: Some(id) });
            }
            // One that an earlier unit has settled is not there any more.
            if !self.jobs.get(&id).is_some_and(|job| settle.hold.stands(job, self.now)) {
                return Some(Refusal::Hold { id });
            }
        }
        let mut owners = unit.change.iter().filter_map(DocumentChange::owner);
        let missing = owners.find(|owner| !self.workers.contains(owner.as_str()));
        missing.map(|worker| Refusal::Owner { worker: worker.clone() })
    }
}

/// The claim by which a job is settled.
fn claim_of(hold: &Hold, job: &Job) -> ClaimRef {
    match hold {
        Hold::Claim { claim, .. } => claim.clone(),
        Hold::Lease { receipt, .. } => {
            let token = ClaimToken::from_number(job.locked_at.map_or(0, |at| at.timestamp_micros()));
            let mut claim = ClaimRef::new(job, token);
            // Whoever takes the key of a running job uses its attempts up, and leases give none back.
            claim.had_key = job.key.is_none() && job.attempts != receipt.number;
            claim
        }
    }
}
