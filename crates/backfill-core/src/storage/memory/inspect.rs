//! Looking at jobs, queues, tasks and workers.

use async_trait::async_trait;

use super::MemoryStorage;
use super::state::State;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::search::{Found, Search};
use crate::storage::{Counts, Effort, Inspect, Precision, QueueInfo, QueueList, Tally, TaskInfo, WorkerInfo};

#[async_trait]
impl Inspect for MemoryStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.state().job(id))
    }

    async fn search(&self, search: &Search) -> Result<Found> {
        search.check()?;
        Ok(self.state().search(search))
    }

    async fn tally(&self, _: Effort) -> Result<Tally> {
        Ok(Tally::of(&self.state().counts(), Precision::Exact))
    }

    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        Ok(list.among(self.state().queues()))
    }

    async fn tasks(&self, _: Effort) -> Result<Vec<TaskInfo>> {
        Ok(self.state().tasks())
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        Ok(self.state().task_names())
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        Ok(Some(self.state().last_id()))
    }

    async fn workers(&self, _: Effort) -> Result<Vec<WorkerInfo>> {
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

    pub(super) fn search(&mut self, search: &Search) -> Found {
        let now = self.now();
        search.among(self.jobs.values(), now)
    }

    pub(super) fn counts(&mut self) -> Counts {
        let now = self.now();
        Counts::of(self.jobs.values(), now)
    }

    pub(super) fn queues(&mut self) -> Vec<QueueInfo> {
        let now = self.now();
        let queues = self.queues.iter().map(|(name, lock)| {
            let mut queue = QueueInfo::of(name, self.jobs.values(), now);
            queue.locked_at = lock.as_ref().map(|lock| lock.at);
            queue.locked_by = lock.as_ref().map(|lock| lock.by.clone());
            queue
        });
        queues.collect()
    }

    pub(super) fn tasks(&mut self) -> Vec<TaskInfo> {
        let now = self.now();
        self.tasks.iter().map(|name| TaskInfo::of(name, self.jobs.values(), now)).collect()
    }

    pub(super) fn task_names(&self) -> Vec<String> {
        self.tasks.iter().cloned().collect()
    }

    pub(super) fn workers(&mut self) -> Vec<WorkerInfo> {
        let now = self.now();
        let queues = self.queues();
        let registered = self.workers.iter().map(|(id, registered)| registered.info(id, now));
        WorkerInfo::holding(registered, self.jobs.values(), &queues)
    }
}
