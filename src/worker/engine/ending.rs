//! Shutdown, and the last writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::events::Event;
use super::super::settler::Summary;
use super::super::shutdown::Stage;
use super::jobs::Started;
use super::results::Results;
use super::slots::Slots;
use super::{Engine, Mode};
use crate::error::{Error, Result};
use crate::storage::Outcome;

/// How long a dropped job may take to unwind, and how long a forced shutdown lasts.
const HURRY: Duration = Duration::from_secs(1);
/// How long results may take to be written after the last job ended, at the least.
const WRITE_GRACE: Duration = Duration::from_secs(5);

/// A shutdown under way.
pub(super) struct Ending {
    /// When running jobs are asked to end.
    pub cancel: Instant,
    /// When their futures are dropped.
    pub drop: Instant,
    /// When what has not ended by then, jobs that do not even unwind and a claim without an answer, is abandoned.
    pub abandon: Instant,
}

impl Ending {
    /// The next step.
    pub fn deadline(&self, slots: &Slots) -> Instant {
        if !slots.cancel.is_cancelled() {
            self.cancel
        } else if !slots.drop_jobs.is_cancelled() {
            self.drop
        } else {
            self.abandon
        }
    }
}

impl Engine {
    pub(super) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.shut_down(Stage::Graceful);
    }

    /// What the jobs are in was taken away. No result can be written, and others may run the same jobs out of what is there now, so those
    /// that run here are asked to end at once.
    pub(super) fn gone(&mut self, error: Error) {
        if self.failure.as_ref().is_some_and(Error::is_gone) {
            return;
        }
        tracing::error!(%error, running = self.slots.running.len(), "the worker ends; its jobs are asked to end now");
        self.registration.lease.end();
        self.failure = Some(error);
        self.shut_down(Stage::Graceful);
        self.slots.cancel.cancel();
    }

    pub(super) fn shut_down(&mut self, stage: Stage) {
        let now = Instant::now();
        if stage == Stage::Run {
            return;
        }
        let ending = self.ending.get_or_insert_with(|| {
            let drop = now + self.options.grace;
            Ending { cancel: (now + self.options.cancel_after).min(drop), drop, abandon: drop + HURRY }
        });
        if stage == Stage::Forced {
            ending.cancel = now;
            ending.drop = ending.drop.min(now + HURRY);
            ending.abandon = ending.drop + HURRY;
        }
        let (running, forced) = (self.slots.running.len(), stage == Stage::Forced);
        self.events.tell(|| Event::ShuttingDown { running, forced });
        tracing::info!(running, waiting = self.buffer.waiting.len(), "no more jobs are started");
        self.release_waiting();
        self.further_the_end(now);
    }

    /// Does what the shutdown's clock says.
    pub(super) fn further_the_end(&mut self, now: Instant) {
        let Some(ending) = &self.ending else { return };
        if now >= ending.cancel {
            self.slots.cancel.cancel();
        }
        if now >= ending.drop {
            self.slots.drop_jobs.cancel();
        }
        if now >= ending.abandon && self.claims.abandon() {
            // What it may have taken is released when the worker is deregistered.
            tracing::warn!("a claim was not answered before the worker had to end");
        }
    }

    pub(super) fn is_over(&self) -> bool {
        if !self.claims.is_empty() {
            return false;
        }
        let idle = self.slots.running.is_empty() && self.buffer.waiting.is_empty();
        match &self.ending {
            Some(ending) => idle || (self.slots.drop_jobs.is_cancelled() && Instant::now() >= ending.abandon),
            None => self.mode == Mode::UntilIdle && idle && !self.claims.more && self.slots.held.is_empty(),
        }
    }

    /// Settles what is left and waits until everything is written.
    pub(super) async fn end(mut self) -> Result<Summary> {
        // Jobs that block their thread cannot be dropped. They are given to others, but not while this process has hardly had
        // the time to end; the fence keeps a late end from counting.
        let abandoned: Vec<Started> = self.slots.started.drain().map(|(_, started)| started).collect();
        for started in &abandoned {
            tracing::error!(job = %started.job.id, task = started.job.task, "the job blocks its thread; abandoning it");
            let outcome = Outcome::interrupted("it blocked its thread").after(self.options.timing.dead_after);
            self.events.tell(|| Event::of_outcome(Arc::clone(&started.job.job), &outcome, Duration::ZERO));
            self.settle(&started.worker, &started.job, outcome);
        }
        self.slots.running.detach_all();
        let Self { results, calls, registration, ending, failure, options, mut shutdown, .. } = self;
        let (Results { sender, settler, give_up, .. }, worker) = (results, registration.worker);
        drop(sender);
        let limit = ending.map_or(options.grace, |ending| ending.abandon - Instant::now()).max(WRITE_GRACE);
        let timer = async {
            let forced = async {
                if shutdown.wait_for(|stage| *stage == Stage::Forced).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(WRITE_GRACE).await;
            };
            let _ = tokio::time::timeout(limit, forced).await;
            give_up.cancel();
            std::future::pending::<()>().await;
        };
        let (summary, unwritten) = tokio::select! {
            ended = settler => ended,
            () = timer => Ok((Summary::default(), 0)),
        }
        .map_err(|error| Error::Internal(format!("the settler failed: {error}")))?;
        // Only a worker that holds nothing knowingly deregisters; for what it holds, others must notice
        // the missed heartbeats.
        if unwritten == 0 && !failure.as_ref().is_some_and(Error::is_gone) {
            let deregistered = tokio::time::timeout(WRITE_GRACE, calls.storage().deregister(&worker)).await;
            if !matches!(deregistered, Ok(Ok(()))) {
                tracing::warn!("could not deregister; others will notice the missed heartbeats");
            }
        }
        match (failure, unwritten) {
            (Some(error), _) => Err(error),
            (None, 0) => Ok(summary),
            (None, jobs) => Err(Error::Unsettled { jobs }),
        }
    }
}
