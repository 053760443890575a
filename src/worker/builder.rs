//! Settings of a worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::shutdown::ShutdownHandle;
use crate::client::BackfillClient;
use crate::error::{Error, Result};
use crate::job::limits::check_task_name;
use crate::task::Handler;

/// More jobs at once than any machine runs; it keeps sums of it from overflowing.
const MAX_CONCURRENCY: usize = 1_000_000;
/// A year; it keeps moments in the future within what a clock can hold.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// What can be set about a worker.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub concurrency: usize,
    pub poll_interval: Duration,
    pub listen: bool,
    pub handle_signals: bool,
    pub cancel_after: Duration,
    pub grace: Duration,
    pub sign_of_life: Duration,
    pub dead_after: Duration,
}

/// Builds a [`Worker`].
#[derive(Debug)]
#[must_use]
pub struct WorkerBuilder {
    client: BackfillClient,
    handlers: Vec<Handler>,
    options: Options,
}

impl WorkerBuilder {
    pub(super) fn new(client: BackfillClient) -> Self {
        Self {
            client,
            handlers: Vec::new(),
            options: Options {
                concurrency: 10,
                poll_interval: Duration::from_secs(2),
                listen: true,
                handle_signals: true,
                cancel_after: Duration::from_secs(5),
                grace: Duration::from_secs(25),
                sign_of_life: Duration::from_secs(5),
                dead_after: Duration::from_secs(15),
            },
        }
    }

    /// Adds a task: a [`Task`](crate::Task), or what [`task_fn`](crate::task_fn) makes of a closure.
    pub fn task(mut self, task: impl Into<Handler>) -> Self {
        self.handlers.push(task.into());
        self
    }

    /// How many jobs run at the same time. Default: 10.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.options.concurrency = jobs;
        self
    }

    /// How often to look for jobs without being told. Matters for jobs whose time comes, and when wakeups are not
    /// delivered. Each wait is a random ±10 % of it. Default: 2 s, Graphile's; at least 1 ms.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval;
        self
    }

    /// Whether to listen for wakeups (on a connection of its own). Default: yes. If not, polling has to do.
    pub fn listen(mut self, listen: bool) -> Self {
        self.options.listen = listen;
        self
    }

    /// Whether [`Worker::run`] shuts down on SIGINT, SIGTERM and SIGHUP. Default: yes.
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.options.handle_signals = handle;
        self
    }

    /// How long after the start of a shutdown running jobs are asked to end. Default: 5 s, Graphile's.
    pub fn cancel_after(mut self, delay: Duration) -> Self {
        self.options.cancel_after = delay;
        self
    }

    /// How long after the start of a shutdown running jobs are dropped. Default: 25 s, which leaves five of the thirty
    /// seconds that Kubernetes and systemd-like supervisors usually give for writing results.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// How often the worker shows its sign of life, and after how long a silence it counts as dead for *other* workers
    /// with the same setting. Defaults: 5 s and 15 s. The second must be at least twice the first.
    pub fn presence(mut self, every: Duration, dead_after: Duration) -> Self {
        self.options.sign_of_life = every;
        self.options.dead_after = dead_after;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidWorker`] for settings that do not go together.
    pub fn build(self) -> Result<Worker> {
        let refuse = |problem: String| Err(Error::InvalidWorker(problem));
        let options = self.options;
        if !(1..=MAX_CONCURRENCY).contains(&options.concurrency) {
            return refuse(format!("concurrency is {}, and must be from 1 to {MAX_CONCURRENCY}", options.concurrency));
        }
        if options.poll_interval < Duration::from_millis(1) {
            return refuse(format!("the poll interval is {:?}, and must be at least 1 ms", options.poll_interval));
        }
        for (what, duration) in [
            ("the poll interval", options.poll_interval),
            ("cancel_after", options.cancel_after),
            ("the grace period", options.grace),
            ("the interval of signs of life", options.sign_of_life),
            ("the silence of the dead", options.dead_after),
        ] {
            if duration > MAX_DURATION {
                return refuse(format!("{what} is {duration:?}, and must be at most a year"));
            }
        }
        if options.sign_of_life.is_zero() || options.dead_after < options.sign_of_life * 2 {
            return refuse(format!(
                "a sign of life every {:?} and death after {:?} of silence: the second must be at least twice the first",
                options.sign_of_life, options.dead_after
            ));
        }
        if self.handlers.is_empty() {
            return refuse("it has no tasks; add some with WorkerBuilder::task".to_owned());
        }
        let mut handlers = HashMap::new();
        for handler in self.handlers {
            check_task_name(handler.name())?;
            if let Some(twice) = handlers.insert(handler.name().to_owned(), handler) {
                return refuse(format!("two tasks have the name {:?}", twice.name()));
            }
        }
        Ok(Worker { client: self.client, handlers: Arc::new(handlers), options, shutdown: ShutdownHandle::new() })
    }
}
