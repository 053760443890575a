//! Offering, and reading what was handed over: on the connection that listens.
//!
//! It is the one whose session holds the offer's lock. And its server process is awake when a job is handed over, because it has
//! just passed the notification on.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::PostgresStorage;
use super::super::row::jobs;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{Handed, Offer, PoolId};

/// When to try again where a giver was asking for the offer at this very moment.
const AGAIN: Duration = Duration::from_millis(2);
/// The same where the pool is not there: its worker will hear of that, and offer under another name.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(1);
/// The same after a refusal.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// What a worker offers, and what of it stands.
pub(in crate::storage::postgres) struct Offering {
    wanted: watch::Receiver<Option<Offer>>,
    standing: Option<Offer>,
    /// Not before this moment.
    again: Option<Instant>,
    /// Who offered last.
    pool: Option<Arc<PoolId>>,
}

impl Offering {
    pub fn new(wanted: watch::Receiver<Option<Offer>>) -> Self {
        Self { wanted, standing: None, again: None, pool: None }
    }

    /// Nothing is ever offered.
    pub fn none() -> Self {
        Self::new(watch::Sender::new(None).subscribe())
    }

    /// The session is gone, and its lock with it.
    pub fn lost(&mut self) {
        self.standing = None;
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
            () = again => {}
        }
    }

    /// Makes stand what is wanted.
    pub async fn follow(&mut self, storage: &PostgresStorage, conn: &mut PgConnection, channel: &str) -> Result<()> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.again = None;
        if self.standing.take().is_some() {
            storage.end_offer(conn, channel).await?;
        }
        let Some(offer) = wanted else { return Ok(()) };
        match storage.offer(conn, &offer, channel).await? {
            Some(true) => {
                self.pool = Some(Arc::clone(&offer.pool));
                self.standing = Some(offer);
            }
            Some(false) => self.again = Some(Instant::now() + AGAIN),
            None => self.again = Some(Instant::now() + UNKNOWN_AGAIN),
        }
        Ok(())
    }

    /// The storage refused it.
    pub fn put_off(&mut self) {
        self.again = Some(Instant::now() + REFUSED_AGAIN);
    }

    /// Reads a job that was handed over; `None` if it is held no longer.
    pub async fn read(&self, storage: &PostgresStorage, conn: &mut PgConnection, id: JobId) -> Result<Option<Handed>> {
        let Some(pool) = &self.pool else { return Ok(None) };
        let seen = std::time::Instant::now();
        let job = storage.read_held(conn, id, pool).await?;
        Ok(job.map(|job| Handed::new(job, Arc::clone(pool), seen)))
    }
}

impl PostgresStorage {
    /// Offers on this session; `false` if a giver asks at this very moment, `None` if the pool is not there.
    async fn offer(&self, conn: &mut PgConnection, offer: &Offer, channel: &str) -> Result<Option<bool>> {
        // Locking: the pool's row only where the channel is new, against signs of life. The advisory lock may be had before the
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
            offer.pool.as_str(),
            &*offer.tasks,
            channel,
        )
        .fetch_optional(self.schema.on(conn))
        .await
        .map_err(|e| self.error("offer to take jobs", e))
    }

    async fn end_offer(&self, conn: &mut PgConnection, channel: &str) -> Result<()> {
        sqlx::query_scalar!("select pg_advisory_unlock(hashtextextended($1, 0))", channel)
            .fetch_one(self.schema.on(conn))
            .await
            .map(|_| ())
            .map_err(|e| self.error("end an offer to take jobs", e))
    }

    async fn read_held(&self, conn: &mut PgConnection, id: JobId, pool: &PoolId) -> Result<Option<Job>> {
        let row = jobs!(
            "-- A job that was handed over.",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where job.id = $1 and job.locked_by = $2
"#,
            id,
            pool.as_str(),
        )
        .fetch_optional(self.schema.on(conn))
        .await
        .map_err(|e| self.error("read a job that was handed over", e))?;
        Ok(row.map(Job::from))
    }
}
