//! Running jobs.
//!
//! A [`Worker`] claims jobs under one id and runs up to `concurrency` of them at a time. Its
//! parts, each a file:
//!
//! - the **engine** is the one loop that decides: it starts claimed jobs in free slots and asks for more. There is one
//!   claimer per worker, which asks in one statement for as many jobs as can start at once;
//! - **pace** measures how long jobs take, and so how many more than the free slots can start within milliseconds;
//! - **execute** runs one job and turns whatever comes of it (an answer, an error, a panic) into an outcome;
//! - the **settler** writes outcomes by *group commit*: while one write is in flight, results gather, and the next
//!   write takes all of them. Nothing is dropped; a write that fails is tried again;
//! - **prefetch** is the option to hold more jobs ready than can start at once;
//! - the **work** is its tasks and its concurrency, which a **handle** may change meanwhile;
//! - **flags** whose jobs the worker leaves alone;
//! - **events** are what the worker tells about itself;
//! - the **lease** is how long others take the worker for alive; it starts nothing when that is over;
//! - **maintenance** sends the worker's heartbeats, frees the jobs of dead workers, and sweeps stale locks;
//! - **reachability** is for how long the storage has been there;
//! - the **status** is what it says of itself to other processes;
//! - a **presence** is the maintenance alone, for doors;
//! - **shutdown** is the handle that asks all of it to come to an end.

mod builder;
mod engine;
mod events;
mod execute;
mod flags;
mod handle;
mod lease;
mod maintenance;
mod pace;
mod prefetch;
mod presence;
mod reachability;
mod settler;
mod shutdown;
mod status;
mod work;

use std::sync::Arc;

use tokio::sync::watch;

pub use builder::WorkerBuilder;
pub use engine::Hold;
pub use events::{Event, EventStream};
/// For the test kit, which runs a task without claiming a job.
#[cfg(feature = "testing")]
pub(crate) use execute::execute;
pub use handle::WorkerHandle;
pub use maintenance::Timing;
pub use prefetch::Prefetch;
pub use presence::Presence;
pub use settler::Summary;
pub use shutdown::ShutdownHandle;

use crate::client::BackfillClient;
use crate::cron::CronEntry;
use crate::error::Result;
use crate::task::Chain;
#[cfg(feature = "testing")]
use crate::task::Handler;
use builder::Options;
use engine::{Engine, Mode};
use events::Events;
use work::Work;

/// Runs jobs.
///
/// ```no_run
/// use backfill::{BackfillClient, JobContext, Worker, task_fn};
///
/// # async fn example() -> backfill::Result<()> {
/// let client = BackfillClient::new("postgres://localhost/app").await?;
/// Worker::builder(client)
///     .task(task_fn("greet", |name: String, _ctx: JobContext| async move { println!("hello {name}") }))
///     .concurrency(8)
///     .build()?
///     .run() // until SIGINT, SIGTERM or SIGHUP
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    client: BackfillClient,
    work: Arc<watch::Sender<Arc<Work>>>,
    middleware: Chain,
    crontab: Vec<CronEntry>,
    options: Options,
    shutdown: ShutdownHandle,
    events: Events,
}

impl Worker {
    /// A worker for the storage behind this client. Add tasks to it, then build it.
    pub fn builder(client: BackfillClient) -> WorkerBuilder {
        WorkerBuilder::new(client)
    }

    /// A handle that ends the worker in an orderly way. Any number may be taken, at any time.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// What the worker tells about itself from now on. Any number of streams may be taken, at any time.
    ///
    /// The worker never waits for a reader; one that is too slow is told how many events it missed.
    ///
    /// ```no_run
    /// use backfill::worker::Event;
    /// use futures::StreamExt;
    ///
    /// # async fn example(worker: backfill::Worker) -> backfill::Result<()> {
    /// let mut events = worker.events();
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         if let Event::JobDead { job, error, .. } = event {
    ///             eprintln!("job {} will not run again: {error}", job.id);
    ///         }
    ///     }
    /// });
    /// worker.run().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.events.subscribe()
    }

    /// A handle that changes its tasks, its concurrency and its limits, also while it runs. Any number may be taken.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle::new(&self.work, &self.shutdown)
    }

    /// The names of the tasks it runs, sorted.
    #[must_use]
    pub fn tasks(&self) -> Vec<String> {
        self.work.borrow().names.to_vec()
    }

    /// The task of this name, as it is run.
    #[cfg(feature = "testing")]
    pub(crate) fn handler(&self, task: &str) -> Option<Arc<Handler>> {
        self.work.borrow().handlers.get(task).cloned()
    }

    /// What wraps every task.
    #[cfg(feature = "testing")]
    pub(crate) fn middleware(&self) -> &Chain {
        &self.middleware
    }

    /// Runs jobs until the worker is shut down, by its handle or (unless switched off) by SIGINT, SIGTERM or SIGHUP.
    ///
    /// **Shutdown.** No more jobs are claimed, and jobs that have not started are released with their attempt. Running
    /// jobs go on; after `cancel_after` (5 s) their [`JobContext`](crate::JobContext) is cancelled, and after `grace`
    /// (25 s) they are dropped. A job that is dropped, or ends with an error once it is cancelled, was cut off, which is no failure: it
    /// gets its attempt back and is ready for another worker at once. If the next worker cuts it off too, that attempt counts.
    /// A [`TaskError`](crate::TaskError) that says when to try again, or never, still decides.
    /// Everything that ended is written before this returns. A second signal
    /// forces the end, if it comes more than `second_signal_after` (5 s) after the first: cancel now, drop after a second.
    ///
    /// An unreachable storage does not end a worker: it holds its results and tries again.
    ///
    /// Dropping the future instead drops the running jobs and leaves them locked; they are freed as if the process had
    /// died.
    ///
    /// # Errors
    /// [`Error::BreakingMigration`](crate::Error::BreakingMigration) when somebody migrated the schema beyond what this
    /// version knows, [`Error::Unsettled`](crate::Error::Unsettled) when results could not be written before the end.
    pub async fn run(&self) -> Result<Summary> {
        // Boxed: it is large, and whoever awaits it should not have to be.
        Box::pin(Engine::new(self, Mode::UntilShutdown).run()).await
    }

    /// Runs jobs until none is ready, then returns, or until it is shut down, as [`run`](Self::run) is. The crontab is not run.
    /// Jobs of the future, and jobs that others hold, are not waited for. The jobs of dead workers are freed only by a run that lasts as
    /// long as the time after which they count as dead.
    ///
    /// # Errors
    /// When the storage fails; jobs that were running are finished and written first, as far as it lets us.
    pub async fn run_until_idle(&self) -> Result<Summary> {
        Box::pin(Engine::new(self, Mode::UntilIdle).run()).await
    }
}
