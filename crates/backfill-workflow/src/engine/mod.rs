//! The engine: what runs workflows in this process.
//!
//! | file | what it does |
//! | --- | --- |
//! | `builder` | how an engine is set up |
//! | `core` | what all parts share: the workflows that run here, the clock, the registry |
//! | `run` | one execution of a workflow, from its first step to its end |
//! | `control` | the signal that a workflow is not to go on |
//! | `writer` | writing what has gathered, in one statement |
//! | `dispatch` | taking work from queues |
//! | `keep` | heartbeats, deadlines, delays, and the work of dead processes |
//! | `schedule` | starting what is scheduled |
//! | `hub` | who waits for what |

mod builder;
pub(crate) mod control;
pub(crate) mod core;
mod dispatch;
pub(crate) mod hub;
mod keep;
pub(crate) mod run;
mod schedule;
pub(crate) mod writer;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backfill::{BackfillClient, Worker};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "macros")]
pub use self::builder::Collected;
pub use self::builder::{DEFAULT_LEASE, DEFAULT_MAX_ATTEMPTS, EngineBuilder};
use self::core::{Core, Settings};
use self::hub::Hub;
use self::writer::Writer;
use crate::client::{Client, Schedule};
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::store::{Change, Store, Transition};
use crate::workflow::Registered;

/// The queue of jobs that workflows may add to.
pub(crate) struct Jobs {
    pub(crate) client: BackfillClient,
    /// Whether a transaction of the workflows' storage can add to it.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only PostgreSQL has such transactions"))]
    pub(crate) same_database: bool,
}

/// What runs workflows in this process. It is also a [`Client`]: what is started with it begins here.
///
/// Dropped without [`shutdown`](Self::shutdown), it stops at once; other processes go on with its workflows when its lease has ended.
pub struct Engine {
    client: Client,
    core: Arc<Core>,
    tasks: JoinSet<()>,
}

impl Engine {
    /// An engine to be set up.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    async fn launch(
        store: Arc<dyn Store>,
        settings: Settings,
        registry: HashMap<&'static str, Registered>,
        jobs: Option<Jobs>,
        returns: bool,
        queues: &[Queue],
        schedules: &[Schedule],
    ) -> Result<Self> {
        let closed = CancellationToken::new();
        let hub: Arc<Hub> = Arc::default();
        // News are heard from before anything is looked at.
        let changes = store.changes();
        let (writer, writing) = Writer::new(Arc::clone(&store), closed.clone(), true);
        let core = Arc::new(Core::new(store, hub, writer, settings, registry, jobs, closed));
        let client = Client::of_core(&core);
        core.set_clock().await?;
        let Settings { executor, version, application, .. } = &core.settings;
        core.store.put_version(version, application.as_deref(), false).await?;
        if returns {
            // Of whichever version: that decides who claims them.
            let transition = Transition::Recover { executors: vec![executor.clone()], version: None };
            let moved = core.store.transition(&transition).await?;
            if !moved.is_empty() {
                tracing::info!(executor, count = moved.len(), "workflows that this executor had left are put back");
            }
        }
        keep::beat(&core).await?;
        let latest = client.latest_version().await?.is_none_or(|latest| latest.name == *version);
        for queue in queues.iter().filter(|_| latest) {
            client.set_queue(queue).await?;
        }
        for schedule in schedules {
            client.set_schedule(schedule).await?;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(writing);
        tasks.spawn(hear(Arc::clone(&core), changes));
        tasks.spawn(dispatch::run(Arc::clone(&core)));
        tasks.spawn(keep::heartbeats(Arc::clone(&core)));
        tasks.spawn(keep::sweeps(Arc::clone(&core)));
        tasks.spawn(schedule::run(Arc::clone(&core)));
        Ok(Self { client, core, tasks })
    }

    /// A client that begins workflows in this engine.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The name of this process, as rows have it.
    #[must_use]
    pub fn executor(&self) -> &str {
        &self.core.settings.executor
    }

    /// The version of this program, as rows have it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.core.settings.version
    }

    /// How many workflows run here.
    #[must_use]
    pub fn running(&self) -> usize {
        self.core.running()
    }

    /// Takes no more work from queues, and goes on with what it has; or takes work again.
    pub fn pause(&self, paused: bool) {
        self.core.paused.store(paused, Ordering::Release);
        self.core.nudge.notify_one();
    }

    /// Runs until the process is told to end (SIGINT, SIGTERM), and shuts down: workflows have `grace` to come to their end.
    ///
    /// # Errors
    /// When signals cannot be heard.
    pub async fn run(self, grace: Duration) -> Result<()> {
        let signal = signal();
        signal.await.map_err(|error| Error::NotReady {
            problem: format!("signals cannot be heard: {error}"),
            remedy: "Shut the engine down with `shutdown`".to_owned(),
        })?;
        self.shutdown(grace).await;
        Ok(())
    }

    /// Runs beside a worker of jobs, until that ends (it hears signals), and shuts down: workflows have `grace` to come to their end.
    ///
    /// # Errors
    /// When the worker fails. The engine has shut down then, too.
    pub async fn run_beside(self, worker: Worker, grace: Duration) -> backfill::Result<backfill::Summary> {
        let summary = worker.run().await;
        self.shutdown(grace).await;
        summary
    }

    /// Takes no more work, waits for what runs here, at most so long, and ends. What has not come to its end by then is left as it is, and goes on in
    /// another process at once.
    pub async fn shutdown(mut self, grace: Duration) {
        self.core.closing.cancel();
        self.core.tracker.close();
        if tokio::time::timeout(grace, self.core.tracker.wait()).await.is_err() {
            tracing::info!(count = self.core.running(), "workflows are left to go on elsewhere");
        }
        self.core.abandon();
        // What is being written now may still be; a storage that is away is not waited for.
        let _ = tokio::time::timeout(LAST_WRITES, self.core.tracker.wait()).await;
        self.core.closed.cancel();
        self.core.tracker.wait().await;
        while self.tasks.join_next().await.is_some() {}
        // Without it the lease ends by itself.
        let retired = tokio::time::timeout(Duration::from_secs(5), self.core.store.retire(self.executor())).await;
        if let Ok(Err(error)) = retired {
            tracing::warn!(%error, "the end of this executor could not be told");
        }
    }
}

impl Deref for Engine {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.closing.cancel();
        self.core.closed.cancel();
        self.core.abandon();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Settings { executor, version, .. } = &self.core.settings;
        f.debug_struct("Engine").field("executor", executor).field("version", version).finish_non_exhaustive()
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// How long what is being written at a shutdown is waited for.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// How long after news may have been missed whatever runs here is asked about: many such moments are one.
const MISSED: Duration = Duration::from_millis(300);

/// Hands news to those whom they concern.
async fn hear(core: Arc<Core>, mut changes: futures::stream::BoxStream<'static, Change>) {
    let closed = core.closed.clone();
    // When whatever runs here is asked about, because news may have been missed.
    let mut ask_at = None;
    loop {
        let heard = async {
            tokio::select! {
                change = changes.next() => change.map(Some),
                () = async { tokio::time::sleep_until(ask_at.unwrap_or_else(tokio::time::Instant::now)).await }, if ask_at.is_some() => {
                    Some(None)
                }
            }
        };
        let Some(Some(change)) = closed.run_until_cancelled(heard).await else { return };
        let Some(change) = change else {
            ask_at = None;
            if let Err(error) = keep::beat(&core).await {
                tracing::debug!(%error, "the next heartbeat asks again");
            }
            continue;
        };
        match change {
            Change::Queue(queue) => core.wake_queue(&queue),
            Change::Steered(id) => {
                if core.runs_here(&id) {
                    keep::check(&core, &id).await;
                }
                core.hub.wake(&Change::Finished(id));
            }
            Change::Anything => {
                if core.running() > 0 {
                    ask_at.get_or_insert_with(|| tokio::time::Instant::now() + MISSED);
                }
                core.hub.wake(&change);
                core.wake_all_queues();
            }
            change => core.hub.wake(&change),
        }
    }
}
