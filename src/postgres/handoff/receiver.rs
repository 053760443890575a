//! Offering, and reading what was handed off: on the connection that listens.
//!
//! It is the one whose session holds the offer's lock. And its server process is awake when a job is handed off, because it has
//! just passed the notification on.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::PostgresStorage;
use super::super::connection::row::{jobs, token};
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{ClaimedJob, Handoff, Offer, WorkerId};

/// When to try again where a sender was asking for the offer at this very moment: at first, and after many times.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));
/// The same where the worker is not there: its worker will hear of that, and offer under another name.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(1);
/// The same after a refusal.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// What a worker offers, and what of it stands.
pub(in crate::postgres) struct Offering {
    wanted: watch::Receiver<Option<Offer>>,
    standing: Option<Offer>,
    /// Whether the session may hold the offer's lock, once or several times.
    may_hold: bool,
    /// Not before this moment.
    again: Option<Instant>,
    /// How long to wait then.
    delay: Duration,
    /// Who offered last.
    worker: Option<Arc<WorkerId>>,
}

impl Offering {
    pub fn new(wanted: watch::Receiver<Option<Offer>>) -> Self {
        Self { wanted, standing: None, may_hold: false, again: None, delay: AGAIN.0, worker: None }
    }

    /// Nothing is ever offered.
    pub fn none() -> Self {
        Self::new(watch::Sender::new(None).subscribe())
    }

    /// The session is gone, and its lock with it.
    pub fn lost(&mut self) {
        self.standing = None;
        self.may_hold = false;
        self.again = None;
    }

    /// Whether there is something to do at once.
    pub fn is_behind(&self) -> bool {
        self.again.is_none_or(|time| Instant::now() >= time) && *self.wanted.borrow() != self.standing
    }

    /// Waits until there may be something to do.
    pub async fn changed(&mut self) {
        let again = self.again;
        let again = async {
            match again {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.wanted.changed() => if changed.is_err() {
                // The worker is at its end.
                std::future::pending::<()>().await;
            },
            () = again => self.again = None,
        }
    }

    /// Makes stand what is wanted.
    pub async fn follow(&mut self, storage: &PostgresStorage, conn: &mut PgConnection, channel: &str) -> Result<()> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.again = None;
        self.standing = None;
        if self.may_hold {
            storage.end_offer(conn).await?;
            self.may_hold = false;
        }
        let Some(offer) = wanted else { return Ok(()) };
        // Also if the statement fails: such locks do not go back with a transaction.
        self.may_hold = true;
        match storage.offer(conn, &offer, channel).await? {
            Some(true) => {
                self.worker = Some(Arc::clone(&offer.worker));
                self.standing = Some(offer);
                self.delay = AGAIN.0;
            }
            not_now => {
                self.may_hold = false;
                let delay = if not_now.is_some() { self.delay } else { UNKNOWN_AGAIN };
                self.again = Some(Instant::now() + delay);
                self.delay = (self.delay * 2).min(AGAIN.1);
            }
        }
        Ok(())
    }

    /// The storage refused it.
    pub fn put_off(&mut self) {
        self.again = Some(Instant::now() + REFUSED_AGAIN);
    }

    /// Reads a job that was handed off; `None` if it is held no longer.
    pub async fn read(&self, storage: &PostgresStorage, conn: &mut PgConnection, id: JobId) -> Result<Option<Handoff>> {
        let Some(worker) = &self.worker else { return Ok(None) };
        let seen = std::time::Instant::now();
        let job = storage.read_held(conn, id, worker).await?;
        Ok(job.map(|job| Handoff::new(job, Arc::clone(worker), seen)))
    }
}

impl PostgresStorage {
    /// Offers on this session; `false` if a sender asks at this very moment, `None` if the worker is not there.
    async fn offer(&self, conn: &mut PgConnection, offer: &Offer, channel: &str) -> Result<Option<bool>> {
        // Locking: the worker's row only where the channel is new, against heartbeats. The advisory lock may be had before the
        // row tells of it; nobody asks for it then.
        sqlx::query_scalar!(
            r#"
with announced as (
  update graphile_worker.backfill_pools pool
  set tasks = $2, handover = $3
  where pool.id = $1
    and pool.seen_at > 'epoch'
    and (pool.tasks is distinct from $2 or pool.handover is distinct from $3)
)
select pg_try_advisory_lock(hashtextextended($3, 0)) as "offers!"
from graphile_worker.backfill_pools pool
where pool.id = $1 and pool.seen_at > 'epoch'
"#,
            offer.worker.as_str(),
            &*offer.tasks,
            channel,
        )
        .fetch_optional(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("offer to take jobs", e))
    }

    async fn end_offer(&self, conn: &mut PgConnection) -> Result<()> {
        // The session has no other locks of this kind: it is the listener's own.
        sqlx::query_scalar!("select pg_advisory_unlock_all()")
            .fetch_one(self.database.schema.on(conn))
            .await
            .map(|_| ())
            .map_err(|e| self.database.error("end an offer to take jobs", e))
    }

    /// Reads a job that was stored as held by this worker. (What the worker has claimed is claimed later than it was stored.)
    async fn read_held(&self, conn: &mut PgConnection, id: JobId, worker: &WorkerId) -> Result<Option<ClaimedJob>> {
        let row = jobs!(
            "-- A job that was handed off.",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where job.id = $1 and job.locked_by = $2 and job.locked_at = job.created_at
"#,
            id.number(),
            worker.as_str(),
        )
        .fetch_optional(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("read a job that was handed off", e))?;
        Ok(row.map(Job::from).and_then(|job| {
            let token = token(job.locked_at?);
            Some(ClaimedJob::new(job, token))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_put_off_and_is_not_wanted_any_more_wakes_once() {
        let wanted = watch::Sender::new(None);
        let mut offering = Offering::new(wanted.subscribe());
        offering.put_off();
        tokio::time::advance(REFUSED_AGAIN).await;
        offering.changed().await;
        assert!(!offering.is_behind());
        let woken = tokio::time::timeout(Duration::from_secs(3_600), offering.changed()).await;
        assert!(woken.is_err(), "nothing else wakes it");
        wanted.send_replace(Some(Offer::new(Arc::new(WorkerId::random()), ["t".to_owned()].into(), 1)));
        offering.changed().await;
        assert!(offering.is_behind());
    }
}
