//! Starting jobs, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::super::events::Event;
use super::super::execute::{execute, failed};
use super::super::settler::Finished;
use super::Engine;
use crate::job::Job;
use crate::storage::{ClaimRef, Outcome, PoolId, Settlement, clean_error};
use crate::task::{Handler, JobContext, TaskError};

/// Claimed jobs that have not started within this time are given back: the pace was misjudged.
pub(super) const GIVE_BACK_AFTER: Duration = Duration::from_millis(500);

/// A job that was claimed and waits for a slot.
pub(super) struct Waiting {
    pub job: Arc<Job>,
    pub pool: Arc<PoolId>,
    pub since: Instant,
}

/// A job that was started.
pub(super) struct Started {
    pub job: Arc<Job>,
    pub pool: Arc<PoolId>,
    pub handler: Arc<Handler>,
}

impl Engine {
    pub(super) fn start_waiting(&mut self) {
        let before = self.waiting.len();
        // What waits for long is given back; what is written makes the loop turn again.
        while self.running.len() < self.options.concurrency && !self.has_much_unwritten() {
            let Some(Waiting { job, pool, .. }) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= job.payload.as_str().len();
            let Some(handler) = self.handlers.get(&job.task).cloned() else {
                // Cannot happen: only jobs of our tasks are asked for. If it does, nothing is lost.
                self.settle(&pool, &job, Outcome::Returned);
                continue;
            };
            // A token of its own only for a job that may be cancelled alone: it costs a little.
            let cancel = match handler.time_limit() {
                Some(_) => Arc::new(self.cancel.child_token()),
                None => Arc::clone(&self.cancel),
            };
            let ctx = JobContext::new(Arc::clone(&job), self.client.clone(), cancel);
            let dropped = Arc::clone(&self.drop_jobs);
            let chain = self.middleware.clone();
            let lease = self.lease.clone();
            self.events.tell(|| Event::JobStarted { job: Arc::clone(&job) });
            let started = Started { job: Arc::clone(&job), pool, handler: Arc::clone(&handler) };
            let task = self.running.spawn(async move {
                let begin = std::time::Instant::now();
                if lease.is_over() {
                    return (Outcome::Returned, begin.elapsed());
                }
                let outcome = execute(&chain, &handler, &job, ctx, &dropped).await;
                (outcome, begin.elapsed())
            });
            self.started.insert(task.id(), started);
        }
        if self.waiting.len() < before {
            self.waiting_since = Instant::now();
        }
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, (Outcome, Duration)), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(started) = self.started.remove(&id) else { return };
        let (outcome, took) = match result {
            Ok((outcome, took)) => {
                // What was not even started says nothing of the pace.
                if outcome != Outcome::Returned {
                    self.pace.job_took(took);
                }
                (outcome, took)
            }
            // The guard around the task catches panics; what is left is a panic while its future was dropped.
            Err(error) => {
                let error = TaskError::new(format!("the task panicked while it was dropped: {error}"));
                (failed(&started.job, started.handler.retry_policy(), error), Duration::ZERO)
            }
        };
        log_outcome(&started.job, &outcome, took);
        self.events.tell(|| Event::of_outcome(Arc::clone(&started.job), &outcome, took));
        self.prefetch_rests = false;
        if started.handler.concurrency_limit().is_some() {
            // Its place is free again, and jobs that had to wait for it were left out of claims.
            self.look();
        }
        self.settle(&started.pool, &started.job, outcome);
    }

    pub(super) fn settle(&self, pool: &Arc<PoolId>, job: &Job, outcome: Outcome) {
        let settlement = Settlement { claim: ClaimRef::of(job), outcome: shortened(outcome) };
        self.backlog.gave(&settlement);
        // The settler lives until this sender is dropped, so the send cannot fail.
        let _ = self.results.send(Finished { pool: Arc::clone(pool), settlement });
    }

    /// Gives back jobs that were claimed and have not started.
    pub(super) fn give_back_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.give_back(waiting);
    }

    pub(super) fn give_back(&self, jobs: impl IntoIterator<Item = Waiting>) {
        let mut count = 0;
        for Waiting { job, pool, .. } in jobs {
            self.settle(&pool, &job, Outcome::Returned);
            count += 1;
        }
        if count > 0 {
            self.events.tell(|| Event::GivenBack { jobs: count });
        }
    }
}

/// Many results may wait to be written; what is not stored of an error is not kept until then.
fn shortened(mut outcome: Outcome) -> Outcome {
    if let Outcome::Failed { error, .. } | Outcome::Dead { error } = &mut outcome {
        *error = clean_error(error);
    }
    outcome
}

/// The target of what is logged about jobs, so that a program can show their ends without showing all the rest.
const LOG: &str = "backfill::job";

fn log_outcome(job: &Job, outcome: &Outcome, took: Duration) {
    let (id, task, attempt) = (job.id, &job.task, job.attempts);
    match outcome {
        Outcome::Failed { error, .. } if job.attempts >= job.max_attempts => {
            tracing::error!(target: LOG, job = id, task, attempt, error, "the job is dead: no attempts left");
        }
        Outcome::Failed { error, retry, .. } => {
            tracing::warn!(target: LOG, job = id, task, attempt, error, ?retry, "the job failed");
        }
        Outcome::Dead { error } => {
            tracing::error!(target: LOG, job = id, task, attempt, error, "the job is dead: its task gave up");
        }
        Outcome::Completed => tracing::debug!(target: LOG, job = id, task, attempt, ?took, "the job is done"),
        Outcome::Snoozed { until } => tracing::debug!(target: LOG, job = id, task, ?until, "the job is put off"),
        Outcome::Returned => tracing::debug!(target: LOG, job = id, task, "the job is given back"),
    }
}
