//! Running what is in the queue.

use std::future::IntoFuture;
use std::panic::Location;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::TestQueue;
use super::failure::listed;
use super::jobs::Jobs;
use super::report::Report;
use crate::job::{Job, JobState};
use crate::nearest::did_you_mean;
use crate::worker::{Event, EventStream, Worker, WorkerBuilder};

/// So many jobs may be started, unless a test says otherwise.
const AT_MOST: usize = 10_000;
/// More events than a worker tells before it lets this reader read. (A task that never waits is made to after 128 steps.)
const EVENTS: usize = 8_192;

/// Jobs that run when this is awaited. Made by [`TestQueue::drain`].
///
/// ```
/// # use backfill::TaskPayload;
/// # use backfill::testing::{TestQueue, job};
/// # #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// # struct SendInvoice { order: u64 }
/// # async fn send_invoice(_: SendInvoice) {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> backfill::Result<()> {
/// let queue = TestQueue::memory();
/// queue.client().add(SendInvoice { order: 17 }).await?;
/// let report = queue.drain(queue.worker().task(send_invoice)).until_idle().at_most(100).await;
/// report.done().one(job::<SendInvoice>());
/// # Ok(())
/// # }
/// ```
///
/// It panics when the worker fails, when more jobs are started than [`at_most`](Self::at_most) lets, and for two mistakes that a test
/// would not notice. A payload could not be read by its task. A job is ready, and the worker has no task of its name.
#[must_use = "nothing runs before this is awaited"]
#[derive(Debug)]
pub struct Drain<'a> {
    queue: &'a TestQueue,
    worker: WorkerBuilder,
    at_most: usize,
    scheduled: bool,
    lenient: bool,
    caller: &'static Location<'static>,
}

impl<'a> Drain<'a> {
    pub(super) fn new(queue: &'a TestQueue, worker: WorkerBuilder, caller: &'static Location<'static>) -> Self {
        Self { queue, worker, at_most: AT_MOST, scheduled: false, lenient: false, caller }
    }

    /// Runs the jobs that are ready, and those that they add in turn, until none is ready. That is the default.
    pub fn until_idle(mut self) -> Self {
        self.scheduled = false;
        self
    }

    /// Runs the jobs of the future too, and retries. Time passes until the next of them is due, as by [`TestQueue::advance`], again and again until
    /// no job of the worker's tasks is left but dead ones.
    pub fn scheduled_too(mut self) -> Self {
        self.scheduled = true;
        self
    }

    /// So many jobs may be started; a job that is tried again counts again. Default: 10 000.
    pub fn at_most(mut self, jobs: usize) -> Self {
        self.at_most = jobs;
        self
    }

    /// Lets payloads that cannot be read and jobs of other tasks pass, for tests that are about those.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    async fn run(self) -> Report {
        let (queue, caller, at_most) = (self.queue, self.caller, self.at_most);
        let worker = self.worker.handle_signals(false).event_capacity(EVENTS).build();
        let worker = worker.unwrap_or_else(|error| panic!("{error}, at {caller}"));
        let (mut report, mut events) = (Report::default(), worker.events());
        loop {
            run_once(&worker, &mut events, &mut report, at_most, caller).await;
            let jobs = queue.jobs().await;
            let next = jobs.iter().filter(|job| waits(job, &jobs) && worker.tasks().contains(&job.task));
            let Some(next) = next.map(|job| job.run_at).min().filter(|_| self.scheduled) else { break };
            queue.advance((next - jobs.now).to_std().unwrap_or_default()).await;
        }
        let report = report.at(queue.now().await);
        if !self.lenient {
            find_mistakes(&report, &worker, &queue.jobs().await, caller);
        }
        report
    }
}

impl<'a> IntoFuture for Drain<'a> {
    type Output = Report;
    type IntoFuture = BoxFuture<'a, Report>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Whether a job will be ready when its time has come.
fn waits(job: &Job, jobs: &Jobs) -> bool {
    matches!(job.state(jobs.now), JobState::Ready | JobState::Scheduled | JobState::Retrying)
}

async fn run_once(
    worker: &Worker,
    events: &mut EventStream,
    report: &mut Report,
    at_most: usize,
    caller: &Location<'_>,
) {
    let mut see = |event: Option<Event>| {
        match event {
            Some(Event::Lagged { missed }) => panic!("{missed} events of the worker are missing, at {caller}"),
            Some(event) => report.see(event),
            None => {}
        }
        assert!(
            report.started() <= at_most,
            "more than {at_most} jobs were started at {caller}; does a job add itself again and again, or put itself off for no time? So far:\n\
             {report}"
        );
    };
    let running = worker.run_until_idle();
    tokio::pin!(running);
    let ended = loop {
        tokio::select! {
            biased;
            event = events.next() => see(event),
            ended = &mut running => break ended,
        }
    };
    while let Some(event) = tokio::task::unconstrained(events.next()).now_or_never() {
        see(event);
    }
    if let Err(error) = ended {
        panic!("the worker failed at {caller}: {error}");
    }
}

fn find_mistakes(report: &Report, worker: &Worker, left: &Jobs, caller: &Location<'_>) {
    let unreadable = report.unreadable();
    assert!(
        unreadable.is_empty(),
        "a task could not read its payload, at {caller}; add what the task's type is read from, or let it pass by .lenient()\n\n{}",
        listed(&unreadable)
    );
    let tasks = worker.tasks();
    let is_lost = |job: &&Job| waits(job, left) && job.run_at <= left.now && !tasks.contains(&job.task);
    let lost: Vec<Job> = left.iter().filter(is_lost).cloned().collect();
    if let Some(first) = lost.first() {
        let meant = did_you_mean(&first.task, tasks.iter().map(String::as_str));
        panic!(
            "jobs are ready that the worker at {caller} has no task for; its tasks are {tasks:?}{meant}\n\
             register the task, or let them pass by .lenient()\n\n{}",
            listed(&Jobs::new(lost.clone(), left.now, "ready and run by no task"))
        );
    }
}
