//! The rules of the queue over plain maps.

mod moving;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::job::limits::later;
use crate::job::{Job, JobId, JobKeyMode, JobState, NewJob, Payload, Priority, RunAt};
use crate::storage::clean_error;
use crate::storage::{
    ClaimRef, ClaimRequest, Claimed, Cleaned, Cleanup, Counts, DueJob, INTERRUPTED, JobFilter, KnownCrontab, Outcome,
    QueueInfo, Registration, Reschedule, Rescued, Settlement, TaskInfo, Watch, WorkerId, WorkerInfo,
};

/// Graphile's rule: a lock this old is no lock.
const STALE: TimeDelta = TimeDelta::hours(4);

/// The most jobs behind the others that are looked at because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

#[derive(Debug, Default)]
pub(super) struct State {
    jobs: BTreeMap<JobId, Job>,
    last_id: JobId,
    /// Jobs that may be claimed, in the order in which they are.
    available: BTreeSet<(Priority, DateTime<Utc>, JobId)>,
    by_key: HashMap<String, JobId>,
    /// Serial queues, and the claim that holds each.
    queues: BTreeMap<String, Option<Lock>>,
    tasks: BTreeSet<String>,
    /// Workers that send a heartbeat.
    workers: BTreeMap<String, Registered>,
    crontabs: BTreeMap<String, KnownCrontab>,
    /// Jobs that came from another storage: by whom, and their numbers there.
    imports: BTreeMap<String, HashSet<JobId>>,
    last_now: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug)]
struct Registered {
    tasks: Vec<String>,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    dead_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
struct Lock {
    by: String,
    at: DateTime<Utc>,
}

impl State {
    /// The present, never the same twice: the moment of a claim names it.
    fn now(&mut self) -> DateTime<Utc> {
        let mut now = Utc::now();
        if let Some(last) = self.last_now.filter(|last| now <= *last) {
            now = last + TimeDelta::microseconds(1);
        }
        self.last_now = Some(now);
        now
    }

    /// Changes one job and keeps the indexes true.
    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Option<Job> {
        let job = self.jobs.get_mut(&id)?;
        self.available.remove(&(job.priority, job.run_at, id));
        if let Some(key) = &job.key {
            self.by_key.remove(key);
        }
        change(job);
        let job = job.clone();
        self.index(&job);
        Some(job)
    }

    fn delete(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.available.remove(&(job.priority, job.run_at, id));
        if let Some(key) = &job.key {
            self.by_key.remove(key);
        }
        Some(job)
    }

    fn index(&mut self, job: &Job) {
        if is_available(job) {
            self.available.insert((job.priority, job.run_at, job.id));
        }
        if let Some(key) = &job.key {
            self.by_key.insert(key.clone(), job.id);
        }
    }

    pub(super) fn add(&mut self, jobs: &[NewJob]) -> Vec<Job> {
        // Each a moment later than the one before, so that a batch keeps its order.
        jobs.iter()
            .map(|new| {
                let now = self.now();
                self.add_one(new, now)
            })
            .collect()
    }

    fn add_one(&mut self, new: &NewJob, now: DateTime<Utc>) -> Job {
        self.tasks.insert(new.task.clone());
        if let Some(queue) = &new.queue {
            self.queues.entry(queue.clone()).or_default();
        }
        let holder = new.key.as_ref().and_then(|key| self.by_key.get(key)).copied();
        if let Some(id) = holder {
            if new.key_mode == JobKeyMode::UnsafeDedupe {
                let kept = self.change(id, |job| {
                    job.revision += 1;
                    job.updated_at = now;
                });
                if let Some(job) = kept {
                    return job;
                }
            } else if self.jobs.get(&id).is_some_and(is_available) {
                let updated = self.change(id, |job| replace(job, new, now));
                if let Some(job) = updated {
                    return job;
                }
            } else {
                self.take_key(id, now);
            }
        }
        self.last_id += 1;
        let job = new.stored(self.last_id, time_of(new.run_at, now), now);
        self.jobs.insert(job.id, job.clone());
        self.index(&job);
        job
    }

    /// A running or dead job gives its key up and will not run again.
    fn take_key(&mut self, id: JobId, now: DateTime<Utc>) -> Option<Job> {
        self.change(id, |job| {
            job.key = None;
            job.attempts = job.max_attempts;
            job.updated_at = now;
        })
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest<'_>) -> Claimed {
        if !self.workers.contains_key(request.worker.as_str()) {
            return Claimed::default();
        }
        let now = self.now();
        let ready_by = request.now.unwrap_or(now);
        let mut room: HashMap<&str, usize> = request.limits.iter().map(|(task, room)| (task.as_str(), *room)).collect();
        let may_run = |job: &Job| {
            request.tasks.contains(&job.task) && !job.flags.iter().any(|flag| request.forbidden_flags.contains(flag))
        };
        // Of each serial queue that was met, how many of its jobs are taken; `None` if no more may be: it is held, its first job is not
        // for this worker, or its run has ended.
        let mut queues: HashMap<&str, Option<usize>> = HashMap::new();
        let (mut chosen, mut bytes, mut heavy, mut for_free_slots) = (Vec::new(), 0, false, false);
        let (mut side_by_side, mut behind) = (0, 0);
        for (_, run_at, id) in &self.available {
            // Beyond what can run side by side there may be more of the runs.
            behind += usize::from(side_by_side >= request.limit);
            if heavy || behind > MAX_IN_RUNS.min(request.run_length.saturating_sub(1).saturating_mul(request.limit)) {
                break;
            }
            let Some(job) = self.jobs.get(id).filter(|_| *run_at <= ready_by) else { continue };
            let is_last = job.attempts + 1 >= job.max_attempts;
            let mut behind_first = false;
            if let Some(queue) = &job.queue {
                let is_free = self.queues.get(queue).is_none_or(Option::is_none);
                let state = queues.entry(queue).or_insert(is_free.then_some(0));
                let Some(taken) = *state else { continue };
                behind_first = taken > 0;
                let is_limited = room.contains_key(job.task.as_str());
                if !may_run(job) || (behind_first && (taken >= request.run_length || is_last || is_limited)) {
                    *state = None;
                    continue;
                }
            }
            if !behind_first {
                let is_full = side_by_side >= request.limit;
                if is_full || !may_run(job) || room.get(job.task.as_str()) == Some(&0) {
                    if let Some(queue) = &job.queue {
                        queues.insert(queue, None);
                    }
                    continue;
                }
                for_free_slots = is_last && side_by_side >= request.free_slots;
            }
            bytes += job.payload.as_str().len();
            heavy = bytes > request.max_bytes && !chosen.is_empty();
            if heavy || for_free_slots {
                break;
            }
            if let Some(taken) = job.queue.as_deref().and_then(|queue| queues.get_mut(queue)).and_then(Option::as_mut) {
                *taken += 1;
            }
            if !behind_first {
                side_by_side += 1;
                if let Some(room) = room.get_mut(job.task.as_str()) {
                    *room -= 1;
                }
            }
            chosen.push(*id);
        }
        let taken_queues: HashSet<String> =
            chosen.iter().filter_map(|id| self.jobs.get(id).and_then(|job| job.queue.clone())).collect();
        let lock = Lock { by: request.worker.to_string(), at: now };
        for queue in taken_queues {
            self.queues.insert(queue, Some(lock.clone()));
        }
        let more = heavy || for_free_slots || side_by_side >= request.limit;
        let jobs = chosen
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.attempts = job.attempts.saturating_add(1);
                    job.locked_by = Some(lock.by.clone());
                    job.locked_at = Some(now);
                })
            })
            .collect();
        Claimed { jobs, more, for_free_slots, rescan_after: None }
    }

    pub(super) fn settle(&mut self, worker: &WorkerId, settled: &[Settlement]) -> Vec<JobId> {
        let now = self.now();
        settled.iter().filter(|settlement| self.settle_one(worker, settlement, now)).map(|s| s.claim.id).collect()
    }

    /// Whether the next job of one of these queues, which are free, is of a task that this worker does not serve.
    pub(super) fn are_next_for_others(&mut self, worker: &WorkerId, queues: &[&str]) -> bool {
        if queues.is_empty() {
            return false;
        }
        let now = self.now();
        let queues: HashSet<&str> = queues.iter().copied().collect();
        let mut seen = HashSet::new();
        let ready =
            self.available.iter().filter(|(_, run_at, _)| *run_at <= now).filter_map(|(_, _, id)| self.jobs.get(id));
        let mut first = ready.filter(|job| {
            let queue = job.queue.as_deref().filter(|queue| queues.contains(*queue));
            queue.is_some_and(|queue| self.queues.get(queue).is_none_or(Option::is_none) && seen.insert(queue))
        });
        let served = self.workers.get(worker.as_str()).map(|registered| &registered.tasks);
        first.by_ref().take(queues.len()).any(|job| served.is_none_or(|tasks| !tasks.contains(&job.task)))
    }

    fn settle_one(&mut self, worker: &WorkerId, settlement: &Settlement, now: DateTime<Utc>) -> bool {
        let claim = &settlement.claim;
        let lock = Lock { by: worker.to_string(), at: claim.locked_at };
        if let Some(held) = claim.queue.as_ref().and_then(|queue| self.queues.get_mut(queue))
            && held.as_ref() == Some(&lock)
        {
            *held = None;
        }
        let stands = self
            .jobs
            .get(&claim.id)
            .is_some_and(|job| job.locked_by.as_ref() == Some(&lock.by) && job.locked_at == Some(lock.at));
        if !stands {
            return false;
        }
        if settlement.outcome == Outcome::Completed {
            self.delete(claim.id);
        } else {
            self.change(claim.id, |job| {
                write_outcome(job, claim, &settlement.outcome, now);
                job.locked_by = None;
                job.locked_at = None;
            });
        }
        true
    }

    pub(super) fn release_untracked(&mut self, worker: &WorkerId, holds: &[JobId]) -> usize {
        let unknown: Vec<Job> = self
            .jobs
            .values()
            .filter(|job| job.locked_by.as_deref() == Some(worker.as_str()) && !holds.contains(&job.id))
            .cloned()
            .collect();
        let released: Vec<Settlement> = unknown
            .iter()
            .map(|job| {
                let mut claim = ClaimRef::of(job);
                // A takeover leaves no key, all attempts used, and a moment of change after the claim's.
                claim.had_key = job.attempts >= job.max_attempts && job.updated_at > claim.locked_at;
                Settlement { claim, outcome: Outcome::Released }
            })
            .collect();
        self.settle(worker, &released).len()
    }

    pub(super) fn release_stale(&mut self) -> usize {
        let now = self.now();
        self.release(now, |lock| lock.at < now - STALE, None)
    }

    pub(super) fn unlock(&mut self, workers: &[String]) -> usize {
        for worker in workers {
            self.workers.remove(worker.as_str());
        }
        // Unlocking leaves run_at alone.
        self.release(DateTime::<Utc>::MIN_UTC, |lock| workers.contains(&lock.by), None)
    }

    /// Releases jobs and queues whose lock matches; jobs then run at `earliest` or later.
    fn release(&mut self, earliest: DateTime<Utc>, matches: impl Fn(&Lock) -> bool, error: Option<&str>) -> usize {
        for held in self.queues.values_mut() {
            if held.as_ref().is_some_and(&matches) {
                *held = None;
            }
        }
        let ids: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| lock_of(job).is_some_and(|lock| matches(&lock)))
            .map(|job| job.id)
            .collect();
        for id in &ids {
            self.change(*id, |job| {
                job.locked_by = None;
                job.locked_at = None;
                job.run_at = job.run_at.max(earliest);
                if let Some(error) = error {
                    job.last_error = Some(error.to_owned());
                    let spread = Rescued::spread(job.attempts) * fastrand::f64();
                    job.run_at = later(job.run_at, Duration::from_secs_f64(spread));
                }
            });
        }
        ids.len()
    }

    pub(super) fn register(&mut self, registration: &Registration<'_>) -> bool {
        let (now, worker) = (self.now(), registration.worker);
        self.tasks.extend(registration.tasks.iter().cloned());
        if self.workers.contains_key(worker.as_str()) {
            return false;
        }
        let dead_after = registration.dead_after.unwrap_or_default();
        let tasks = sorted(registration.tasks);
        self.workers.insert(worker.to_string(), Registered { tasks, started_at: now, seen_at: now, dead_after });
        true
    }

    pub(super) fn serve(&mut self, worker: &WorkerId, tasks: &[String]) -> bool {
        self.tasks.extend(tasks.iter().cloned());
        self.workers.get_mut(worker.as_str()).map(|registered| registered.tasks = sorted(tasks)).is_some()
    }

    pub(super) fn heartbeat(&mut self, worker: &WorkerId) -> bool {
        let now = self.now();
        self.workers.get_mut(worker.as_str()).map(|registered| registered.seen_at = now).is_some()
    }

    pub(super) fn deregister(&mut self, worker: &WorkerId) -> usize {
        self.workers.remove(worker.as_str());
        self.release_untracked(worker, &[])
    }

    pub(super) fn rescue(&mut self, watch: &Watch) -> Vec<Rescued> {
        let now = self.now();
        let is_dead = |registered: &Registered| {
            let dead_after = watch.dead_after.max(registered.dead_after);
            dead_after <= watch.contact && (now - registered.seen_at).to_std().is_ok_and(|ago| ago > dead_after)
        };
        let dead: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, registered)| is_dead(registered))
            .map(|(worker, _)| worker.clone())
            .collect();
        dead.into_iter()
            .map(|worker| {
                self.workers.remove(&worker);
                let error = Rescued::last_error(&worker);
                let jobs = self.release(now, |lock| lock.by == worker, Some(&error));
                Rescued { worker, jobs: jobs as u64 }
            })
            .collect()
    }

    pub(super) fn known_crontabs(&self) -> Vec<KnownCrontab> {
        self.crontabs.values().cloned().collect()
    }

    pub(super) fn register_crontabs(&mut self, identifiers: &[String], since: DateTime<Utc>) {
        for identifier in identifiers {
            self.crontabs
                .entry(identifier.clone())
                .or_insert_with(|| KnownCrontab::new(identifier.clone(), since, None));
        }
    }

    pub(super) fn add_due(&mut self, moment: DateTime<Utc>, due: &[DueJob]) -> Vec<Option<Job>> {
        due.iter()
            .map(|due| {
                let identifier = due.identifier.clone();
                let known = self
                    .crontabs
                    .entry(identifier.clone())
                    .or_insert_with(|| KnownCrontab::new(identifier, moment, None));
                if known.last_execution.is_some_and(|last| last >= moment) {
                    return None;
                }
                known.last_execution = Some(moment);
                let now = self.now();
                Some(self.add_one(&due.job, now))
            })
            .collect()
    }

    pub(super) fn queues(&mut self) -> Vec<QueueInfo> {
        let now = self.now();
        self.queues
            .iter()
            .map(|(name, lock)| {
                let counts = self.count(now, |job| job.queue.as_ref() == Some(name));
                let mut queue = QueueInfo::new(name.clone(), counts);
                queue.locked_at = lock.as_ref().map(|lock| lock.at);
                queue.locked_by = lock.as_ref().map(|lock| lock.by.clone());
                queue
            })
            .collect()
    }

    pub(super) fn last_id(&self) -> JobId {
        self.last_id
    }

    pub(super) fn task_names(&self) -> Vec<String> {
        self.tasks.iter().cloned().collect()
    }

    pub(super) fn tasks(&mut self) -> Vec<TaskInfo> {
        let now = self.now();
        self.tasks
            .iter()
            .map(|name| {
                let mut task = TaskInfo::new(name.clone(), self.count(now, |job| job.task == *name));
                let ready = self.jobs.values().filter(|job| job.task == *name && job.state(now) == JobState::Ready);
                task.oldest_ready = ready.map(|job| job.run_at).min();
                task
            })
            .collect()
    }

    pub(super) fn workers(&mut self) -> Vec<WorkerInfo> {
        let now = self.now();
        let mut workers: BTreeMap<String, WorkerInfo> = BTreeMap::new();
        for (id, registered) in &self.workers {
            let mut worker = WorkerInfo::new(id.clone());
            worker.started_at = Some(registered.started_at);
            worker.seen_at = Some(registered.seen_at);
            worker.tasks = Some(registered.tasks.clone());
            worker.last_seen_ago = (now - registered.seen_at).to_std().ok();
            workers.insert(id.clone(), worker);
        }
        let jobs = self.jobs.values().filter_map(lock_of).map(|lock| (lock, 1, 0));
        let queues = self.queues.values().flatten().cloned().map(|lock| (lock, 0, 1));
        for (lock, jobs, queues) in jobs.chain(queues) {
            let worker = workers.entry(lock.by.clone()).or_insert_with(|| WorkerInfo::new(lock.by));
            worker.jobs += jobs;
            worker.queues += queues;
            worker.oldest_lock = Some(worker.oldest_lock.map_or(lock.at, |oldest| oldest.min(lock.at)));
        }
        workers.into_values().collect()
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Job> {
        let now = self.now();
        let id = *self.by_key.get(key)?;
        if self.is_free(id, now) { self.delete(id) } else { self.take_key(id, now) }
    }

    pub(super) fn complete(&mut self, ids: &[JobId]) -> Vec<Job> {
        let now = self.now();
        self.free_ones(ids, now).into_iter().filter_map(|id| self.delete(id)).collect()
    }

    pub(super) fn discard(&mut self, ids: &[JobId], reason: &str) -> Vec<Job> {
        let now = self.now();
        let reason = clean_error(reason);
        self.free_ones(ids, now)
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.last_error = Some(reason.clone());
                    job.attempts = job.max_attempts;
                    job.updated_at = now;
                })
            })
            .collect()
    }

    pub(super) fn reschedule(&mut self, ids: &[JobId], change: &Reschedule) -> Vec<Job> {
        let now = self.now();
        let after = |delay| TimeDelta::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay));
        let run_at =
            change.run_at.or_else(|| change.run_in.map(|delay| after(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)));
        self.free_ones(ids, now)
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.run_at = run_at.unwrap_or(job.run_at);
                    job.priority = change.priority.unwrap_or(job.priority);
                    job.attempts = change.attempts.unwrap_or(job.attempts);
                    job.max_attempts = change.max_attempts.unwrap_or(job.max_attempts);
                    job.updated_at = now;
                })
            })
            .collect()
    }

    /// Which of these jobs nobody holds, each once, in the order of their ids.
    fn free_ones(&self, ids: &[JobId], now: DateTime<Utc>) -> BTreeSet<JobId> {
        ids.iter().copied().filter(|id| self.is_free(*id, now)).collect()
    }

    fn is_free(&self, id: JobId, now: DateTime<Utc>) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.locked_at.is_none_or(|at| at < now - STALE))
    }

    pub(super) fn clean(&mut self, what: &Cleanup) -> Cleaned {
        let mut cleaned = Cleaned::default();
        if what.dead_jobs {
            let dead: Vec<JobId> = self
                .jobs
                .values()
                .filter(|job| job.locked_at.is_none() && job.attempts >= job.max_attempts)
                .map(|job| job.id)
                .collect();
            cleaned.dead_jobs = dead.into_iter().filter_map(|id| self.delete(id)).count() as u64;
        }
        if what.tasks {
            let used: HashSet<&String> = self.jobs.values().map(|job| &job.task).chain(&what.keep_tasks).collect();
            let before = self.tasks.len();
            self.tasks.retain(|task| used.contains(task));
            cleaned.tasks = (before - self.tasks.len()) as u64;
        }
        if what.queues {
            let used: HashSet<&String> = self.jobs.values().filter_map(|job| job.queue.as_ref()).collect();
            let before = self.queues.len();
            self.queues.retain(|queue, held| held.is_some() || used.contains(queue));
            cleaned.queues = (before - self.queues.len()) as u64;
        }
        cleaned
    }

    pub(super) fn job(&self, id: JobId) -> Option<Job> {
        self.jobs.get(&id).cloned()
    }

    pub(super) fn list(&mut self, filter: &JobFilter) -> Vec<Job> {
        let now = self.now();
        let wanted = self
            .jobs
            .values()
            .filter(|job| {
                filter.state.is_none_or(|state| job.state(now) == state)
                    && filter.task.as_ref().is_none_or(|task| job.task == *task)
                    && filter.queue.as_ref().is_none_or(|queue| job.queue.as_ref() == Some(queue))
                    && filter.key.as_ref().is_none_or(|key| job.key.as_ref() == Some(key))
                    && filter.after.is_none_or(|id| job.id > id)
            })
            .take(filter.limit as usize);
        if !filter.payloads {
            return wanted.map(|job| Job { payload: Payload::empty(), ..job.clone() }).collect();
        }
        moving::within(filter.max_bytes.unwrap_or(u64::MAX), wanted, |job| job.payload.as_str().len())
            .cloned()
            .collect()
    }

    pub(super) fn counts(&mut self) -> Counts {
        let now = self.now();
        self.count(now, |_| true)
    }

    fn count(&self, now: DateTime<Utc>, of: impl Fn(&Job) -> bool) -> Counts {
        let mut counts = Counts::default();
        for job in self.jobs.values().filter(|job| of(job)) {
            counts.add(job.state(now), 1);
        }
        counts
    }
}

fn is_available(job: &Job) -> bool {
    job.locked_at.is_none() && job.attempts < job.max_attempts
}

fn sorted(tasks: &[String]) -> Vec<String> {
    tasks.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn lock_of(job: &Job) -> Option<Lock> {
    Some(Lock { by: job.locked_by.clone()?, at: job.locked_at? })
}

fn time_of(when: Option<RunAt>, now: DateTime<Utc>) -> DateTime<Utc> {
    when.map_or(now, |when| when.by(now))
}

/// A waiting job takes over everything from the new one.
fn replace(job: &mut Job, new: &NewJob, now: DateTime<Utc>) {
    let keep_time = new.key_mode == JobKeyMode::PreserveRunAt && job.attempts == 0;
    if !keep_time {
        job.run_at = time_of(new.run_at, now);
    }
    job.task.clone_from(&new.task);
    job.queue.clone_from(&new.queue);
    job.payload = job.payload.joined(&new.payload).unwrap_or_else(|| new.payload.clone());
    job.max_attempts = new.max_attempts;
    job.priority = new.priority;
    job.flags.clone_from(&new.flags);
    job.revision += 1;
    job.attempts = 0;
    job.last_error = None;
    job.updated_at = now;
}

fn write_outcome(job: &mut Job, claim: &ClaimRef, outcome: &Outcome, now: DateTime<Utc>) {
    // Its key was taken while it ran: it was replaced or removed, and must stay unavailable.
    let taken_over = claim.had_key && job.key.is_none();
    match outcome {
        Outcome::Completed => {}
        Outcome::Failed { error, retry, payload } => {
            job.last_error = Some(clean_error(error));
            job.run_at = match retry {
                RunAt::Time(time) => *time,
                RunAt::In(delay) => later(job.run_at.max(now), *delay),
            };
            if let Some(payload) = payload {
                job.payload = payload.clone();
            }
        }
        Outcome::Dead { error } => {
            job.last_error = Some(clean_error(error));
            job.attempts = job.max_attempts;
        }
        Outcome::Snoozed { until } => {
            job.run_at = time_of(Some(*until), now);
            if !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
        Outcome::Interrupted { error, wait, payload } => {
            let again = job.last_error.as_ref().is_some_and(|last| last.starts_with(INTERRUPTED));
            if again {
                let spread = Rescued::spread(job.attempts) * fastrand::f64();
                job.run_at = later(job.run_at.max(now), wait.saturating_add(Duration::from_secs_f64(spread)));
            } else if !wait.is_zero() {
                job.run_at = later(job.run_at.max(now), *wait);
            }
            job.last_error = Some(clean_error(error));
            if let Some(payload) = payload {
                job.payload = payload.clone();
            }
            if !again && !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
        Outcome::Released => {
            if !taken_over {
                job.attempts = (job.attempts - 1).max(0);
            }
        }
    }
}
