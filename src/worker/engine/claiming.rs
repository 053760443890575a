//! When to ask for more jobs, and for how many.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Engine, Mode};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::storage::{ClaimRequest, Claimed, Outcome, PoolId};

/// No claims while more results than this (plus what can run) wait to be written.
const MAX_UNWRITTEN: usize = 5_000;
/// The delays between tries to claim while the storage fails.
pub(super) const FIRST_CLAIM_DELAY: Duration = Duration::from_millis(100);
pub(super) const MAX_CLAIM_DELAY: Duration = Duration::from_secs(5);
/// The delays between claims that see jobs of which others hold the queues at this very moment.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// A claim that has not been answered for this long never will be.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a claim whose answer was lost may still be on its way to the storage.
const DOUBT: Duration = Duration::from_secs(60);

/// A claim in flight: who asks, and what comes.
pub(super) type Claim = BoxFuture<'static, (Arc<PoolId>, Result<Claimed>)>;

impl Engine {
    pub(super) fn claim_if_useful(&mut self) {
        let busy = self.claiming.is_some() || self.registering.is_some();
        if busy || !self.more || self.ending.is_some() || self.failure.is_some() {
            return;
        }
        let now = Instant::now();
        if self.claim_not_before.is_some_and(|earliest| now < earliest) {
            return;
        }
        let concurrency = self.options.concurrency;
        let full = concurrency + self.pace.ahead(concurrency);
        let have = self.running.len() + self.waiting.len();
        // With slow jobs: whenever a slot is free. With fast ones: when half of what was claimed ahead is used up.
        let useful = have < concurrency || have <= full / 2;
        if !useful || self.held.len() > full + MAX_UNWRITTEN {
            return;
        }
        let limit = full - have;
        let in_doubt = self.doubt_until.is_some().then(|| self.held.keys().copied().collect::<Vec<JobId>>());
        if self.doubt_until.is_some_and(|until| now >= until) {
            self.doubt_until = None;
        }
        let (storage, pool, tasks) = (Arc::clone(&self.storage), Arc::clone(&self.pool), Arc::clone(&self.tasks));
        self.woken = false;
        self.claiming = Some(Box::pin(async move {
            let claim = async {
                if let Some(held) = in_doubt {
                    let jobs = storage.release_unknown(&pool, &held).await?;
                    if jobs > 0 {
                        tracing::warn!(jobs, "gave back jobs of a claim whose answer was lost");
                    }
                }
                storage.claim(&ClaimRequest::new(&pool, &tasks, limit)).await
            };
            let claimed = tokio::time::timeout(CLAIM_TIMEOUT, claim).await;
            (pool, claimed.unwrap_or_else(|_| Err(Error::Storage(format!("no answer for {CLAIM_TIMEOUT:?}").into()))))
        }));
    }

    pub(super) fn claimed(&mut self, (pool, claimed): (Arc<PoolId>, Result<Claimed>)) {
        self.claiming = None;
        match claimed {
            Ok(claimed) if pool != self.pool => {
                // Asked for under an identity that has been given up since: others have these jobs, or will.
                for job in claimed.jobs {
                    self.settle(&pool, &job, Outcome::Returned);
                }
            }
            Ok(claimed) => {
                self.claim_delay = FIRST_CLAIM_DELAY;
                self.claim_not_before = None;
                self.more = self.woken || claimed.more;
                if claimed.more && claimed.jobs.is_empty() {
                    // Everything in sight is in queues that others are taking at this moment.
                    self.claim_not_before = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(self.options.poll_interval);
                } else {
                    self.pause = FIRST_PAUSE;
                }
                for job in &claimed.jobs {
                    self.held.insert(job.id, job.locked_at.unwrap_or_default());
                }
                if self.waiting.is_empty() {
                    self.waiting_since = Instant::now();
                }
                self.waiting.extend(claimed.jobs.into_iter().map(|job| (Arc::new(job), Arc::clone(&pool))));
                if self.ending.is_some() || self.registering.is_some() {
                    self.give_back_waiting();
                }
            }
            Err(error) => {
                self.doubt_until = Some(Instant::now() + DOUBT);
                if self.mode == Mode::UntilIdle {
                    self.fail(error);
                    return;
                }
                tracing::warn!(%error, delay = ?self.claim_delay, "jobs could not be claimed; trying again");
                self.claim_not_before = Some(Instant::now() + self.claim_delay.mul_f64(0.5 + fastrand::f64() / 2.0));
                self.claim_delay = (self.claim_delay * 2).min(MAX_CLAIM_DELAY);
            }
        }
    }

    /// Claims soon, even if a claim in flight finds nothing.
    pub(super) fn look(&mut self) {
        self.more = true;
        self.woken = true;
    }
}
