//! A storage in a file: a small one that keeps the rules of docs/storages.md.
//!
//! All jobs are in one `BTreeMap`. Each change is made to a copy, which is written to a new file, synced and renamed before the caller
//! gets its answer. So it is slow, and it is never half done. One process can have it open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use backfill_core::error::{Error, FailureKind, Result};
use backfill_core::job::{Job, JobId, NewJob, StoredJob};
use backfill_core::search::{Found, Search};
use backfill_core::storage::messages::Messages;
use backfill_core::storage::{
    Admin, Capabilities, Choice, Chooser, ClaimRef, ClaimRequest, ClaimToken, Claimed, ClaimedJob, Consumer, Counts,
    Doctor, Effort, Inspect, Migrated, Offers, Outcome, Precision, QueueInfo, QueueList, Registered, Registration,
    Rescued, Schedules, Settled, Settlement, Storage, Tally, TaskInfo, Transfer, Wakeup, Watch, WorkerId, WorkerInfo,
    WorkerStatus,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    last_id: i64,
    jobs: BTreeMap<JobId, StoredJob>,
    tasks: BTreeSet<String>,
    workers: BTreeMap<String, Registered>,
    /// The time of the call under way.
    #[serde(skip)]
    now: DateTime<Utc>,
    /// How many jobs it has made ready.
    #[serde(skip)]
    ready: u64,
}

/// A file with jobs. Clones share it.
#[derive(Clone, Debug)]
pub struct ToyStorage {
    path: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
    /// How many jobs were made ready so far.
    ready: Arc<watch::Sender<u64>>,
    _lock: Arc<File>,
}

impl ToyStorage {
    /// Opens a file, which is made if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error| Error::storage("open the file", FailureKind::Internal, error);
        let lock = File::create(path.with_extension("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| Error::storage("lock the file", FailureKind::Conflict, error))?;
        let text = fs::read(path).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(serde_json::to_vec(&State::default())?),
            _ => Err(error),
        });
        let state: State = serde_json::from_slice(&text.map_err(failed)?)
            .map_err(|error| Error::storage("read the file", FailureKind::Invalid, error))?;
        let (state, ready) = (Arc::new(Mutex::new(state)), Arc::new(watch::Sender::new(0)));
        Ok(Self { path: Arc::new(path.to_owned()), state, ready, _lock: Arc::new(lock) })
    }

    /// The state, at a time that is never the same twice: it names a claim.
    fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = Utc::now().trunc_subsecs(6).max(state.now + TimeDelta::microseconds(1));
        state
    }

    /// Makes a change, durably, and then tells how many jobs it has made ready.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut kept = self.read();
        let mut state = kept.clone();
        let answer = change(&mut state);
        let ready = std::mem::take(&mut state.ready);
        if state != *kept {
            self.write(&state).map_err(|error| Error::storage("write the file", FailureKind::Internal, error))?;
            *kept = state;
        }
        if ready > 0 {
            self.ready.send_modify(|total| *total += ready);
        }
        Ok(answer)
    }

    fn write(&self, state: &State) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        file.sync_all()?;
        fs::rename(&new, &*self.path)?;
        // The new name is durable only with its directory.
        File::open(std::path::absolute(&*self.path)?.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

fn token(job: &Job) -> ClaimToken {
    ClaimToken::from_number(job.locked_at.unwrap_or_default().timestamp_micros())
}

impl State {
    fn jobs(&self) -> impl Iterator<Item = &Job> + Clone {
        self.jobs.values().map(|job| &job.0)
    }

    fn add(&mut self, jobs: &[NewJob]) -> Vec<Job> {
        self.ready += jobs.len() as u64;
        jobs.iter().map(|new| self.add_one(new)).collect()
    }

    fn add_one(&mut self, new: &NewJob) -> Job {
        // Each a moment later than the one before, so that a batch keeps its order.
        self.now += TimeDelta::microseconds(1);
        self.tasks.insert(new.task.clone());
        let holder = self.jobs.values_mut().find(|job| new.key.is_some() && job.key == new.key);
        if let Some(job) = holder
            && new.meets(job, self.now)
        {
            return job.0.clone();
        }
        self.last_id += 1;
        let job = new.stored(self.last_id, new.due(self.now).trunc_subsecs(6), self.now);
        self.jobs.insert(job.id, StoredJob(job.clone()));
        job
    }

    fn claim(&mut self, request: &ClaimRequest<'_>) -> Claimed {
        if !self.workers.contains_key(request.worker.as_str()) {
            return Claimed::default();
        }
        let (now, ready_by) = (self.now, request.now.unwrap_or(self.now));
        let is_ready =
            |job: &&Job| job.locked_at.is_none() && job.attempts < job.max_attempts && job.run_at <= ready_by;
        let mut ready: Vec<&Job> = self.jobs().filter(is_ready).collect();
        ready.sort_by_key(|job| (job.priority, job.run_at, job.id));
        // A serial queue is held as long as one of its jobs is.
        let held = self.jobs().filter(|job| job.locked_at.is_some()).filter_map(|job| job.queue.as_deref());
        let mut chooser = Chooser::new(request, held);
        let looked = ready.into_iter().map(|job| (job.id, chooser.look(job))).take_while(|it| it.1 != Choice::End);
        let chosen: Vec<JobId> = looked.filter(|it| it.1 == Choice::Take).map(|it| it.0).collect();
        let mut claimed = chooser.claimed();
        for id in chosen {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.attempts += 1;
            (job.locked_by, job.locked_at) = (Some(request.worker.to_string()), Some(now));
            claimed.jobs.push(ClaimedJob::new(job.0.clone(), token(job)));
        }
        claimed
    }

    fn settle(&mut self, worker: &WorkerId, settled: &[Settlement]) -> Settled {
        let (mut applied, mut frees) = (Vec::new(), 0);
        for Settlement { claim, outcome, then, .. } in settled {
            let job = self.jobs.get_mut(&claim.id).filter(|job| job.locked_by.as_deref() == Some(worker.as_str()));
            let Some(job) = job.filter(|job| token(job) == claim.token) else { continue };
            if outcome.is_completed() {
                self.jobs.remove(&claim.id);
            } else {
                outcome.apply(claim, job, self.now);
            }
            self.ready += u64::from(outcome.releases() || claim.queue.is_some());
            self.add(&then.jobs);
            frees += usize::from(claim.queue.is_some());
            applied.push(claim.id);
        }
        Settled::applied(applied).freed_queues(frees)
    }

    fn release_untracked(&mut self, worker: &WorkerId, holds: &[JobId]) -> u64 {
        let is_untracked = |job: &&Job| job.locked_by.as_deref() == Some(worker.as_str()) && !holds.contains(&job.id);
        let release = |job| Settlement::new(ClaimRef::stored(job, token(job)), Outcome::Released);
        let released: Vec<Settlement> = self.jobs().filter(is_untracked).map(release).collect();
        self.settle(worker, &released).applied.len() as u64
    }

    fn release(&mut self, is_held: impl Fn(&str, DateTime<Utc>) -> bool, release: impl Fn(&mut Job)) -> u64 {
        let held =
            |job: &&mut StoredJob| job.locked_by.as_deref().zip(job.locked_at).is_some_and(|(by, at)| is_held(by, at));
        let released = self.jobs.values_mut().filter(held).map(|job| release(job)).count() as u64;
        self.ready += released;
        released
    }

    fn release_stale(&mut self) -> u64 {
        let (now, workers) = (self.now, self.workers.clone());
        let is_stale = |by: &str, at| at < now - TimeDelta::hours(4) && !workers.contains_key(by);
        self.release(is_stale, |job| (job.locked_by, job.locked_at, job.run_at) = (None, None, job.run_at.max(now)))
    }

    fn rescue(&mut self, watch: &Watch) -> Vec<Rescued> {
        let now = self.now;
        let dead: Vec<String> = self.workers.extract_if(.., |_, it| it.is_dead(watch, now)).map(|it| it.0).collect();
        let rescue = |worker: String| {
            let jobs = self.release(|by, _| by == worker, |job| Rescued::apply(&worker, job, now));
            Rescued { worker, jobs }
        };
        dead.into_iter().map(rescue).collect()
    }

    fn queues(&self) -> Vec<QueueInfo> {
        let names: BTreeSet<&str> = self.jobs().filter_map(|job| job.queue.as_deref()).collect();
        names.into_iter().map(|name| QueueInfo::of(name, self.jobs(), self.now)).collect()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        let registered = self.workers.iter().map(|(id, worker)| worker.info(id, self.now));
        WorkerInfo::holding(registered, self.jobs(), &self.queues())
    }
}

#[async_trait]
impl Storage for ToyStorage {
    fn name(&self) -> String {
        format!("toy, file {}", self.path.display())
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(1 << 20).durable()
    }
    async fn migrate(&self) -> Result<Migrated> {
        Ok(Migrated::new(None, 1))
    }
    async fn version(&self) -> Result<i32> {
        Ok(1)
    }
    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(self.read().now)
    }
    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        self.change(|state| state.add(jobs))
    }
    fn consumer(&self) -> Arc<dyn Consumer> {
        Arc::new(self.clone())
    }
    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
    fn schedules(&self) -> Option<&dyn Schedules> {
        None
    }
    fn admin(&self) -> Option<&dyn Admin> {
        None
    }
    fn transfer(&self) -> Option<&dyn Transfer> {
        None
    }
    fn messages(&self) -> Option<&dyn Messages> {
        None
    }
    fn doctor(&self) -> Option<&dyn Doctor> {
        None
    }
}

#[async_trait]
impl Consumer for ToyStorage {
    fn reconnect(&self) -> bool {
        false
    }
    async fn register(&self, new: &Registration<'_>) -> Result<bool> {
        self.change(|state| {
            state.tasks.extend(new.tasks.iter().cloned());
            let is_new = !state.workers.contains_key(new.worker.as_str());
            state.workers.entry(new.worker.to_string()).or_insert(Registered::new(new, state.now));
            is_new
        })
    }
    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        self.change(|state| {
            state.tasks.extend(tasks.iter().cloned());
            let worker = state.workers.get_mut(worker.as_str());
            worker.map(|worker| worker.tasks = tasks.iter().cloned().collect()).is_some()
        })
    }
    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.change(|state| state.workers.get_mut(worker.as_str()).map(|it| it.seen_at = state.now).is_some())
    }
    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        self.change(|state| {
            state.workers.entry(worker.to_string()).and_modify(|it| it.status = Some(status.clone()));
        })
    }
    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.change(|state| {
            state.workers.remove(worker.as_str());
            state.release_untracked(worker, &[]);
        })
    }
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        self.change(|state| state.claim(request))
    }
    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        self.change(|state| state.settle(worker, settled))
    }
    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        let state = self.read();
        Ok(ids.iter().copied().filter(|id| state.jobs.contains_key(id)).collect())
    }
    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        self.change(|state| state.release_untracked(worker, holds))
    }
    async fn release_stale(&self) -> Result<u64> {
        self.change(State::release_stale)
    }
    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        self.change(|state| state.rescue(watch))
    }
    fn wakeups(&self, _offers: Offers) -> BoxStream<'static, Wakeup> {
        Wakeup::by_count(self.ready.subscribe())
    }
}

#[async_trait]
impl Inspect for ToyStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.read().jobs.get(&id).map(|job| job.0.clone()))
    }
    async fn search(&self, search: &Search) -> Result<Found> {
        search.check()?;
        let state = self.read();
        Ok(search.among(state.jobs(), state.now))
    }
    async fn tally(&self, _: Effort) -> Result<Tally> {
        let state = self.read();
        Ok(Tally::of(&Counts::of(state.jobs(), state.now), Precision::Exact))
    }
    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        Ok(list.among(self.read().queues()))
    }
    async fn tasks(&self, _: Effort) -> Result<Vec<TaskInfo>> {
        let state = self.read();
        Ok(state.tasks.iter().map(|task| TaskInfo::of(task, state.jobs(), state.now)).collect())
    }
    async fn task_names(&self) -> Result<Vec<String>> {
        Ok(self.read().tasks.iter().cloned().collect())
    }
    async fn last_id(&self) -> Result<Option<JobId>> {
        Ok(Some(self.read().last_id.into()))
    }
    async fn workers(&self, _: Effort) -> Result<Vec<WorkerInfo>> {
        Ok(self.read().workers())
    }
    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.read().workers().into_iter().filter(|it| it.seen_at.is_some()).collect())
    }
}
