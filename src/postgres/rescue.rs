//! Freeing what dead workers hold.
//!
//! **Unfinished rescues.** Another transaction may have locked the rows of some jobs that a dead worker holds, for any
//! time. No rescue waits for it: the other jobs are released, and the worker's row stays, with the *epoch* as the time when it was last
//! seen. Such a worker may neither send a heartbeat nor claim, and was last seen long enough ago at each look, so the
//! rest is freed as soon as it can be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::connection::row::Text;
use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::storage::{Rescued, Watch};

impl PostgresStorage {
    #[expect(clippy::too_many_lines, reason = "mostly the text of three statements, best read together")]
    pub(super) async fn rescue_workers(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let (dead_after, contact) = (micros(watch.dead_after), micros(watch.contact));
        let fail = |e| self.database.error("rescue the jobs of dead workers", e);
        // Whoever asks was in contact when it asked. If it takes long to get through, that is no longer known, and the way may be
        // open again for us a moment before it is for the others.
        let begun = Instant::now();
        let too_late = || begun.elapsed() > (watch.dead_after / 5).max(Duration::from_secs(1));
        // For unfinished rescues the whole table is read again; not at every look.
        let again = self.unfinished_rescues.is_time();
        // The cheap look first: nearly always no worker is dead, and then nothing is written or locked. While the server was
        // down nobody could send one, so missed heartbeats count from its start.
        let any_dead = sqlx::query_scalar!(
            r#"
select exists (
  select from graphile_worker.backfill_pools pool
  -- The longer of what the pool and what we ask for.
  cross join lateral (
    select greatest($1::bigint * interval '1 microsecond', pool.dead_after) as silence
  ) as judged
  where greatest(pool.seen_at, pg_postmaster_start_time()) < clock_timestamp() - judged.silence
    and case
      when pool.seen_at = 'epoch' then $2
      else judged.silence <= $3::bigint * interval '1 microsecond'
    end
) as "silent!"
"#,
            dead_after,
            again,
            contact,
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        if !any_dead || too_late() {
            return Ok(Vec::new());
        }
        let mut tx = self.database.waiting_transaction().await?;
        if too_late() {
            return Ok(Vec::new());
        }
        // Locking: the workers' rows go first. A worker that sends its heartbeat at this moment either comes before (its row is no
        // longer overdue when the update looks again under the lock) or after (it finds its row marked, and knows). One that is
        // claiming holds its row, and is skipped. Of two rescuers, one gets the row.
        // The ids come and go as the bytes that they are stored as: one that is no text must keep nobody from being rescued.
        let dead = sqlx::query_scalar!(
            r#"
update graphile_worker.backfill_pools pool
set seen_at = 'epoch'
where pool.id = any (array(
  select silent.id
  from graphile_worker.backfill_pools silent
  where greatest(silent.seen_at, pg_postmaster_start_time())
      < clock_timestamp() - greatest($1::bigint * interval '1 microsecond', silent.dead_after)
    and case
      when silent.seen_at = 'epoch' then $2
      else greatest($1::bigint * interval '1 microsecond', silent.dead_after)
        <= $3::bigint * interval '1 microsecond'
    end
  for update skip locked
))
returning convert_to(pool.id, getdatabaseencoding()) as "id!"
"#,
            dead_after,
            again,
            contact,
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        if dead.is_empty() {
            // Somebody else has them.
            return Ok(Vec::new());
        }
        // A statement of its own, so that it sees what a claim has taken that ended while the rows were being locked.
        // Locking: jobs, then queues; what somebody else has locked is left for the next look, with its queue.
        let rows = sqlx::query!(
            r#"
with dead as materialized (
  select convert_from(told.bytes, getdatabaseencoding()) as id, told.bytes
  from unnest($1::bytea[]) as told (bytes)
),
theirs as materialized (
  select job.id, job.locked_by as pool, job.job_queue_id
  from graphile_worker._private_jobs job
  where job.locked_by = any (array(select dead.id from dead))
),
held as materialized (
  select job.id, job.locked_by as pool
  from graphile_worker._private_jobs job
  where job.id = any (array(select theirs.id from theirs)) and job.locked_by = any (array(select dead.id from dead))
  for no key update skip locked
),
held_queue as materialized (
  select queue.id
  from graphile_worker._private_job_queues queue
  where queue.locked_by = any (array(select dead.id from dead))
    and (select count(*) from held) >= 0
    and queue.id <> all (array(
      select theirs.job_queue_id
      from theirs
      where theirs.job_queue_id is not null and theirs.id not in (select held.id from held)
    ))
  for no key update skip locked
),
released_queue as (
  update graphile_worker._private_job_queues queue
  set locked_at = null, locked_by = null
  where queue.id = any (array(select held_queue.id from held_queue))
  returning queue.id
),
-- Jobs that have died with a worker before come back apart from each other (`Rescued::spread`), unless their worker said otherwise.
released_job as (
  update graphile_worker._private_jobs job
  set
    locked_at = null,
    locked_by = null,
    run_at = case
      when (select pool.in_place from graphile_worker.backfill_pools pool where pool.id = job.locked_by) then job.run_at
      else greatest(job.run_at, now()) + case
        when job.attempts > 1 then random() * least(2 * exp(least(job.attempts, 10)), 600) * interval '1 second'
        else interval '0'
      end
    end,
    last_error = 'worker ' || job.locked_by || ' stopped sending heartbeats while running this job'
  where job.id = any (array(select held.id from held))
  returning job.id
),
notified as materialized (
  -- A queue may be held by whoever holds no job of it.
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || greatest(count(*), 1)::text || '}')
  from released_job
  having count(*) > 0 or exists (select from released_queue)
)
select
  dead.bytes as "id!",
  dead.id as "worker!: Text",
  freed.jobs as "jobs!",
  -- Also if one was settled just before it could be locked: then there is nothing to be seen at the next look.
  freed.jobs < (select count(*) from theirs where theirs.pool = dead.id) as "left!"
from dead
-- Not by a join of the two, whose sizes nobody knows beforehand.
cross join lateral (select count(*) as jobs from held where held.pool = dead.id) as freed
left join notified on true
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
"#,
            &dead,
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        let free: Vec<Vec<u8>> = rows.iter().filter(|row| !row.left).map(|row| row.id.clone()).collect();
        let forgotten = self.forget_dead(&mut tx, &free).await?;
        tx.commit().await.map_err(fail)?;
        if forgotten.len() < dead.len() {
            self.unfinished_rescues.failed();
        }
        // One whose rescue is unfinished was told before, if nothing more of it was freed.
        let rows = rows.into_iter().filter(|row| row.jobs > 0 || forgotten.contains(&row.id));
        let jobs = |jobs| u64::try_from(jobs).unwrap_or_default();
        Ok(rows.map(|row| Rescued { worker: row.worker.text, jobs: jobs(row.jobs) }).collect())
    }

    /// Takes away the rows of workers that hold no job any more, but for those that hold a queue; answers which.
    pub(super) async fn forget_dead(&self, conn: &mut PgConnection, dead: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar!(
            r#"
with dead as materialized (
  select convert_from(told.bytes, getdatabaseencoding()) as id
  from unnest($1::bytea[]) as told (bytes)
)
delete from graphile_worker.backfill_pools pool
where pool.id = any (array(select dead.id from dead))
  and pool.id <> all (array(
    select queue.locked_by
    from graphile_worker._private_job_queues queue
    where queue.locked_by = any (array(select dead.id from dead))
  ))
returning convert_to(pool.id, getdatabaseencoding()) as "id!"
"#,
            dead,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("take the rows of dead workers away", e))
    }
}

/// When to go on with unfinished rescues.
#[derive(Clone, Debug, Default)]
pub(super) struct UnfinishedRescues(Arc<Mutex<Option<Instant>>>);

impl UnfinishedRescues {
    const PAUSE: Duration = Duration::from_secs(10);

    fn is_time(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|last| last.elapsed() >= Self::PAUSE)
    }

    fn failed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
