//! Looking at jobs, queues, tasks and workers.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::MemoryStorage;
use super::state::{State, lock_of};
use super::transfer::within;
use crate::error::Result;
use crate::job::{Job, JobId, JobState, Payload};
use crate::storage::{Counts, Inspect, JobFilter, QueueInfo, TaskInfo, WorkerInfo};

#[async_trait]
impl Inspect for MemoryStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.state().job(id))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        Ok(self.state().list(filter))
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.state().counts())
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        Ok(self.state().queues())
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        Ok(self.state().tasks())
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        Ok(self.state().task_names())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.state().workers())
    }

    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.state().workers().into_iter().filter(|worker| worker.seen_at.is_some()).collect())
    }
}

impl State {
    pub(super) fn job(&self, id: JobId) -> Option<Job> {
        self.jobs.get(&id).cloned()
    }

    pub(super) fn list(&mut self, filter: &JobFilter) -> Vec<Job> {
        let now = self.now();
        let wanted = self.jobs.values().filter(|job| filter.matches(job, now)).take(filter.limit as usize);
        if !filter.payloads {
            return wanted.map(|job| Job { payload: Payload::empty(), ..job.clone() }).collect();
        }
        within(filter.max_bytes.unwrap_or(u64::MAX), wanted, |job| job.payload.as_str().len()).cloned().collect()
    }

    pub(super) fn counts(&mut self) -> Counts {
        let now = self.now();
        self.count(now, |_| true)
    }

    pub(super) fn count(&self, now: DateTime<Utc>, of: impl Fn(&Job) -> bool) -> Counts {
        let mut counts = Counts::default();
        for job in self.jobs.values().filter(|job| of(job)) {
            counts.add(job.state(now), 1);
        }
        counts
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

    pub(super) fn task_names(&self) -> Vec<String> {
        self.tasks.iter().cloned().collect()
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
}
