//! Steering a worker while it runs.

use std::sync::Arc;

use tokio::sync::watch;

use super::ShutdownHandle;
use super::work::Work;
use crate::error::{Error, Result};
use crate::task::{Handler, IntoHandler};

/// Changes what a worker does, while it runs or before. Cheap to clone.
///
/// ```
/// # use backfill::{BackfillClient, task_fn, JobContext};
/// # fn example(jobs: BackfillClient) -> backfill::Result<()> {
/// # let greet = task_fn("greet", |_: String, _: JobContext| async {});
/// # let tidy = task_fn("tidy", |_: (), _: JobContext| async {});
/// let worker = jobs.worker().task(greet).concurrency(8).build()?;
/// let handle = worker.handle();
/// handle.add_task(tidy)?;
/// handle.set_concurrency(20)?;
/// handle.set_limit("greet", Some(4))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    work: Arc<watch::Sender<Arc<Work>>>,
    shutdown: ShutdownHandle,
}

impl WorkerHandle {
    pub(super) fn new(work: &Arc<watch::Sender<Arc<Work>>>, shutdown: &ShutdownHandle) -> Self {
        Self { work: Arc::clone(work), shutdown: shutdown.clone() }
    }

    /// Ends the worker in an orderly way, when it is told to.
    #[must_use]
    pub fn shutdown(&self) -> &ShutdownHandle {
        &self.shutdown
    }

    /// The names of the tasks it runs, sorted.
    #[must_use]
    pub fn tasks(&self) -> Vec<String> {
        self.work.borrow().names.to_vec()
    }

    /// How many jobs it runs at the same time.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.work.borrow().concurrency
    }

    /// Runs these tasks from now on, instead of those that it has. Jobs that run go on as they are, and those of
    /// tasks that it has no more are left to other workers.
    ///
    /// # Errors
    /// [`Error::InvalidWorker`] for settings that do not go together; then nothing changes. So for each of these methods.
    pub fn set_tasks(&self, tasks: impl IntoIterator<Item = impl Into<Handler>>) -> Result<()> {
        let tasks: Vec<Handler> = tasks.into_iter().map(Into::into).collect();
        self.change(|work| Work::check(work.concurrency, tasks))
    }

    /// Runs this task too; in the place of the one of this name, if there is one.
    ///
    /// # Errors
    /// As [`set_tasks`](Self::set_tasks).
    pub fn add_task<Form>(&self, task: impl IntoHandler<Form>) -> Result<()> {
        let new = task.into_handler();
        self.change(|work| {
            work.with_tasks(|tasks| {
                tasks.retain(|task| task.name() != new.name());
                tasks.push(new);
            })
        })
    }

    /// Runs this task no more. Its jobs that run go on; the others are left to other workers.
    ///
    /// # Errors
    /// [`Error::InvalidWorker`] if it does not run it.
    pub fn remove_task(&self, name: &str) -> Result<()> {
        self.known(name)?;
        self.change(|work| work.with_tasks(|tasks| tasks.retain(|task| task.name() != name)))
    }

    /// Runs so many jobs at the same time from now on. Where more run at this moment, they go on, and no other starts.
    ///
    /// # Errors
    /// As [`set_tasks`](Self::set_tasks).
    pub fn set_concurrency(&self, jobs: usize) -> Result<()> {
        self.change(|work| {
            let mut work = Work::clone(work);
            work.concurrency = jobs;
            work.with_tasks(|_| {})
        })
    }

    /// Runs so many jobs of this task at the same time from now on; `None` for as many as of all tasks together.
    ///
    /// # Errors
    /// As [`set_tasks`](Self::set_tasks), and if it does not run the task.
    pub fn set_limit(&self, name: &str, jobs: Option<usize>) -> Result<()> {
        self.known(name)?;
        self.change(|work| {
            work.with_tasks(|tasks| {
                for task in tasks.iter_mut().filter(|task| task.name() == name) {
                    *task = task.clone().with_concurrency(jobs);
                }
            })
        })
    }

    fn known(&self, name: &str) -> Result<()> {
        if self.work.borrow().handlers.contains_key(name) {
            return Ok(());
        }
        Err(Error::InvalidWorker(format!("it does not run the task {name:?}; its tasks are {:?}", self.tasks())))
    }

    fn change(&self, change: impl FnOnce(&Work) -> Result<Work>) -> Result<()> {
        let mut changed = Ok(());
        self.work.send_if_modified(|work| match change(work) {
            Ok(new) => {
                *work = Arc::new(new);
                true
            }
            Err(error) => {
                changed = Err(error);
                false
            }
        });
        changed
    }
}
