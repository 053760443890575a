//! One task alone.

use std::future::IntoFuture;
use std::panic::Location;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::jobs::Jobs;
use super::span::{Span, due};
use crate::client::BackfillClient;
use crate::job::{Job, JobSpec, RunAt};
use crate::nearest::did_you_mean;
use crate::storage::{Outcome, Then};
use crate::task::{Chain, FollowUps, Handler, JobContext};
use crate::worker::{WorkerBuilder, execute};

/// A task that runs when it is awaited. Made by [`TestQueue::perform`](super::TestQueue::perform) and
/// [`perform_by`](super::TestQueue::perform_by).
#[must_use = "nothing runs before this is awaited"]
#[derive(Debug)]
pub struct Perform {
    client: BackfillClient,
    by: By,
    spec: JobSpec,
    attempt: i16,
    caller: &'static Location<'static>,
}

/// The task, or the worker that has it.
#[derive(Debug)]
enum By {
    Task(Box<Handler>),
    Worker(Box<WorkerBuilder>),
}

impl Perform {
    pub(super) fn task(
        client: BackfillClient,
        task: Handler,
        spec: JobSpec,
        caller: &'static Location<'static>,
    ) -> Self {
        Self { client, by: By::Task(Box::new(task)), spec, attempt: 1, caller }
    }

    pub(super) fn by(
        client: BackfillClient,
        worker: WorkerBuilder,
        spec: JobSpec,
        caller: &'static Location<'static>,
    ) -> Self {
        Self { client, by: By::Worker(Box::new(worker)), spec, attempt: 1, caller }
    }

    /// As if it was started for this time. Default: 1, the first.
    pub fn attempt(mut self, attempt: i16) -> Self {
        self.attempt = attempt;
        self
    }

    /// How often the job may be started. Default: as the payload's type says, or 25. The attempt with this number is the last.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.spec = self.spec.max_attempts(attempts);
        self
    }

    async fn run(self) -> Performed {
        let (chain, handler) = match self.by {
            By::Task(task) => (Chain::default(), Arc::new(*task)),
            By::Worker(builder) => {
                let worker = builder.build().unwrap_or_else(|error| panic!("{error}, at {}", self.caller));
                let (task, tasks) = (self.spec.task(), worker.tasks());
                let handler = worker.handler(task).unwrap_or_else(|| {
                    let meant = did_you_mean(task, tasks.iter().map(String::as_str));
                    panic!(
                        "the task {task:?} is not registered with the worker at {}; its tasks are {tasks:?}{meant}",
                        self.caller
                    )
                });
                (worker.middleware().clone(), handler)
            }
        };
        let job = Arc::new(job_of(&self.client, self.spec, self.attempt));
        let Ran { outcome, then } = run(&chain, &handler, &job, self.client).await;
        Performed { job, outcome, then, now: Utc::now() }
    }
}

impl IntoFuture for Perform {
    type Output = Performed;
    type IntoFuture = BoxFuture<'static, Performed>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// The job that is stored of this, started for this time.
#[track_caller]
pub(super) fn job_of(client: &BackfillClient, spec: JobSpec, attempt: i16) -> Job {
    let new = client.checked([spec]).unwrap_or_else(|error| panic!("the job would be refused: {error}")).remove(0);
    let now = Utc::now().trunc_subsecs(6);
    let mut job = new.stored(1, new.due(now), now);
    job.attempts = attempt;
    job
}

/// The end of a run.
pub(super) struct Ran {
    pub outcome: Outcome,
    pub then: Then,
}

/// Runs a job as a worker does, but for the claim.
pub(super) async fn run(chain: &Chain, handler: &Arc<Handler>, job: &Arc<Job>, client: BackfillClient) -> Ran {
    let (follow_ups, never) = (FollowUps::default(), CancellationToken::new());
    let ctx = JobContext::new(Arc::clone(job), client, Arc::default(), follow_ups.clone());
    let outcome = execute(chain, handler, job, ctx, &never, &never).await;
    let then = if outcome.is_completed() { follow_ups.take() } else { Then::default() };
    Ran { outcome, then }
}

/// The end of a task that ran alone. Its assertions return it, so that they can be chained.
#[derive(Debug)]
pub struct Performed {
    job: Arc<Job>,
    outcome: Outcome,
    then: Then,
    now: DateTime<Utc>,
}

#[expect(clippy::must_use_candidate, reason = "an assertion is called for what it asserts")]
impl Performed {
    /// The task is done.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_done(&self) -> &Self {
        assert!(self.outcome.is_completed(), "expected {} to be done, and it {}", self.job.task, self.end());
        self
    }

    /// The attempt failed with an error that contains this text, and another one follows.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn assert_failed(&self, text: &str) -> &Self {
        let failed = self.retry().is_some() && self.error().is_some_and(|error| error.contains(text));
        assert!(failed, "expected {} to fail with {text:?}, and it {}", self.job.task, self.end());
        self
    }

    /// It is tried again after about so long.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn retried_in(&self, span: Span) -> &Self {
        let fits = self.retry().is_some_and(|retry| span.fits(self.now, retry.by(self.now)));
        assert!(fits, "expected {} to be tried again in {span}, and it {}", self.job.task, self.end());
        self
    }

    /// The job is dead: its last attempt failed, or the task has given it up.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_dead(&self) -> &Self {
        let dead = self.error().is_some() && self.retry().is_none();
        assert!(dead, "expected {} to be dead, and it {}", self.job.task, self.end());
        self
    }

    /// The task has put its job off for about so long.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn assert_snoozed(&self, span: Span) -> &Self {
        let fits = matches!(&self.outcome, Outcome::Snoozed { until, .. } if span.fits(self.now, until.by(self.now)));
        assert!(fits, "expected {} to be put off for {span}, and it {}", self.job.task, self.end());
        self
    }

    /// The error that the attempt failed with.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Failed { error, .. } | Outcome::Dead { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The items that are left of an array payload, of which some have failed (see [`Answer::items`](crate::Answer::items)).
    #[must_use]
    pub fn items_left(&self) -> Option<Vec<Value>> {
        let Outcome::Failed { payload, .. } = &self.outcome else { return None };
        payload.as_ref()?.decode().ok()
    }

    /// The jobs that are to follow it ([`JobContext::add_when_done`]); none if the task is not done. They are stored nowhere.
    #[must_use]
    pub fn follow_ups(&self) -> Jobs {
        let stored = (1..).zip(&self.then.jobs).map(|(id, new)| new.stored(id, new.due(self.now), self.now));
        Jobs::new(stored.collect(), self.now, "to follow")
    }

    /// How a worker stores it.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// When it is tried again, if it is.
    fn retry(&self) -> Option<RunAt> {
        match &self.outcome {
            Outcome::Failed { retry, .. } if self.job.attempts < self.job.max_attempts => Some(*retry),
            _ => None,
        }
    }

    /// How it ended, as the end of a sentence.
    fn end(&self) -> String {
        let when = |when: RunAt| due(self.now, when.by(self.now));
        match (&self.outcome, self.retry()) {
            (Outcome::Completed { .. }, _) => "is done".to_owned(),
            (Outcome::Snoozed { until, .. }, _) => format!("is put off and due {}", when(*until)),
            (Outcome::Failed { error, .. }, Some(retry)) => {
                format!("failed with {error:?} and is tried again {}", when(retry))
            }
            (Outcome::Failed { error, .. }, None) => {
                let (attempt, most) = (self.job.attempts, self.job.max_attempts);
                format!("is dead: attempt {attempt} of {most} failed with {error:?}")
            }
            (Outcome::Dead { error, .. }, _) => format!("is dead: the task gave up with {error:?}"),
            (other, _) => format!("ended as {other:?}"),
        }
    }
}
