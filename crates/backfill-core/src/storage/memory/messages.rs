//! Lines, leases, units, documents and events.

mod take;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use super::MemoryStorage;
use super::state::{Lock, State, place};
use crate::error::Result;
use crate::job::limits::later;
use crate::job::{Job, JobId};
use crate::storage::messages::{
    Applied, Changes, Depth, Document, DocumentKey, Ended, Event, JobWrite, Lease, Messages, Needs, News, Plan,
    Present, Purge, Receipt, Take, Taken, Unit, check_units,
};

/// How much of a line one part of a purge deletes.
const PART: usize = 1_000;

#[async_trait]
impl Messages for MemoryStorage {
    async fn take(&self, request: &Take<'_>) -> Result<Taken> {
        request.check()?;
        Ok(self.state().take(request))
    }

    async fn renew(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>> {
        leases.iter().try_for_each(|(_, lasts)| Lease::check_time(*lasts))?;
        Ok(self.state().renew(leases))
    }

    async fn end_leases(&self, of: Option<&[JobId]>) -> Result<Ended> {
        let (ended, lines) = self.state().end_leases(of);
        self.tell(Changes::lines(lines));
        self.notify(ended.jobs.len());
        Ok(ended)
    }

    async fn apply(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        check_units(units)?;
        let (applied, changes) = self.state().apply(units);
        // Ordinary workers may serve these lines, too.
        self.notify(usize::from(!changes.lines.is_nothing()));
        self.tell(changes);
        Ok(applied)
    }

    async fn documents(&self, kind: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>> {
        let mut state = self.state();
        let now = state.now();
        let first = DocumentKey::new(kind, after.map_or(prefix, |after| after.max(prefix)));
        let there = state.documents.range(first..).map(|(_, document)| document);
        let of_kind = there.take_while(|document| document.key.kind == kind && document.key.key.starts_with(prefix));
        let new = of_kind.filter(|document| after.is_none_or(|after| document.key.key.as_str() > after));
        Ok(new.filter(|document| document.is_there(now)).take(limit as usize).cloned().collect())
    }

    async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        let state = self.state();
        let Some(events) = state.streams.get(stream) else { return Ok(Vec::new()) };
        let first = events.partition_point(|event| event.position <= since);
        Ok(events.iter().skip(first).take(limit as usize).cloned().collect())
    }

    async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64> {
        let mut state = self.state();
        let Some(events) = state.streams.get_mut(stream) else { return Ok(0) };
        let gone = events.partition_point(|event| event.position <= upto);
        events.drain(..gone);
        Ok(gone as u64)
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        let state = self.state();
        let there = state.streams.iter().filter(|(stream, events)| stream.starts_with(prefix) && !events.is_empty());
        let mut streams: Vec<String> = there.map(|(stream, _)| stream.clone()).collect();
        streams.sort_unstable();
        Ok(streams)
    }

    async fn depths(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        let mut state = self.state();
        let now = state.now();
        Ok(lines.iter().map(|line| state.depth(line, cap, now)).collect())
    }

    async fn purge(&self, line: &str, what: Purge) -> Result<u64> {
        let (mut all, begun) = (0, self.state().now());
        loop {
            let gone = self.state().purge(line, what, begun);
            all += gone as u64;
            if gone < PART {
                break;
            }
            tokio::task::yield_now().await;
        }
        // What stands behind deleted ones may be first now.
        self.tell(Changes::lines([line.to_owned()]));
        Ok(all)
    }

    async fn peek(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        let mut state = self.state();
        let now = state.now();
        let ready = state.lines.get(line).into_iter().flatten().filter(|(_, run_at, _)| *run_at <= now);
        Ok(ready.filter_map(|(_, _, id)| state.jobs.get(id)).take(limit as usize).cloned().collect())
    }

    async fn sweep_documents(&self, limit: u32) -> Result<u64> {
        let mut state = self.state();
        let now = state.now();
        let expired = state.documents.values().filter(|document| !document.is_there(now));
        let expired: Vec<DocumentKey> = expired.take(limit as usize).map(|document| document.key.clone()).collect();
        for key in &expired {
            state.documents.remove(key);
        }
        Ok(expired.len() as u64)
    }

    fn news(&self) -> BoxStream<'static, News> {
        let changes = stream::unfold(self.changes.subscribe(), |mut changes| async move {
            let told = match changes.recv().await {
                Ok(changes) => changes,
                Err(RecvError::Lagged(_)) => Changes::anywhere(),
                Err(RecvError::Closed) => return None,
            };
            Some((News::Changed(told), changes))
        });
        stream::iter([News::Listening]).chain(changes).chain(stream::pending()).boxed()
    }
}

impl MemoryStorage {
    fn tell(&self, changes: Changes) {
        if !changes.is_nothing() {
            // Nobody may listen.
            let _ = self.changes.send(changes);
        }
    }
}

impl State {
    fn renew(&mut self, leases: &[(Receipt, Duration)]) -> Vec<JobId> {
        let now = self.now();
        let mut renewed = Vec::new();
        for (receipt, lasts) in leases {
            let Some(job) = self.jobs.get(&receipt.id).filter(|job| receipt.stands(job, now, false)) else { continue };
            let (lock, queue) = (super::state::lock_of(job), job.queue.clone());
            let end = later(now, *lasts);
            if let Some(held) = queue.and_then(|queue| self.queues.get_mut(&queue))
                && *held == lock
                && let Some(held) = held
            {
                held.at = end;
            }
            self.change(receipt.id, |job| job.locked_at = Some(end));
            renewed.push(receipt.id);
        }
        renewed
    }

    /// Also answers the lines in which something is ready now.
    fn end_leases(&mut self, of: Option<&[JobId]>) -> (Ended, BTreeSet<String>) {
        let now = self.now();
        let of: Option<HashSet<&JobId>> = of.map(|ids| ids.iter().collect());
        let is_asked = |id: &JobId| of.as_ref().is_none_or(|of| of.contains(id));
        let ended: Vec<JobId> =
            self.leases.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| *id).filter(is_asked).collect();
        let next = self.leases.iter().find(|(end, id)| *end > now && is_asked(id)).map(|(end, _)| *end);
        let lines = ended.iter().filter_map(|id| self.give_back(*id)).collect();
        (Ended::new(ended, next), lines)
    }

    /// Gives a job back whose lease has ended; answers its line.
    fn give_back(&mut self, id: JobId) -> Option<String> {
        let (lock, queue) = self.jobs.get(&id).map(|job| (super::state::lock_of(job), job.queue.clone()))?;
        self.free(queue.as_deref(), lock.as_ref());
        let job = self.change(id, |job| {
            job.locked_at = None;
            job.locked_by = None;
        });
        job.map(|job| job.task)
    }

    /// Frees a serial queue, if it is held so.
    fn free(&mut self, queue: Option<&str>, lock: Option<&Lock>) {
        if let Some(held) = queue.and_then(|queue| self.queues.get_mut(queue))
            && held.as_ref() == lock
        {
            *held = None;
        }
    }

    fn apply(&mut self, units: &[Unit]) -> (Vec<Applied>, Changes) {
        let needs = Needs::of(units);
        let versions = (0..needs.versions as u64).map(|n| self.last_version + 1 + n).collect();
        self.last_version += needs.versions as u64;
        let present = Present {
            now: self.now(),
            documents: needs
                .documents
                .iter()
                .filter_map(|key| self.documents.get(*key).map(|document| ((*key).clone(), document.clone())))
                .collect(),
            workers: needs
                .owners
                .iter()
                .filter(|owner| self.workers.contains_key(**owner))
                .map(|owner| (*owner).to_owned())
                .collect(),
            jobs: needs.jobs.iter().filter_map(|id| self.jobs.get(id).map(|job| (*id, job.clone()))).collect(),
            keys: needs
                .keys
                .iter()
                .filter(|key| self.by_key.contains_key(**key))
                .map(|key| (*key).to_owned())
                .collect(),
            busy: HashSet::new(),
            versions,
        };
        let now = present.now;
        let plan = Plan::of(units, present);
        for queue in &plan.freed {
            let lock = Lock { by: queue.locked_by.clone(), at: queue.locked_at };
            self.free(Some(&queue.name), Some(&lock));
        }
        for write in &plan.jobs {
            match write {
                JobWrite::Delete(id) => drop(self.delete(*id)),
                JobWrite::Keep { job, .. } => drop(self.change(job.id, |stored| stored.clone_from(job))),
            }
        }
        for (key, document) in &plan.documents {
            match document {
                Some(document) => drop(self.documents.insert(key.clone(), document.clone())),
                None => drop(self.documents.remove(key)),
            }
        }
        let added = plan.add.iter().map(|(_, jobs)| self.add(jobs)).collect();
        let mut positions = Vec::with_capacity(plan.events.len());
        for (_, event) in &plan.events {
            self.last_position += 1;
            let stored = Event::new(self.last_position, event.stream.clone(), now, event.payload.clone());
            self.streams.entry(event.stream.clone()).or_default().push_back(stored);
            positions.push(self.last_position);
        }
        let changes = plan.changes.clone();
        (plan.applied(added, positions), changes)
    }

    fn depth(&self, line: &str, cap: u32, now: DateTime<Utc>) -> Depth {
        let (mut ready, mut delayed) = (0, 0);
        let beyond = u64::from(cap) + 1;
        for (_, run_at, _) in self.lines.get(line).into_iter().flatten() {
            *(if *run_at <= now { &mut ready } else { &mut delayed }) += 1;
            if ready >= beyond && delayed >= beyond {
                break;
            }
        }
        Depth::new(line, [ready, delayed, self.held.get(line).map_or(0, BTreeSet::len) as u64], cap)
    }

    /// One part.
    fn purge(&mut self, line: &str, what: Purge, begun: DateTime<Utc>) -> usize {
        let now = self.now();
        let ready_by = match what {
            Purge::ReadyBefore(time) => time.min(now),
            _ => now,
        };
        let gone: Vec<JobId> = if what == Purge::All {
            // What came after the call began stays, or it might never end.
            let of_line = self.jobs.values().filter(|job| job.task == line && job.created_at <= begun);
            of_line.map(|job| job.id).take(PART).collect()
        } else {
            let ready = self.lines.get(line).into_iter().flatten().filter(|(_, run_at, _)| *run_at <= ready_by);
            ready.map(|(_, _, id)| *id).take(PART).collect()
        };
        for id in &gone {
            if let Some(job) = self.delete(*id) {
                self.free(job.queue.as_deref(), super::state::lock_of(&job).as_ref());
                debug_assert!(!self.available.contains(&place(&job)));
            }
        }
        gone.len()
    }
}
