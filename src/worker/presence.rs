//! A registration that is kept alive without an engine: for doors, and for programs that claim jobs themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::events::{EventStream, Events};
use super::lease::{Lease, sent_now};
use super::maintenance::{Identity, Maintenance, News, Timing};
use crate::client::BackfillClient;
use crate::error::{Error, Result};
use crate::storage::{Consumer, GuardedCalls, WorkerId};

/// How many events a reader may be behind.
const EVENTS: usize = 1_024;

/// A registered worker that sends heartbeats, frees the jobs of dead workers and sweeps stale locks, and nothing else.
///
/// Whoever has one may claim and settle by its [`worker`](Self::worker) and [`consumer`](Self::consumer). Heartbeats are sent from a
/// thread of their own.
///
/// ```
/// use backfill::storage::{ClaimRef, ClaimRequest, Outcome, Settlement};
/// use backfill::worker::{Presence, Timing};
///
/// # async fn example(jobs: backfill::BackfillClient) -> backfill::Result<()> {
/// let tasks = ["send".to_owned()];
/// let presence = Presence::begin(&jobs, &tasks, Timing::default()).await?;
/// let claimed = presence.consumer().claim(&ClaimRequest::new(presence.worker(), &tasks, 1)).await?;
/// for job in &claimed.jobs {
///     let done = Settlement::new(ClaimRef::of(job), Outcome::completed());
///     presence.consumer().settle(presence.worker(), &[done]).await?;
/// }
/// presence.end().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Presence {
    worker: Arc<WorkerId>,
    calls: GuardedCalls,
    lost: watch::Receiver<bool>,
    events: Events,
    running: JoinSet<()>,
}

impl Presence {
    /// Registers a worker of these tasks, and keeps it registered until it is [ended](Self::end) or dropped. (Of one that was dropped
    /// others notice the missed heartbeats.)
    ///
    /// # Errors
    /// [`Error::InvalidWorker`] for a timing that does not go together; and when the storage fails.
    pub async fn begin(jobs: &BackfillClient, tasks: &[String], timing: Timing) -> Result<Self> {
        timing.check()?;
        let (calls, events) = (GuardedCalls::to(jobs.storage().consumer()), Events::new(EVENTS));
        let tasks: Arc<[String]> = tasks.into();
        let mut worker = Arc::new(WorkerId::random());
        let lease = Lease::new(timing.dead_after, sent_now());
        let identity = Identity { worker: Arc::clone(&worker), lease: lease.clone() };
        let (identities, identity) = watch::channel(identity);
        let (news_tx, mut news) = mpsc::unbounded_channel();
        let maintenance =
            Maintenance::start(calls.clone(), jobs.storage(), identity, timing, None, events.clone(), news_tx);
        let registrar = maintenance.registrar();
        loop {
            let sent = sent_now();
            if registrar.register(&worker, &tasks).await? {
                lease.extend(sent);
                break;
            }
            // Somebody has it: it is chosen by chance.
            worker = Arc::new(WorkerId::random());
        }
        identities.send_replace(Identity { worker: Arc::clone(&worker), lease });
        maintenance.under_way().cancel();
        let (lost_tx, lost) = watch::channel(false);
        let mut running = JoinSet::new();
        running.spawn(async move {
            // Kept as long as the heartbeats are sent.
            let _identities = identities;
            let bad_news = async { if let Some(News::Evicted(_) | News::Gone(_)) = news.recv().await {} };
            tokio::select! {
                () = maintenance.run() => {}
                () = bad_news => {}
            }
            lost_tx.send_replace(true);
        });
        Ok(Self { worker, calls, lost, events, running })
    }

    /// Under which name jobs are held.
    #[must_use]
    pub fn worker(&self) -> &Arc<WorkerId> {
        &self.worker
    }

    /// The storage, with connections of its own.
    #[must_use]
    pub fn consumer(&self) -> &Arc<dyn Consumer> {
        self.calls.storage()
    }

    /// What happens from now on: missed heartbeats, and workers that were rescued.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.events.subscribe()
    }

    /// Whether others declared it dead, or the storage was taken away: what it held is others', and its results count for nothing.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until it [is lost](Self::is_lost).
    pub async fn lost(&self) {
        // If the sender is gone, it has said so.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Deregisters. What is still held is released.
    ///
    /// # Errors
    /// When the storage fails; then others notice the missed heartbeats.
    pub async fn end(mut self) -> Result<()> {
        self.running.shutdown().await;
        self.consumer().deregister(&self.worker).await
    }
}

impl Timing {
    /// A heartbeat so often; default: every 5 s.
    #[must_use]
    pub fn heartbeat_every(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// After how long without one a worker counts as dead, this one and others; default: 15 s.
    #[must_use]
    pub fn dead_after(mut self, duration: Duration) -> Self {
        self.dead_after = duration;
        self
    }

    /// # Errors
    /// [`Error::InvalidWorker`] for values that do not go together.
    pub(super) fn check(&self) -> Result<()> {
        if self.heartbeat_interval.is_zero() || self.dead_after < self.heartbeat_interval.saturating_mul(5) / 2 {
            return Err(Error::InvalidWorker(format!(
                "a heartbeat every {:?} and dead after {:?}: the second must be at least two and a half times the first",
                self.heartbeat_interval, self.dead_after
            )));
        }
        let (least, most) = self.sweep;
        if least < Duration::from_millis(1) || most < least {
            return Err(Error::InvalidWorker(format!(
                "sweeps every {least:?} to {most:?}: the first must be at least 1 ms, and the second no less"
            )));
        }
        Ok(())
    }
}
