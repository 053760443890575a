//! Adds that run their jobs at once.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::perform::{Ran, run};
use crate::client::BackfillClient;
use crate::error::{Error, FailureKind, Result};
use crate::job::{Job, NewJob, RunAt};
use crate::storage::messages::Messages;
use crate::storage::{
    Admin, AnyStorage, Capabilities, Consumer, Doctor, Inspect, Migrated, Outcome, Reschedule, Schedules, Storage,
    Transfer,
};
use crate::task::{Chain, Handler};
use crate::worker::Worker;

/// A client whose adds run their jobs by this worker's tasks.
pub(super) fn client(client: &BackfillClient, worker: &Worker) -> BackfillClient {
    let handlers = worker.tasks().iter().filter_map(|task| worker.handler(task)).collect();
    InlineStorage { inner: client.any_storage().clone(), middleware: worker.middleware().clone(), handlers }.client()
}

/// A storage that runs what is added to it.
#[derive(Clone, Debug)]
struct InlineStorage {
    inner: AnyStorage,
    middleware: Chain,
    handlers: Arc<[Arc<Handler>]>,
}

impl InlineStorage {
    fn client(&self) -> BackfillClient {
        BackfillClient::with_storage(self.inner.clone().behind(Arc::new(self.clone())))
    }

    /// Runs a job that was added, and deletes it: what it failed with is told by the error.
    async fn run(&self, mut job: Job) -> Result<()> {
        let failed = |text: String| Err(Error::storage("run the job at once", FailureKind::Refused, text));
        let (id, admin) = (job.id, self.inner.require_admin()?);
        job.attempts += 1;
        let Some(handler) = self.handlers.iter().find(|handler| handler.name() == job.task) else {
            admin.complete(&[id]).await?;
            return failed(format!("the task {:?} is not registered with the worker", job.task));
        };
        let Ran { outcome, then } = run(&self.middleware, handler, &Arc::new(job), self.client()).await;
        match outcome {
            Outcome::Completed { .. } => {
                admin.complete(&[id]).await?;
                if !then.jobs.is_empty() {
                    self.add(&then.jobs).await?;
                }
                Ok(())
            }
            Outcome::Snoozed { until, .. } => {
                let change = match until {
                    RunAt::Time(time) => Reschedule::new().run_at(time),
                    RunAt::In(delay) => Reschedule::new().run_in(delay),
                };
                admin.reschedule(&[id], &change).await.map(drop)
            }
            Outcome::Failed { error, .. } | Outcome::Dead { error, .. } => {
                admin.complete(&[id]).await?;
                failed(error)
            }
            other => failed(format!("it ended as {other:?}")),
        }
    }
}

#[async_trait]
impl Storage for InlineStorage {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.inner.migrate().await
    }

    async fn version(&self) -> Result<i32> {
        self.inner.version().await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.inner.now().await
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        let added = self.inner.add(jobs).await?;
        let now = self.inner.now().await?;
        for job in added.iter().filter(|job| job.run_at <= now && job.locked_at.is_none()) {
            self.run(job.clone()).await?;
        }
        Ok(added)
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        self.inner.consumer()
    }

    fn schedules(&self) -> Option<&dyn Schedules> {
        self.inner.schedules()
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.inner.inspect()
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        self.inner.transfer()
    }

    fn messages(&self) -> Option<&dyn Messages> {
        self.inner.messages()
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        self.inner.doctor()
    }
}
