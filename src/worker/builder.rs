//! Settings of a worker.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Worker;
use super::events::Events;
use super::flags::ForbiddenFlags;
use super::maintenance::Timing;
use super::prefetch::Prefetch;
use super::settler::Summary;
use super::shutdown::ShutdownHandle;
use super::work::Work;
use crate::client::BackfillClient;
use crate::cron::{CronEntry, Crontab};
use crate::error::{Error, Result};
use crate::job::limits::check_flag;
use crate::task::{Chain, Handler, IntoHandler, Middleware, TaskError};

/// More jobs at once than any machine runs; it keeps sums of it from overflowing.
pub(super) const MAX_CONCURRENCY: usize = 1_000_000;
/// More events than anybody wants to keep.
const MAX_EVENTS: usize = 1_000_000;
/// A year; it keeps moments in the future within what a clock can hold.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// What can be set about a worker.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub poll_interval: Duration,
    pub listen: bool,
    pub handle_signals: bool,
    pub second_signal_after: Duration,
    pub cancel_after: Duration,
    pub grace: Duration,
    pub timing: Timing,
    pub forbidden_flags: ForbiddenFlags,
    pub prefetch: Option<Prefetch>,
    pub accept_handoffs: bool,
}

/// Builds a [`Worker`].
#[must_use]
pub struct WorkerBuilder {
    client: BackfillClient,
    handlers: Vec<Handler>,
    middleware: Vec<Arc<dyn Middleware>>,
    crontab: Vec<CronEntry>,
    event_capacity: usize,
    concurrency: usize,
    options: Options,
}

impl WorkerBuilder {
    pub(super) fn new(client: BackfillClient) -> Self {
        Self {
            client,
            handlers: Vec::new(),
            middleware: Vec::new(),
            crontab: Vec::new(),
            event_capacity: 1024,
            concurrency: 10,
            options: Options {
                poll_interval: Duration::from_secs(2),
                listen: true,
                handle_signals: true,
                second_signal_after: Duration::from_secs(5),
                cancel_after: Duration::from_secs(5),
                grace: Duration::from_secs(25),
                timing: Timing::default(),
                forbidden_flags: ForbiddenFlags::List(Vec::new()),
                prefetch: None,
                accept_handoffs: true,
            },
        }
    }

    /// Adds a task: an `async fn` of a payload that names it, a [`Task`](crate::Task), or a [`Handler`], as
    /// [`handler_with`](crate::handler_with) makes of a function and what it needs, and [`task_fn`](crate::task_fn) of a closure.
    pub fn task<Form>(mut self, task: impl IntoHandler<Form>) -> Self {
        self.handlers.push(task.into_handler());
        self
    }

    /// Adds what wraps every task. The first one added is the outermost.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Also adds the jobs of this crontab when they are due. Any number of workers, in either language, may run the same
    /// crontab; the worker need not serve its tasks. May be called repeatedly.
    pub fn crontab(mut self, crontab: Crontab) -> Self {
        self.crontab.extend(crontab.into_entries());
        self
    }

    /// Adds one entry to the crontab.
    pub fn cron(mut self, entry: CronEntry) -> Self {
        self.crontab.push(entry);
        self
    }

    /// Leaves jobs alone that have any of these flags. Default: none.
    pub fn forbidden_flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.options.forbidden_flags = ForbiddenFlags::List(flags.into_iter().map(Into::into).collect());
        self
    }

    /// The same, asked before each claim, such as for a rate limit that is used up. While the function fails, nothing is
    /// claimed, and it is asked again after a growing delay. Jobs that were claimed ahead, or prefetched, are not asked
    /// about again.
    pub fn forbidden_flags_with<F, Fut, E>(mut self, flags: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<String>, E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.options.forbidden_flags = ForbiddenFlags::ask(flags);
        self
    }

    /// Holds jobs ready inside the worker, beyond those that run. Default: only what can start within milliseconds.
    pub fn prefetch(mut self, prefetch: Prefetch) -> Self {
        self.options.prefetch = Some(prefetch);
        self
    }

    /// How often jobs are looked for whose locks are older than four hours: at random between these. Default: Graphile's 8
    /// and 10 minutes.
    pub fn sweep_interval(mut self, least: Duration, most: Duration) -> Self {
        self.options.timing.sweep = (least, most);
        self
    }

    /// How many events are kept for a slow reader of [`Worker::events`]. Default: 1024.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.event_capacity = events;
        self
    }

    /// How many jobs run at the same time. Default: 10.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs;
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

    /// Direct handoff: whether a client may store a single new job already claimed by this worker while it has free slots, which saves
    /// one transaction and a wakeup. Needs [`listen`](Self::listen). Applies to jobs without key, queue, flags or `run_at`, with more
    /// than one attempt, of tasks without a limit of their own. Default: on.
    pub fn accept_handoffs(mut self, accept: bool) -> Self {
        self.options.accept_handoffs = accept;
        self
    }

    /// Whether [`Worker::run`] and [`Worker::run_until_idle`] shut down on SIGINT, SIGTERM and SIGHUP. Default: yes.
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.options.handle_signals = handle;
        self
    }

    /// How long after the first signal another one forces the end. What comes sooner says nothing new: a supervisor may signal a process
    /// and its group, and a terminal all that run in it. Default: 5 s, Graphile's; zero lets every second signal force the end.
    pub fn second_signal_after(mut self, delay: Duration) -> Self {
        self.options.second_signal_after = delay;
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

    /// How often the worker sends a heartbeat. Default: 5 s; [`dead_after`](Self::dead_after) must be at least two and a half times
    /// as long.
    pub fn heartbeat_every(mut self, interval: Duration) -> Self {
        self.options.timing.heartbeat_interval = interval;
        self
    }

    /// After how long without a heartbeat a worker counts as dead, and others release its jobs. Each worker registers its own time, and
    /// the longer of the dead worker's and the rescuer's holds. A worker that was not in contact itself for that long declares no
    /// other dead, so a run that ends sooner frees nothing. Default: 15 s; at least two and a half times
    /// [`heartbeat_every`](Self::heartbeat_every), so that an outage for all is told from the death of one.
    pub fn dead_after(mut self, duration: Duration) -> Self {
        self.options.timing.dead_after = duration;
        self
    }

    /// Builds the worker, and runs it until it is shut down by SIGINT, SIGTERM or SIGHUP: see [`Worker::run`].
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`Worker::run`].
    pub async fn run(self) -> Result<Summary> {
        self.build()?.run().await
    }

    /// Builds the worker, and runs it until no job is ready: see [`Worker::run_until_idle`].
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`Worker::run_until_idle`].
    pub async fn run_until_idle(self) -> Result<Summary> {
        self.build()?.run_until_idle().await
    }

    /// Checks the settings. For a worker that is to be watched, or steered, while it runs.
    ///
    /// # Errors
    /// [`Error::InvalidWorker`] for settings that do not go together.
    pub fn build(self) -> Result<Worker> {
        let refuse = |problem: String| Err(Error::InvalidWorker(problem));
        let options = self.options;
        let work = Work::check(self.concurrency, self.handlers)?;
        if options.poll_interval < Duration::from_millis(1) {
            return refuse(format!("the poll interval is {:?}, and must be at least 1 ms", options.poll_interval));
        }
        for (what, duration) in [
            ("the poll interval", options.poll_interval),
            ("second_signal_after", options.second_signal_after),
            ("cancel_after", options.cancel_after),
            ("the grace period", options.grace),
            ("the heartbeat interval", options.timing.heartbeat_interval),
            ("dead_after", options.timing.dead_after),
            ("the interval of sweeps", options.timing.sweep.1),
            ("the ttl of prefetched jobs", options.prefetch.map_or(Duration::ZERO, |prefetch| prefetch.ttl)),
        ] {
            if duration > MAX_DURATION {
                return refuse(format!("{what} is {duration:?}, and must be at most a year"));
            }
        }
        options.timing.check()?;
        if let Some(prefetch) = options.prefetch {
            if !(1..=MAX_CONCURRENCY).contains(&prefetch.size) {
                return refuse(format!("the prefetch is {}, and must be from 1 to {MAX_CONCURRENCY}", prefetch.size));
            }
            if let Some(refetch) = prefetch.refetch.filter(|refetch| refetch.delay > options.poll_interval) {
                let (delay, poll) = (refetch.delay, options.poll_interval);
                return refuse(format!("the refetch delay is {delay:?}, longer than the poll interval of {poll:?}"));
            }
        }
        if let ForbiddenFlags::List(flags) = &options.forbidden_flags {
            flags.iter().try_for_each(|flag| check_flag(flag))?;
        }
        if !(1..=MAX_EVENTS).contains(&self.event_capacity) {
            return refuse(format!(
                "the event capacity is {}, and must be from 1 to {MAX_EVENTS}",
                self.event_capacity
            ));
        }
        if work.names.is_empty() && self.crontab.is_empty() {
            return refuse("it has neither tasks nor a crontab; add some with WorkerBuilder::task".to_owned());
        }
        let mut identifiers = HashSet::new();
        if !self.crontab.is_empty() {
            self.client.storage().require_schedules()?;
        }
        for entry in &self.crontab {
            entry.check(self.client.max_payload_bytes())?;
            if !identifiers.insert(&entry.identifier) {
                return refuse(format!(
                    "two crontab entries have the identifier {:?}; give one another with CronEntry::identifier",
                    entry.identifier
                ));
            }
        }
        Ok(Worker {
            client: self.client,
            work: Arc::new(watch::Sender::new(Arc::new(work))),
            middleware: Chain::new(self.middleware),
            crontab: self.crontab,
            options,
            shutdown: ShutdownHandle::new(),
            events: Events::new(self.event_capacity),
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("handlers", &self.handlers)
            .field("middleware", &self.middleware.len())
            .field("crontab", &self.crontab)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
