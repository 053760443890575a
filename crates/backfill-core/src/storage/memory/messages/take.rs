//! Taking jobs by their lines.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use chrono::{DateTime, Utc};

use super::super::claim::token;
use super::super::state::{Lock, Place, State, place};
use crate::job::{Job, JobId};
use crate::storage::messages::{Holder, Take, Taken, TakenJob};

impl State {
    pub(super) fn take(&mut self, request: &Take<'_>) -> Taken {
        let now = self.now();
        let is_there = |key| self.documents.get(key).is_some_and(|document| document.is_there(now));
        if let Some(stop) = request.unless.iter().find(|key| is_there(key)) {
            return Taken::stopped_by(stop.clone());
        }
        if let Holder::Worker(worker) = request.holder
            && !self.workers.contains_key(worker.as_str())
        {
            return Taken::default();
        }
        if request.in_line {
            // What an ended lease holds stands before what is behind it.
            self.end_leases(None);
        }
        let ready_by = request.ready_by.unwrap_or(now);
        let lock = Lock { by: request.holder_name(), at: request.locked_at(now) };
        let mut room = Room { bytes: request.max_bytes, any: false };
        let mut taken = Vec::new();
        for (line, limit) in request.lines {
            let chosen = if request.in_line {
                self.choose_in_line(line, *limit, ready_by, &mut room)
            } else {
                self.choose(line, *limit, ready_by, &mut room)
            };
            for id in chosen {
                let job = self.change(id, |job| {
                    job.attempts = job.attempts.saturating_add(1);
                    job.locked_at = Some(lock.at);
                    job.locked_by = Some(lock.by.clone());
                });
                let Some(job) = job else { continue };
                match &job.queue {
                    Some(queue) if request.in_line => drop(self.turns.insert((line.clone(), queue.clone()), now)),
                    Some(queue) => drop(self.queues.insert(queue.clone(), Some(lock.clone()))),
                    None => {}
                }
                let hold = request.hold(&job, token(lock.at));
                taken.push(TakenJob::new(job, hold));
            }
        }
        Taken::jobs(taken)
    }

    /// The first ready jobs of a line, of each serial queue one, if nobody holds it.
    fn choose(&self, line: &str, limit: usize, ready_by: DateTime<Utc>, room: &mut Room) -> Vec<JobId> {
        let (mut chosen, mut queues) = (Vec::new(), HashSet::new());
        // Whether by a worker, a lease, or in line.
        let held: HashSet<&str> = self
            .held
            .get(line)
            .into_iter()
            .flatten()
            .filter_map(|(_, _, id)| self.jobs.get(id)?.queue.as_deref())
            .collect();
        for (_, run_at, id) in self.lines.get(line).into_iter().flatten() {
            let Some(job) = self.jobs.get(id).filter(|_| *run_at <= ready_by) else { continue };
            if chosen.len() >= limit {
                break;
            }
            if let Some(queue) = &job.queue
                && (held.contains(queue.as_str())
                    || self.queues.get(queue).is_some_and(Option::is_some)
                    || !queues.insert(queue))
            {
                continue;
            }
            if !room.takes(job) {
                break;
            }
            chosen.push(*id);
        }
        chosen
    }

    /// The same, in line: of each queue as many as there are before one that is held. A job without a queue is a queue by itself.
    fn choose_in_line(&self, line: &str, limit: usize, ready_by: DateTime<Utc>, room: &mut Room) -> Vec<JobId> {
        let mut first_held: BTreeMap<&str, Place> = BTreeMap::new();
        for held in self.held.get(line).into_iter().flatten() {
            if let Some(queue) = self.jobs.get(&held.2).and_then(|job| job.queue.as_deref()) {
                first_held.entry(queue).or_insert(*held);
            }
        }
        let mut queues: BTreeMap<Option<&str>, Vec<&Job>> = BTreeMap::new();
        let mut alone: Vec<Vec<&Job>> = Vec::new();
        let ready = self.lines.get(line).into_iter().flatten().filter(|(_, run_at, _)| *run_at <= ready_by);
        for job in ready.filter_map(|(_, _, id)| self.jobs.get(id)) {
            match job.queue.as_deref() {
                None => alone.push(vec![job]),
                queue => {
                    let held = queue.and_then(|queue| first_held.get(queue));
                    let before =
                        (Bound::Unbounded::<Place>, held.map_or(Bound::Unbounded, |held| Bound::Excluded(*held)));
                    if std::ops::RangeBounds::contains(&before, &place(job)) {
                        queues.entry(queue).or_default().push(job);
                    }
                }
            }
        }
        let turn = |jobs: &Vec<&Job>| {
            let first = jobs.first()?;
            let turn = first.queue.as_ref().and_then(|queue| self.turns.get(&(line.to_owned(), queue.clone())));
            Some((turn.copied(), place(first)))
        };
        let mut groups: Vec<Vec<&Job>> = queues.into_values().chain(alone).collect();
        groups.sort_by_cached_key(turn);
        let mut chosen = Vec::new();
        'line: for group in groups {
            for job in group {
                if chosen.len() >= limit || !room.takes(job) {
                    break 'line;
                }
                chosen.push(job.id);
            }
        }
        chosen
    }
}

/// How many bytes of payloads there may be.
struct Room {
    bytes: usize,
    any: bool,
}

impl Room {
    /// Whether a job may be taken, too; the first one always.
    fn takes(&mut self, job: &Job) -> bool {
        let bytes = job.payload.as_str().len();
        if self.any && bytes > self.bytes {
            return false;
        }
        self.any = true;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}
