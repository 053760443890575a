//! Starting jobs, and what becomes of them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::super::events::Event;
use super::super::execute::{execute, failed};
use super::super::settler::Finished;
use super::Engine;
use crate::job::Job;
use crate::storage::{ClaimRef, ClaimToken, ClaimedJob, Outcome, Settlement, Then, WorkerId, clean_error};
use crate::task::{FollowUps, Handler, JobContext, TaskError};

/// Claimed jobs that have not started within this time are released: the pace was misjudged.
pub(super) const RELEASE_AFTER: Duration = Duration::from_millis(500);

/// A job and the claim by which it is held.
pub(super) struct Held {
    pub job: Arc<Job>,
    pub token: ClaimToken,
}

impl From<ClaimedJob> for Held {
    fn from(claimed: ClaimedJob) -> Self {
        Self { job: Arc::new(claimed.job), token: claimed.token }
    }
}

impl Deref for Held {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// A job that was claimed and waits for a slot.
pub(super) struct Waiting {
    pub job: Held,
    pub worker: Arc<WorkerId>,
    pub since: Instant,
    /// The rest of its run: the next jobs of its serial queue, which was claimed with them and is held until the last one is settled.
    /// They start one after the other, so they take no slot and do not count as waiting.
    pub rest: VecDeque<Held>,
}

/// A job that was started.
pub(super) struct Started {
    pub job: Held,
    pub worker: Arc<WorkerId>,
    pub handler: Arc<Handler>,
    /// See [`Waiting::rest`].
    pub rest: VecDeque<Held>,
    pub since: Instant,
}

/// How a job's future ended.
pub(super) struct Ended {
    outcome: Outcome,
    then: Then,
    took: Duration,
    /// Whether the task has completed the job in a transaction of its own.
    done_elsewhere: bool,
}

impl Ended {
    fn of(outcome: Outcome, took: Duration) -> Self {
        Self { outcome, then: Then::default(), took, done_elsewhere: false }
    }
}

impl Engine {
    pub(super) fn start_waiting(&mut self) {
        let before = self.buffer.waiting.len();
        // What waits for long is released; what is written makes the loop turn again.
        while self.slots.running.len() < self.work.now.concurrency && !self.results.are_many_bytes() {
            let Some(Waiting { job, worker, since, rest }) = self.buffer.waiting.pop_front() else { break };
            let Some(handler) = self.work.now.handlers.get(&job.task).cloned() else {
                // Cannot happen: only jobs of our tasks are asked for. If it does, nothing is lost.
                self.buffer.bytes -= bytes(&job) + rest.iter().map(|job| bytes(job)).sum::<usize>();
                self.release_unstarted([Waiting { job, worker, since, rest }]);
                continue;
            };
            self.buffer.bytes -= bytes(&job);
            // A run that had to wait begins now. (What is left of one that began so long ago was released.)
            let since = if since.elapsed() < RELEASE_AFTER { since } else { Instant::now() };
            if !rest.is_empty() {
                self.slots.rests_back_at.get_or_insert(since + RELEASE_AFTER);
            }
            // A token of its own only for a job that may be cancelled alone: it costs a little.
            let cancel = match handler.time_limit() {
                Some(_) => Arc::new(self.slots.cancel.child_token()),
                None => Arc::clone(&self.slots.cancel),
            };
            let running = Arc::clone(&job.job);
            let then = FollowUps::default();
            let ctx = JobContext::new(Arc::clone(&running), self.client.clone(), cancel, then.clone());
            let (ending, dropped) = (Arc::clone(&self.slots.cancel), Arc::clone(&self.slots.drop_jobs));
            let chain = self.middleware.clone();
            let lease = self.registration.lease.clone();
            self.events.tell(|| Event::JobStarted { job: Arc::clone(&running) });
            let started = Started { job, worker, handler: Arc::clone(&handler), rest, since };
            let follow_ups = then;
            let task = self.slots.running.spawn(async move {
                let begin = std::time::Instant::now();
                if lease.is_over() {
                    return Ended::of(Outcome::Released, begin.elapsed());
                }
                let outcome = execute(&chain, &handler, &running, ctx, &ending, &dropped).await;
                // Of an attempt that failed nothing follows.
                let then = if outcome.is_completed() { follow_ups.take() } else { Then::default() };
                let done_elsewhere = follow_ups.is_done_elsewhere();
                Ended { then, done_elsewhere, ..Ended::of(outcome, begin.elapsed()) }
            });
            self.slots.started.insert(task.id(), started);
        }
        if self.buffer.waiting.len() < before {
            self.buffer.since = Instant::now();
        }
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(mut started) = self.slots.started.remove(&id) else { return };
        let Ended { outcome, then, took, done_elsewhere } = match result {
            Ok(ended) => {
                // What was not even started says nothing of the pace.
                if ended.outcome != Outcome::Released {
                    self.claims.pace.job_took(ended.took);
                }
                ended
            }
            // The guard around the task catches panics; what is left is a panic while its future was dropped.
            Err(error) => {
                let error = TaskError::new(format!("the task panicked while it was dropped: {error}"));
                let outcome = failed(&started.job, started.handler.retry_policy(), error);
                Ended::of(outcome, Duration::ZERO)
            }
        };
        log_outcome(&started.job, &outcome, took);
        self.events.tell(|| Event::of_outcome(Arc::clone(&started.job.job), &outcome, took));
        // It is gone by now, or its transaction was not committed; then the attempt has failed.
        let outcome = if done_elsewhere && outcome.is_completed() {
            let error = "the job was completed in a transaction that was not committed";
            failed(&started.job, started.handler.retry_policy(), TaskError::new(error))
        } else {
            outcome
        };
        let claim = ClaimRef::new(&started.job, started.job.token);
        let mut settlement = Settlement::new(claim, outcome).then(then);
        settlement.done_elsewhere = done_elsewhere;
        self.buffer.prefetch_rests = false;
        if started.handler.concurrency_limit().is_some() {
            // Its place is free again, and jobs that had to wait for it were left out of claims.
            self.look();
        }
        let Some(next) = started.rest.pop_front() else {
            self.send(&started.worker, settlement);
            return;
        };
        // What could not even start goes back to its place, before the next one.
        let stays = settlement.outcome.releases();
        settlement.claim = settlement.claim.keeping_queue();
        self.send(&started.worker, settlement);
        let Started { worker, rest, since, .. } = started;
        let next = Waiting { job: next, worker, since, rest };
        if !stays
            && *next.worker == *self.registration.worker
            && self.registration.registering.is_none()
            && self.ending.is_none()
        {
            // It takes the slot of the one before, unless something more urgent waits.
            let urgent = self.buffer.waiting.iter().take_while(|other| other.job.priority < next.job.priority).count();
            self.buffer.waiting.insert(urgent, next);
        } else {
            self.buffer.bytes -= next.bytes();
            self.release_unstarted([next]);
        }
    }

    pub(super) fn settle(&self, worker: &Arc<WorkerId>, job: &Held, outcome: Outcome) {
        self.send(worker, Settlement::new(ClaimRef::new(job, job.token), outcome));
    }

    pub(super) fn release(&self, worker: &Arc<WorkerId>, job: &Held) {
        self.settle(worker, job, Outcome::Released);
    }

    /// The same for a job after which others of its run come.
    fn settle_amid_run(&self, worker: &Arc<WorkerId>, job: &Held, outcome: Outcome) {
        self.send(worker, Settlement::new(ClaimRef::new(job, job.token).keeping_queue(), outcome));
    }

    fn send(&self, worker: &Arc<WorkerId>, mut settlement: Settlement) {
        // Many results may wait to be written; what is not stored of an error is not kept until then.
        if let Some(error) = settlement.outcome.error_mut() {
            *error = clean_error(error);
        }
        self.results.backlog.add(&settlement);
        // The settler lives until this sender is dropped, so the send cannot fail.
        let _ = self.results.sender.send(Finished { worker: Arc::clone(worker), settlement });
    }

    /// Releases jobs that were claimed and have not started.
    pub(super) fn release_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.buffer.waiting);
        self.release_unstarted(waiting);
        self.release_rests(None);
        self.buffer.bytes = 0;
    }

    pub(super) fn release_unstarted(&self, jobs: impl IntoIterator<Item = Waiting>) {
        let mut count = 0;
        for Waiting { job, worker, rest, .. } in jobs {
            count += 1 + rest.len();
            let mut run = std::iter::once(job).chain(rest).peekable();
            while let Some(job) = run.next() {
                // The queue is released with the last one.
                if run.peek().is_some() {
                    self.settle_amid_run(&worker, &job, Outcome::Released);
                } else {
                    self.release(&worker, &job);
                }
            }
        }
        if count > 0 {
            self.events.tell(|| Event::Released { jobs: count });
        }
    }

    /// Releases what is left of the runs that are worked on, but keeps their queues: those are released with the jobs that run now. Of
    /// all runs, or of those that were claimed before a moment.
    pub(super) fn release_rests(&mut self, before: Option<Instant>) {
        let mut rests = Vec::new();
        for started in self.slots.started.values_mut() {
            if before.is_none_or(|before| started.since <= before) {
                let worker = &started.worker;
                rests.extend(started.rest.drain(..).map(|job| (Arc::clone(worker), job)));
            }
        }
        for (worker, job) in &rests {
            self.buffer.bytes -= bytes(job);
            self.settle_amid_run(worker, job, Outcome::Released);
        }
        if !rests.is_empty() {
            self.events.tell(|| Event::Released { jobs: rests.len() });
        }
    }
}

impl Waiting {
    /// Of all payloads in it.
    pub(super) fn bytes(&self) -> usize {
        bytes(&self.job) + self.rest.iter().map(|job| bytes(job)).sum::<usize>()
    }
}

fn bytes(job: &Job) -> usize {
    job.payload.as_str().len()
}

/// The target of what is logged about jobs, so that a program can show their ends without showing all the rest.
const LOG: &str = "backfill::job";

fn log_outcome(job: &Job, outcome: &Outcome, took: Duration) {
    let (id, task, attempt) = (job.id, &job.task, job.attempts);
    match outcome {
        Outcome::Failed { error, .. } if job.attempts >= job.max_attempts => {
            tracing::error!(target: LOG, job = %id, task, attempt, error, "the job is dead: no attempts left");
        }
        Outcome::Failed { error, retry, .. } => {
            tracing::warn!(target: LOG, job = %id, task, attempt, error, ?retry, "the job failed");
        }
        Outcome::Dead { error, .. } => {
            tracing::error!(target: LOG, job = %id, task, attempt, error, "the job is dead: its task gave up");
        }
        Outcome::Completed { .. } => tracing::debug!(target: LOG, job = %id, task, attempt, ?took, "the job is done"),
        Outcome::Snoozed { until, .. } => tracing::debug!(target: LOG, job = %id, task, ?until, "the job is put off"),
        Outcome::Interrupted { error, .. } => {
            tracing::warn!(target: LOG, job = %id, task, attempt, error, "the job is cut off, and ready for another worker");
        }
        _ => tracing::debug!(target: LOG, job = %id, task, "the job is released"),
    }
}
