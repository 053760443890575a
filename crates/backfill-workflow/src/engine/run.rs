//! One execution of a workflow: its history, its numbers, and its writes.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::control::Control;
use super::core::Core;
use crate::codec;
use crate::error::{Error, Result};
use crate::failure::{Envelope, Failure};
use crate::store::{Change, Checkpoint, Checkpointed, Effect, Finish, Ms, NewRun, Run, Status, StepRow};

/// How a workflow has ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) format: Option<String>,
}

/// What the body of a workflow answers: its output as text, or what is recorded of its failure.
pub(crate) type Body = BoxFuture<'static, Result<String, Envelope>>;

/// Who asked for a workflow. Children inherit it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) roles: Option<String>,
}

/// An execution of a workflow by this process.
pub(crate) struct Execution {
    pub(crate) core: Arc<Core>,
    pub(crate) id: Arc<str>,
    pub(crate) name: &'static str,
    pub(crate) owner: String,
    pub(crate) deadline: Option<Ms>,
    pub(crate) identity: Option<Box<Identity>>,
    pub(crate) control: Control,
    pub(crate) place: Option<Box<Place>>,
    attempts: i64,
    next: AtomicI32,
    /// What is recorded of an earlier execution.
    history: HashMap<i32, StepRow>,
    /// The topics that are being received from.
    receiving: Mutex<HashSet<String>>,
    /// Where those look first who wait for the result in this process.
    outcome: Option<Arc<OnceLock<Outcome>>>,
}

/// Where in the queues it counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) queue: String,
    pub(crate) partition: Option<String>,
}

impl Execution {
    /// An execution of this row, which is this process's own.
    pub(crate) fn new(core: Arc<Core>, name: &'static str, run: &Run, steps: Vec<StepRow>) -> Self {
        let identity = Identity { user: run.user.clone(), role: run.role.clone(), roles: run.roles.clone() };
        let place = run.queue.clone().map(|queue| Box::new(Place { queue, partition: run.partition.clone() }));
        Self {
            core,
            id: run.id.as_str().into(),
            name,
            owner: run.owner.clone().unwrap_or_default(),
            deadline: run.deadline,
            identity: (identity != Identity::default()).then(|| Box::new(identity)),
            control: Control::default(),
            place,
            attempts: run.attempts,
            next: AtomicI32::new(0),
            history: steps.into_iter().map(|step| (step.number, step)).collect(),
            receiving: Mutex::default(),
            outcome: None,
        }
    }

    /// An execution of a row that was stored a moment ago.
    pub(crate) fn started(
        core: Arc<Core>,
        name: &'static str,
        new: &NewRun,
        owner: &str,
        deadline: Option<Ms>,
    ) -> Self {
        let identity = Identity { user: new.user.clone(), role: new.role.clone(), roles: new.roles.clone() };
        Self {
            core,
            id: new.id.as_str().into(),
            name,
            owner: owner.to_owned(),
            deadline,
            identity: (identity != Identity::default()).then(|| Box::new(identity)),
            control: Control::default(),
            place: None,
            attempts: 1,
            next: AtomicI32::new(0),
            history: HashMap::new(),
            receiving: Mutex::default(),
            outcome: None,
        }
    }

    pub(crate) fn with_outcome(mut self, outcome: Arc<OnceLock<Outcome>>) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Takes the next number, or the next so many: the first of them.
    pub(crate) fn take_numbers(&self, count: i32) -> i32 {
        self.next.fetch_add(count, Ordering::AcqRel)
    }

    /// The number that is taken next.
    pub(crate) fn peek_number(&self) -> i32 {
        self.next.load(Ordering::Acquire)
    }

    /// What is recorded under a number.
    pub(crate) fn recorded(&self, number: i32) -> Option<&StepRow> {
        self.history.get(&number)
    }

    /// What is recorded under a number, if it is what the code does now.
    pub(crate) fn replayed(&self, number: i32, name: &str) -> Result<Option<&StepRow>> {
        match self.history.get(&number) {
            Some(row) if row.name == name => {
                tracing::debug!(workflow = &*self.id, step = number, name, "replayed");
                Ok(Some(row))
            }
            Some(row) => Err(self.unexpected(number, &row.name, name)),
            None => Ok(None),
        }
    }

    fn unexpected(&self, step: i32, recorded: &str, found: &str) -> Error {
        Error::UnexpectedStep { run: self.id.to_string(), step, recorded: recorded.to_owned(), found: found.to_owned() }
    }

    fn cancelled(&self) -> Error {
        Error::Cancelled { id: self.id.to_string() }
    }

    /// Runs this until it ends or the workflow is cancelled. If it is lost, it never ends: whoever runs the body drops it.
    pub(crate) async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.control.interrupted() => Err(self.interruption().await),
            answer = work => Ok(answer),
        }
    }

    /// Waits until something is heard, or for so long, or until this moment: whichever comes first. The caller looks again.
    pub(crate) async fn wait(&self, heard: impl Future<Output = ()>, poll: Duration, until: Ms) -> Result<()> {
        self.interruptible(async {
            tokio::select! {
                () = heard => {}
                () = tokio::time::sleep(poll.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                () = self.core.sleep_until(until) => {}
            }
        })
        .await
    }

    /// What an interrupted workflow is told.
    async fn interruption(&self) -> Error {
        if self.control.is_lost() {
            std::future::pending::<()>().await;
        }
        self.cancelled()
    }

    /// Records a step, with what goes with it. Answers what the code is to know of it.
    ///
    /// In a box, because it is large, and short: a workflow that sleeps afterwards has no room in it for this.
    pub(crate) fn write(&self, step: StepRow, effect: Option<Effect>) -> BoxFuture<'_, Result<Checkpointed>> {
        Box::pin(async move {
            let checkpoint = self.checkpoint(step.clone(), effect);
            let answer = self.interruptible(self.core.writer.checkpoint(checkpoint)).await?;
            self.judge(step, answer).await
        })
    }

    pub(crate) fn checkpoint(&self, step: StepRow, effect: Option<Effect>) -> Checkpoint {
        Checkpoint { run: self.id.to_string(), owner: self.owner.clone(), step, effect }
    }

    /// What the storage's answer to a checkpoint means.
    pub(crate) async fn judge(&self, step: StepRow, answer: Result<Checkpointed>) -> Result<Checkpointed> {
        match answer {
            // A write of this execution whose answer was lost.
            Ok(Checkpointed::Recorded(row)) if row.is_same(&step) => Ok(Checkpointed::Written),
            Ok(Checkpointed::Recorded(row)) if row.name != step.name => {
                Err(self.unexpected(step.number, &row.name, &step.name))
            }
            // The same step with another result. A message is consumed by one write alone, so that is this execution's, too.
            Ok(Checkpointed::Recorded(row)) if step.output.is_none() && step.error.is_none() => {
                Ok(Checkpointed::Recorded(row))
            }
            Err(Error::Closed) | Ok(Checkpointed::Recorded(_)) => {
                self.control.lose();
                Err(self.interruption().await)
            }
            Ok(Checkpointed::Refused(None)) => Err(Error::NoWorkflow { id: self.id.to_string() }),
            Ok(Checkpointed::Refused(Some(existing))) => {
                if existing.status == Status::Cancelled {
                    self.control.cancel();
                } else {
                    self.control.lose();
                }
                Err(self.interruption().await)
            }
            answer => answer,
        }
    }

    /// That one receives from a topic, until the guard is dropped.
    pub(crate) fn receive_from(self: &Arc<Self>, topic: &str) -> Result<Receiving> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if !receiving.insert(topic.to_owned()) {
            return Err(Error::ReceiveConflict { run: self.id.to_string(), topic: topic.to_owned() });
        }
        Ok(Receiving { execution: Arc::clone(self), topic: topic.to_owned() })
    }

    /// Runs the body to its end, and records it.
    pub(crate) async fn drive(self: Arc<Self>, body: Body) {
        let ended = tokio::select! {
            biased;
            () = self.control.lost() => None,
            ended = self.within_deadline(body) => Some(ended),
        };
        match ended {
            // The body was dropped: another process goes on with it, or will.
            None => tracing::debug!(workflow = &*self.id, "no longer this process's"),
            Some(Ok(result)) => Box::pin(self.end(result)).await,
            Some(Err(panic)) => {
                let message = crate::panic_message(&*panic);
                tracing::error!(
                    workflow = &*self.id,
                    name = self.name,
                    message,
                    "the workflow panicked; it will be begun again"
                );
                self.core.put_back(&self.id, &self.owner, self.attempts);
            }
        }
        self.core.forget(&self);
        // Whoever waits here finds the outcome, or that it no longer runs here and asks the storage.
        self.core.hub.wake(&Change::Finished(self.id.to_string()));
    }

    async fn within_deadline(&self, body: Body) -> std::thread::Result<Result<String, Envelope>> {
        let mut body = AssertUnwindSafe(body).catch_unwind();
        let Some(deadline) = self.deadline else { return body.await };
        // Few workflows have a deadline, and all have room for what stands here: so it is in boxes.
        tokio::select! {
            biased;
            ended = &mut body => return ended,
            () = Box::pin(self.core.sleep_until(deadline)) => {}
        }
        // By this process's clock its time is up; the row says so before the code is told.
        if Box::pin(self.core.cancel(&self.id, &self.owner)).await {
            self.control.cancel();
        }
        body.await
    }

    async fn end(&self, result: Result<String, Envelope>) {
        let (status, output, error) = match result {
            Ok(output) => (Status::Success, Some(output), None),
            Err(envelope) => (Status::Error, None, Some(codec::encode_error(&envelope))),
        };
        let outcome =
            Outcome { status, output: output.clone(), error: error.clone(), format: Some(codec::PORTABLE.to_owned()) };
        let finish = Finish { run: self.id.to_string(), owner: self.owner.clone(), status, output, error };
        match self.core.writer.finish(finish).await {
            Ok(true) => {
                if let Some(known) = &self.outcome {
                    let _ = known.set(outcome);
                }
            }
            // Somebody has cancelled it, or taken it over: what is recorded holds.
            Ok(false) => tracing::debug!(workflow = &*self.id, "the workflow's end was not this execution's to write"),
            Err(Error::Closed) => {}
            Err(error) => {
                tracing::error!(workflow = &*self.id, %error, "the workflow's end could not be written; it will be begun again");
                self.core.put_back(&self.id, &self.owner, self.attempts);
            }
        }
    }

    /// What a cancelled workflow's code is told at its next step.
    pub(crate) async fn gate(&self) -> Result<()> {
        if self.control.is_cancelled() || self.control.is_lost() {
            return Err(self.interruption().await);
        }
        Ok(())
    }
}

/// That a workflow receives from a topic.
pub(crate) struct Receiving {
    execution: Arc<Execution>,
    topic: String,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.execution.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.topic);
    }
}

/// What is recorded of a step that has failed.
pub(crate) fn failure_of(row: &StepRow) -> Option<Failure> {
    row.error.as_deref().map(|text| codec::decode_error(text, row.format.as_deref()).into())
}
