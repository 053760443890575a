//! The tasks that a worker runs, which may change while it does.

use std::collections::HashMap;
use std::sync::Arc;

use super::builder::MAX_DURATION;
use crate::error::{Error, Result};
use crate::job::limits::check_task_name;
use crate::task::Handler;

/// The tasks of a worker at some moment.
#[derive(Debug)]
pub(super) struct Tasks {
    pub handlers: Arc<HashMap<String, Arc<Handler>>>,
    /// Their names, sorted.
    pub names: Arc<[String]>,
    /// Those that have a limit of their own.
    pub limited: Vec<(String, usize)>,
    /// The others: jobs of these may be handed off at any moment.
    pub offered: Arc<[String]>,
}

impl Tasks {
    /// # Errors
    /// [`Error::InvalidWorker`] for settings that do not go together, and for a name that no task can have.
    pub(super) fn check(tasks: Vec<Handler>) -> Result<Self> {
        let refuse = |problem: String| Err(Error::InvalidWorker(problem));
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
        Ok(Self { limited, offered, names: names.into(), handlers: Arc::new(handlers) })
    }
}
