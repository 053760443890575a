//! What a worker does: its tasks, and how many jobs at once. Both may change while it runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::builder::{MAX_CONCURRENCY, MAX_DURATION};
use crate::error::{Error, Result};
use crate::job::limits::check_task_name;
use crate::task::Handler;

/// The work of a worker at some moment.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// How many jobs it runs at the same time.
    pub concurrency: usize,
    pub handlers: Arc<HashMap<String, Arc<Handler>>>,
    /// Their names, sorted.
    pub names: Arc<[String]>,
    /// Those that have a limit of their own.
    pub limited: Vec<(String, usize)>,
    /// The others: jobs of these may be handed off at any moment.
    pub offered: Arc<[String]>,
}

impl Work {
    /// # Errors
    /// [`Error::InvalidWorker`] for settings that do not go together, and for a name that no task can have.
    pub(super) fn check(concurrency: usize, tasks: Vec<Handler>) -> Result<Self> {
        let refuse = |problem: String| Err(Error::InvalidWorker(problem));
        if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
            return refuse(format!("concurrency is {concurrency}, and must be from 1 to {MAX_CONCURRENCY}"));
        }
        let mut handlers = HashMap::new();
        for handler in tasks {
            check_task_name(handler.name())?;
            if handler.concurrency_limit() == Some(0) {
                return refuse(format!(
                    "the task {:?} may run 0 jobs at the same time; at least 1 is needed",
                    handler.name()
                ));
            }
            if let Some(limit) = handler.time_limit().filter(|limit| limit.is_zero() || *limit > MAX_DURATION) {
                let name = handler.name();
                return refuse(format!(
                    "the task {name:?} has a timeout of {limit:?}; more than 0 and at most a year is possible"
                ));
            }
            if let Some(twice) = handlers.insert(handler.name().to_owned(), Arc::new(handler)) {
                return refuse(format!("two tasks have the name {:?}", twice.name()));
            }
        }
        let mut names: Vec<String> = handlers.keys().cloned().collect();
        names.sort_unstable();
        let limit = |name: &String| handlers.get(name).and_then(|handler| handler.concurrency_limit());
        let limited = names.iter().filter_map(|name| Some((name.clone(), limit(name)?))).collect();
        let offered = names.iter().filter(|name| limit(name).is_none()).cloned().collect();
        Ok(Self { concurrency, limited, offered, names: names.into(), handlers: Arc::new(handlers) })
    }

    /// The same tasks, changed.
    pub(super) fn with_tasks(&self, change: impl FnOnce(&mut Vec<Handler>)) -> Result<Self> {
        let mut tasks: Vec<Handler> = self.handlers.values().map(|handler| Handler::clone(handler)).collect();
        change(&mut tasks);
        Self::check(self.concurrency, tasks)
    }
}
