//! How an engine is set up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use backfill::BackfillClient;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::Settings;
use super::{Engine, Jobs};
use crate::client::{POLL, Schedule};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::failure::WorkflowError;
use crate::open::Options;
use crate::options::text;
use crate::queue::Queue;
use crate::store::Store;
use crate::workflow::{Attempts, Registered, Workflow};

/// How often a workflow is begun again, if nothing is said.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 100;
/// How long an executor that was not heard of is taken to live.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// An engine that is being set up. [`launch`](Self::launch) starts it.
pub struct EngineBuilder {
    options: Options,
    registered: Vec<Registered>,
    queues: Vec<Queue>,
    schedules: Vec<Schedule>,
    listen: Option<HashSet<String>>,
    version: Option<String>,
    executor: Option<String>,
    application: Option<String>,
    lease: Duration,
    poll: Duration,
    max_attempts: Option<u32>,
    max_running: usize,
    jobs: Option<BackfillClient>,
}

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            options: Options::new(),
            registered: Vec::new(),
            queues: Vec::new(),
            schedules: Vec::new(),
            listen: None,
            version: None,
            executor: None,
            application: None,
            lease: DEFAULT_LEASE,
            poll: POLL,
            max_attempts: Some(DEFAULT_MAX_ATTEMPTS),
            max_running: usize::MAX,
            jobs: None,
        }
    }

    /// Where the workflows are kept: `postgres://user@host/database`, `sqlite://orders.db` (with the feature `sqlite`) or `memory:`.
    #[must_use]
    pub fn url(mut self, url: impl AsRef<str>) -> Self {
        self.options = self.options.url(url.as_ref());
        self
    }

    /// The workflows are kept in the database of this pool.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres(mut self, pool: sqlx::PgPool) -> Self {
        self.options = self.options.postgres(pool);
        self
    }

    /// The workflows are kept in the file of this pool.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn sqlite(mut self, pool: sqlx::SqlitePool) -> Self {
        self.options = self.options.sqlite(pool);
        self
    }

    /// The workflows are kept in this storage.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.options = self.options.store(store);
        self
    }

    /// The schema of the tables in PostgreSQL: `dbos` if nothing is said, where DBOS's clients look for them.
    #[must_use]
    pub fn schema(mut self, name: impl AsRef<str>) -> Self {
        self.options = self.options.schema(name.as_ref());
        self
    }

    /// Whether the tables are made, or brought up to date, at the launch: yes if nothing is said.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.options = self.options.migrate(migrate);
        self
    }

    /// Registers a workflow: a function `async fn(Ctx, I) -> Result<O, E>`, under the name that its rows have.
    ///
    /// Two functions of one name are refused at the launch.
    pub fn register<F, Fut, I, O, E>(&mut self, name: &'static str, function: F) -> Workflow<I, O, E>
    where
        F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        E: WorkflowError,
    {
        self.registered.push(Registered::new(name, function));
        Workflow::named(name)
    }

    /// Registers all functions of the program that have the attribute [`workflow`](macro@crate::workflow), with their schedules.
    #[cfg(feature = "macros")]
    #[must_use]
    pub fn collected(mut self) -> Self {
        for collected in inventory::iter::<Collected> {
            (collected.register)(&mut self);
        }
        self
    }

    /// A schedule that is stored at the launch.
    pub fn add_schedule(&mut self, schedule: Schedule) {
        self.schedules.push(schedule);
    }

    /// How often a workflow is begun again if its process dies, for this one alone. `None` is without end.
    pub fn attempts_of<I, O, E>(&mut self, workflow: Workflow<I, O, E>, max: Option<u32>) {
        for registered in &mut self.registered {
            if registered.name == workflow.name() {
                registered.max_attempts = Some(Attempts(max));
            }
        }
    }

    /// A queue that this program knows. Its settings are stored at the launch, if this is the latest version of the program.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// The queues from which this process takes work: all that are configured, if nothing is said. The engine's own is always one of them.
    #[must_use]
    pub fn listen<S: Into<String>>(mut self, queues: impl IntoIterator<Item = S>) -> Self {
        self.listen = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// A schedule that is stored at the launch.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.add_schedule(schedule);
        self
    }

    /// The version of the program: workflows go on with the version that they began with. If nothing is said it is the environment's
    /// `DBOS__APPVERSION`, or made of the executable's size and the time it was built.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The name of this process, which no other has at the same time. One that comes back under its name puts back at once what it had left; without a name,
    /// what a dead process has left is put back when its lease has ended. If nothing is said it is the environment's `DBOS__VMID`, or a new one.
    #[must_use]
    pub fn executor(mut self, name: impl Into<String>) -> Self {
        self.executor = Some(name.into());
        self
    }

    /// The application: processes of other applications in the same database do not take this one's workflows.
    #[must_use]
    pub fn application(mut self, name: impl Into<String>) -> Self {
        self.application = Some(name.into());
        self
    }

    /// How long this process is taken to live when nothing is heard of it: 15 seconds if nothing is said. It says that it lives three times as often. Others
    /// take over its workflows then.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How often those look that wait for a message, an event or a result and were told nothing: every second if nothing is said. Whoever waits for a
    /// message for long looks a quarter as often.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll = interval;
        self
    }

    /// How often a workflow is begun again if its process dies: 100 times if nothing is said, `None` is without end. One that has been begun more often is set
    /// aside until somebody resumes it.
    #[must_use]
    pub fn max_attempts(mut self, max: impl Into<Option<u32>>) -> Self {
        self.max_attempts = max.into();
        self
    }

    /// How many workflows run at once in this process, taken from queues. No limit if nothing is said.
    #[must_use]
    pub fn max_running(mut self, workflows: usize) -> Self {
        self.max_running = workflows;
        self
    }

    /// The queue of jobs for [`Ctx::enqueue_job`].
    #[must_use]
    pub fn jobs(mut self, client: BackfillClient) -> Self {
        self.jobs = Some(client);
        self
    }

    /// Opens the storage, makes its tables, and starts: from now on workflows are taken from queues, and those of dead processes are taken over.
    ///
    /// # Errors
    /// When two workflows or queues have one name, settings make no sense, or the storage cannot be used.
    pub async fn launch(self) -> Result<Engine> {
        let mut registry = HashMap::with_capacity(self.registered.len());
        for registered in self.registered {
            text("the workflow's name", registered.name)?;
            let name = registered.name;
            if registry.insert(name, registered).is_some() {
                return Err(Error::RegisteredTwice { what: "the workflow", name: name.to_owned() });
            }
        }
        let mut names = HashSet::new();
        for queue in &self.queues {
            queue.checked()?;
            if !names.insert(queue.name()) {
                return Err(Error::RegisteredTwice { what: "the queue", name: queue.name().to_owned() });
            }
        }
        if self.lease < Duration::from_millis(100) || self.poll < Duration::from_millis(1) {
            let value = format!("{:?}", self.lease.min(self.poll));
            return Err(Error::invalid("the lease or poll interval", &value, "is too short"));
        }
        let named = self.executor.or_else(|| variable("DBOS__VMID"));
        let returns = named.is_some();
        let settings = Settings {
            executor: named.unwrap_or_else(|| format!("backfill-{}", crate::id::fresh())),
            version: self.version.or_else(|| variable("DBOS__APPVERSION")).unwrap_or_else(build_id),
            application: self.application,
            lease: self.lease,
            poll: self.poll,
            max_attempts: self.max_attempts,
            listen: self.listen,
            max_running: self.max_running,
        };
        text("the executor", &settings.executor)?;
        text("the version", &settings.version)?;
        let store = self.options.open().await?;
        let jobs = match self.jobs {
            Some(client) => Some(Jobs { same_database: store.is_database_of(&client).await?, client }),
            None => None,
        };
        Engine::launch(store, settings, registry, jobs, returns, &self.queues, &self.schedules).await
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What tells this build of the program from others: its size and the time it was written.
fn build_id() -> String {
    let metadata = std::env::current_exe().and_then(|path| path.metadata());
    let written = metadata.as_ref().ok().and_then(|data| data.modified().ok());
    let seconds =
        written.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |time| time.as_millis());
    format!("{:x}-{seconds:x}", metadata.map_or(0, |data| data.len()))
}

/// A function that has the attribute.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub struct Collected {
    register: fn(&mut EngineBuilder),
}

#[cfg(feature = "macros")]
impl Collected {
    /// One that registers itself so.
    #[must_use]
    pub const fn new(register: fn(&mut EngineBuilder)) -> Self {
        Self { register }
    }
}

#[cfg(feature = "macros")]
inventory::collect!(Collected);

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.registered.iter().map(|one| one.name).collect();
        f.debug_struct("EngineBuilder").field("workflows", &names).finish_non_exhaustive()
    }
}
