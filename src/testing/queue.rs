//! The queue of a test.

use std::collections::HashMap;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::advance::Advance;
use super::cron::{CronSpan, IntoCrontab};
use super::drain::Drain;
use super::faults::Faults;
use super::jobs::{Found, Jobs};
use super::matcher::JobMatcher;
use super::perform::Perform;
use super::place::Place;
use super::span::IntoDuration;
use super::{inline, wait};
use crate::client::BackfillClient;
use crate::error::Result;
use crate::job::{Job, JobId, JobSpec};
use crate::storage::{JobFilter, Storage};
use crate::task::{IntoHandler, JobContext};
use crate::worker::WorkerBuilder;

/// How many jobs are read at a time.
const PAGE: u32 = 1_000;

/// A queue of a test's own, empty at first, and gone when it is dropped.
///
/// In a file and in a schema it is without [messages](crate::storage::messages).
///
/// ```
/// use backfill::serde_json::json;
/// use backfill::testing::{TestQueue, job, within};
/// use backfill::{BackfillClient, TaskPayload};
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// struct SendInvoice {
///     order: u64,
/// }
///
/// // The code under test.
/// async fn place_order(jobs: &BackfillClient, order: u64) -> backfill::Result<()> {
///     jobs.add(SendInvoice { order }).run_in(Duration::from_secs(3600)).await.map(drop)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> backfill::Result<()> {
/// let queue = TestQueue::memory();
/// place_order(&queue.client(), 17).await?;
/// queue.jobs().await.one(job::<SendInvoice>().payload_is(json!({ "order": 17 })).due_in(within("1h", "5s")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestQueue {
    client: BackfillClient,
    /// The storage without faults.
    pub(super) storage: Arc<dyn Storage>,
    faults: Arc<Faults>,
    pub(super) place: Place,
    pub(super) created_at: DateTime<Utc>,
    /// How far it was advanced so far, in microseconds.
    advanced: AtomicU64,
}

impl TestQueue {
    /// The jobs that the caller's open transaction has added: it sees them, and others do not. A job that was added without the
    /// transaction is not among them, and a failing assertion says so.
    ///
    /// It looks from outside too, so the client's pool needs a second connection.
    ///
    /// ```
    /// # use backfill::BackfillClient;
    /// # use backfill::testing::{TestQueue, job_named};
    /// # async fn place_order(jobs: &BackfillClient, tx: &mut sqlx::PgTransaction<'_>) {}
    /// # async fn example(pool: sqlx::PgPool, jobs: BackfillClient) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// place_order(&jobs, &mut tx).await;
    /// TestQueue::within_tx(&jobs, &mut tx).await.one(job_named("send_invoice"));
    /// tx.rollback().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the jobs cannot be read.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub async fn within_tx<'a>(client: &BackfillClient, tx: impl Into<crate::client::Within<'a>>) -> Jobs {
        let inside = client.jobs_within(tx.into()).await.unwrap_or_else(unreadable);
        let outside = read(&**client.storage()).await.unwrap_or_else(unreadable);
        let now = client.storage().now().await.unwrap_or_else(unreadable);
        let added = changed(&outside, inside);
        Jobs { outside, ..Jobs::new(added, now, "added in this transaction") }
    }

    pub(super) fn new(place: Place) -> Self {
        let (storage, faults) = (place.storage(), Arc::new(Faults::default()));
        Self {
            storage: Arc::clone(storage.storage()),
            client: BackfillClient::with_storage(storage.with_faults(&faults)),
            faults,
            place,
            created_at: Utc::now(),
            advanced: AtomicU64::new(0),
        }
    }

    /// A client of this queue, for the code under test.
    #[must_use]
    pub fn client(&self) -> BackfillClient {
        self.client.clone()
    }

    /// A worker for this queue, which leaves signals alone. Add tasks to it, and [`drain`](Self::drain) the queue by it.
    pub fn worker(&self) -> WorkerBuilder {
        self.client.worker().handle_signals(false)
    }

    /// The jobs that are in the queue now. Jobs that are done are in it no more.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn jobs(&self) -> Jobs {
        let now = self.now().await;
        Jobs::new(self.read().await, now, "queued")
    }

    /// Runs a future, and returns its output and the jobs that were added to the queue in the meantime. A job that was replaced by its key
    /// counts as added. A job that was added and finished in the meantime is not seen: run no worker, or read a [`drain`](Self::drain)'s
    /// report.
    ///
    /// ```
    /// # use backfill::{BackfillClient, JobSpec};
    /// # use backfill::testing::{TestQueue, job_named};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> backfill::Result<()> {
    /// let queue = TestQueue::memory();
    /// let jobs = queue.client();
    /// jobs.add(JobSpec::new("welcome", "Ada")).await?;
    /// let (added, new) = queue.during(async { jobs.add(JobSpec::new("welcome", "Eve")).await }).await;
    /// assert_eq!(added?.id, new.one(job_named("welcome")).id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the jobs cannot be read.
    pub async fn during<F: Future>(&self, future: F) -> (F::Output, Jobs) {
        let before = self.read().await;
        let output = future.await;
        let now = self.now().await;
        (output, Jobs::new(changed(&before, self.read().await), now, "added meanwhile"))
    }

    /// Waits until a job matches, such as one that a server in the background adds. A job that is done is not seen.
    ///
    /// ```
    /// # use backfill::testing::{TestQueue, job_named};
    /// # use backfill::JobSpec;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let queue = TestQueue::memory();
    /// let jobs = queue.client();
    /// tokio::spawn(async move { jobs.add(JobSpec::new("welcome", "Ada")).await });
    /// let welcome = queue.wait_for(job_named("welcome"), "10s").await;
    /// assert_eq!(welcome.payload, "Ada");
    /// # }
    /// ```
    ///
    /// # Panics
    /// When the time is over; and if the jobs cannot be read.
    #[track_caller]
    pub fn wait_for<P: DeserializeOwned>(
        &self,
        matcher: JobMatcher<P>,
        timeout: impl IntoDuration,
    ) -> impl Future<Output = Found<P>> {
        wait::for_one(self, matcher, timeout.into_duration(), Location::caller())
    }

    /// Waits until no job matches, such as for a worker in the background to be done with it.
    ///
    /// # Panics
    /// When the time is over; and if the jobs cannot be read.
    #[track_caller]
    pub fn wait_for_none<P: DeserializeOwned>(
        &self,
        matcher: JobMatcher<P>,
        timeout: impl IntoDuration,
    ) -> impl Future<Output = ()> {
        wait::for_none(self, matcher, timeout.into_duration(), Location::caller())
    }

    /// Runs one task alone, as a worker does: with its timeout, its retry policy, and panics that are caught. The task is a function, a
    /// [`Task`](crate::Task) or a [`Handler`](crate::Handler). No job is stored, so the task cannot
    /// [complete](crate::JobContext::complete_in) it in a transaction.
    ///
    /// ```
    /// # use backfill::TaskPayload;
    /// # use backfill::testing::{TestQueue, within};
    /// # #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
    /// # struct SendInvoice { order: u64 }
    /// async fn send_invoice(invoice: SendInvoice) -> Result<(), String> {
    ///     Err(format!("there is no order {}", invoice.order))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let queue = TestQueue::memory();
    /// let invoice = SendInvoice { order: 0 };
    /// let done = queue.perform(send_invoice, invoice).attempt(3).await;
    /// done.assert_failed("no order 0").retried_in(within("20s", "1s"));
    /// # }
    /// ```
    #[track_caller]
    pub fn perform<Form>(&self, task: impl IntoHandler<Form>, payload: impl Serialize) -> Perform {
        let handler = task.into_handler();
        let spec = JobSpec::new(handler.name(), payload);
        Perform::task(self.client(), handler, spec, Location::caller())
    }

    /// Runs the task that a worker has for this job alone, without storing it: as [`perform`](Self::perform), and within the worker's
    /// middleware.
    ///
    /// # Panics
    /// When awaited, if the worker cannot be built, or has no such task.
    #[track_caller]
    pub fn perform_by(&self, worker: WorkerBuilder, job: impl Into<JobSpec>) -> Perform {
        Perform::by(self.client(), worker, job.into(), Location::caller())
    }

    /// A context for a task that is called as the function that it is. The job in it is stored nowhere.
    ///
    /// # Panics
    /// For a job outside the limits.
    #[track_caller]
    pub fn context(&self, job: impl Into<JobSpec>) -> JobContext {
        JobContext::for_test(super::perform::job_of(&self.client, job.into(), 1), self.client())
    }

    /// Runs jobs by this worker until none is ready. Await it for a [`Report`](super::Report).
    #[track_caller]
    pub fn drain(&self, worker: WorkerBuilder) -> Drain<'_> {
        Drain::new(self, worker, Location::caller())
    }

    /// A client of this queue that runs each job as soon as it was added, by a task of this worker. An add returns when its job is done, and an
    /// attempt that fails is the add's error: then the job is not kept.
    ///
    /// Jobs of the future, and those that are added in the caller's own transaction, are stored and not run.
    ///
    /// ```
    /// # use backfill::TaskPayload;
    /// # use backfill::testing::TestQueue;
    /// # #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
    /// # struct SendInvoice { order: u64 }
    /// # async fn send_invoice(invoice: SendInvoice) -> Result<(), String> { Err(format!("there is no order {}", invoice.order)) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let queue = TestQueue::memory();
    /// let jobs = queue.inline(queue.worker().task(send_invoice));
    /// let error = jobs.add(SendInvoice { order: 0 }).await.unwrap_err();
    /// assert_eq!(error.to_string(), "could not run the job at once: there is no order 0");
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the worker cannot be built.
    #[must_use]
    #[track_caller]
    pub fn inline(&self, worker: WorkerBuilder) -> BackfillClient {
        let worker = worker.build().unwrap_or_else(|error| panic!("{error}"));
        inline::client(&self.client, &worker)
    }

    /// Lets so much time pass at once. Await it.
    ///
    /// All times that are stored become so much older, as if the queue had been left alone for so long: jobs become due, retries too, heartbeats are
    /// missed and locks expire. No clock is moved: `Utc::now()` stays as it is, for the code under test and for the queue. [`Advance`] says
    /// how a worker takes it.
    ///
    /// ```
    /// # use backfill::JobSpec;
    /// # use backfill::job::JobState;
    /// # use backfill::testing::{TestQueue, job_named};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> backfill::Result<()> {
    /// let queue = TestQueue::memory();
    /// queue.client().add(JobSpec::new("remind", "Ada")).run_in(Duration::from_secs(24 * 3600)).await?;
    /// queue.advance("25h").await;
    /// queue.jobs().await.one(job_named("remind").state(JobState::Ready));
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn advance(&self, time: impl IntoDuration) -> Advance<'_> {
        Advance::new(self, time.into_duration())
    }

    /// A crontab over the time by which the queue was [advanced](Self::advance): when its entries are due, and their jobs.
    ///
    /// # Panics
    /// For a crontab with problems.
    #[track_caller]
    pub fn cron(&self, crontab: impl IntoCrontab) -> CronSpan<'_> {
        CronSpan::new(self, crontab.into_crontab())
    }

    /// The next adds fail, so many of them: see [`Faults::fail_next_adds`].
    pub fn fail_next_adds(&self, adds: usize) {
        self.faults.fail_next_adds(adds);
    }

    /// The next adds happen, and so many of their answers are lost: see [`Faults::lose_answers`].
    pub fn lose_answers(&self, adds: usize) {
        self.faults.lose_answers(adds);
    }

    /// Each call of the client and of its workers takes so much longer: see [`Faults::slow`].
    pub fn slow(&self, time: impl IntoDuration) {
        self.faults.slow(time.into_duration());
    }

    /// The storage cannot be reached, until it is [`back`](Self::back): see [`Faults::away`].
    pub fn away(&self) {
        self.faults.away();
    }

    /// The storage can be reached again.
    pub fn back(&self) {
        self.faults.back();
    }

    /// All faults that can be made.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// There are no jobs left, in any state. For the end of a test.
    ///
    /// It is not done when the queue is dropped. A drop cannot wait for a database, and many tests add jobs that they are not about.
    ///
    /// # Panics
    /// If there are jobs; and if they cannot be read.
    #[track_caller]
    pub fn assert_no_jobs_left(&self) -> impl Future<Output = ()> + Send {
        let caller = Location::caller();
        async move {
            let jobs = self.jobs().await;
            assert!(jobs.is_empty(), "jobs are left at {caller}\n\n{}", super::failure::listed(&jobs));
        }
    }

    pub(super) async fn now(&self) -> DateTime<Utc> {
        self.storage.now().await.unwrap_or_else(unreadable)
    }

    async fn read(&self) -> Vec<Job> {
        read(&*self.storage).await.unwrap_or_else(unreadable)
    }

    pub(super) fn advanced(&self) -> Duration {
        Duration::from_micros(self.advanced.load(Ordering::SeqCst))
    }

    pub(super) fn add_advanced(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.advanced.fetch_add(micros, Ordering::SeqCst);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "that is how errors are handed on")]
fn unreadable<T>(error: crate::Error) -> T {
    panic!("the test's queue cannot be read: {error}")
}

/// All jobs, by id.
async fn read(storage: &dyn Storage) -> Result<Vec<Job>> {
    let inspect = storage.require_inspect()?;
    let (mut jobs, mut after) = (Vec::new(), None);
    loop {
        let filter = JobFilter { after, limit: PAGE, ..JobFilter::new() };
        let page = inspect.jobs(&filter).await?;
        let Some(last) = page.last() else { return Ok(jobs) };
        after = Some(last.id);
        jobs.extend(page);
    }
}

/// Those that were not there before, or were replaced since.
fn changed(before: &[Job], after: Vec<Job>) -> Vec<Job> {
    let before: HashMap<JobId, i32> = before.iter().map(|job| (job.id, job.revision)).collect();
    after.into_iter().filter(|job| before.get(&job.id) != Some(&job.revision)).collect()
}
