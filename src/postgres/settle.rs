//! Writing how jobs ended.
//!
//! Two statements, each for a whole batch: one deletes what is done, one updates the rest. Both are fenced by
//! (job id, worker, moment of the claim): a job or queue that carries another claim by now is left alone. A queue is
//! released by the same fence even if its job row is gone, so that nobody has to wait for a sweep.
//!
//! `locked_by || ''` hides the column's statistics from the planner. They are usually taken while few jobs are locked, which
//! makes it expect one row, read the whole table and compare it with the whole batch; the join on the key is what it should
//! use.
//!
//! Nobody but an administrator writes the rows of running jobs, but a user's transaction may lock one and stay open: whoever
//! adds a job under the key of a running one does. Then the statement ends after a second (`lock_timeout`), and the batch is written
//! but for the rows that are locked, which are answered as busy: one row must not hold up the results of a worker. What was busy
//! is not waited for again.

mod columns;

pub(super) use columns::bounded;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::connection::errors::is_locked;
use super::{PostgresStorage, micros};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::messages::{Applied, Unit};
use crate::storage::{INTERRUPTED, Settled, Settlement, Storage, WorkerId};
use columns::{Changes, Claims, claimed_at};

/// How long a result waits for somebody's lock, in milliseconds, as text.
const A_SECOND: &str = "1000";
/// The same when others wait for this one.
const HARDLY: &str = "50";

/// Whether a batch needs more than one statement.
fn is_mixed(batch: &[Settlement]) -> bool {
    let is_done = |settlement: &Settlement| settlement.outcome.is_completed();
    let is_followed = |settlement: &Settlement| !settlement.then.is_nothing();
    batch.iter().any(is_followed) || (batch.iter().any(is_done) && !batch.iter().all(is_done))
}

impl PostgresStorage {
    /// Writes results, all or none: none if somebody keeps the row of one locked.
    pub(super) async fn settle_all(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Option<Vec<JobId>>> {
        if self.locked_rows.knows_any(settled) {
            return Ok(None);
        }
        self.database
            .retrying(|| async {
                // Both or neither of two statements: after a failure nobody has to guess which half was applied.
                let mixed = is_mixed(settled);
                let mut work = if mixed {
                    self.database.transaction_in_time().await?.into()
                } else {
                    self.database.work_in_time().await?
                };
                match self.settle_jobs(&mut work, worker, settled, A_SECOND).await {
                    Err(error) if is_locked(&error) => Ok(None),
                    applied => {
                        let applied = applied?;
                        self.database.done(work).await?;
                        Ok(Some(applied))
                    }
                }
            })
            .await
    }

    /// Writes a result on the caller's own connection, in the caller's transaction: with it, or not at all. Answers whether the claim
    /// stood.
    ///
    /// # Errors
    /// When PostgreSQL fails (then the transaction is aborted), or what follows needs messages that this storage was opened without.
    pub async fn settle_within(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        settlement: &Settlement,
    ) -> Result<bool> {
        let fail = |e| self.database.error("complete a job in the caller's transaction", e);
        // The caller's own, which the statements below set for their transaction.
        let lock_timeout = sqlx::query_scalar!(r#"select current_setting('lock_timeout') as "value!""#)
            .fetch_one(self.database.schema.on(&mut *conn))
            .await
            .map_err(fail)?;
        let stood = if settlement.then.needs_messages() {
            self.require_messages()?;
            let unit = Unit::of_settlement(worker, settlement);
            self.apply_within(conn, &[unit], &lock_timeout).await?.iter().all(Applied::is_done)
        } else {
            !self.settle_jobs(conn, worker, std::slice::from_ref(settlement), A_SECOND).await?.is_empty()
        };
        // What the caller adds after this is told as ever.
        sqlx::query!(
            "select set_config('lock_timeout', $1, true) as timeout, set_config('backfill.lines', '', true) as lines",
            lock_timeout
        )
        .fetch_one(self.database.schema.on(conn))
        .await
        .map_err(fail)?;
        Ok(stood)
    }

    /// Writes results on this connection, in a transaction if they are mixed.
    async fn settle_jobs(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        settled: &[Settlement],
        max_wait: &str,
    ) -> Result<Vec<JobId>> {
        let (done, rest): (Vec<&Settlement>, Vec<&Settlement>) =
            settled.iter().partition(|settlement| settlement.outcome.is_completed());
        let mut applied = Vec::new();
        if let Some(moment) = one_moment(&done) {
            applied = self.delete_of_one_claim(conn, worker, moment, &done, max_wait).await?;
        } else if !done.is_empty() {
            applied = self.delete_completed(conn, worker, &done, max_wait).await?;
        }
        if !rest.is_empty() {
            applied.extend(self.write_others(conn, worker, &rest, max_wait).await?);
        }
        let applied: Vec<JobId> = applied.into_iter().map(JobId::from_number).collect();
        self.add_what_follows(conn, settled, &applied).await?;
        Ok(applied)
    }

    /// Adds the jobs that follow those whose claim still stood. Each job's own are one batch: two may use one key.
    async fn add_what_follows(&self, conn: &mut PgConnection, settled: &[Settlement], applied: &[JobId]) -> Result<()> {
        if settled.iter().all(|settlement| settlement.then.is_nothing()) {
            return Ok(());
        }
        let applied: HashSet<&JobId> = applied.iter().collect();
        for settlement in settled.iter().filter(|settlement| applied.contains(&settlement.claim.id)) {
            if !settlement.then.is_nothing() {
                self.add_chunks(conn, &settlement.then.jobs).await?;
            }
        }
        Ok(())
    }

    /// The same, but for what somebody else keeps locked, which is answered as busy. Waits for nobody, or hardly.
    pub(super) async fn settle_the_free(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let (mut applied, mut busy) = (Vec::new(), Vec::new());
        let mut stack = vec![settled.to_vec()];
        while let Some(batch) = stack.pop() {
            let mut tx = self.database.transaction_in_time().await?;
            let locked = self.locked_among(&mut tx, &batch).await?;
            let mut free = batch;
            free.retain(|settlement| !locked.contains(&settlement.claim.id));
            busy.extend(locked);
            if free.is_empty() {
                continue;
            }
            match self.settle_jobs(&mut tx, worker, &free, HARDLY).await {
                Ok(more) => {
                    tx.commit().await.map_err(|e| self.database.error("write results", e))?;
                    applied.extend(more);
                }
                // What is locked is something that goes with a row: a reference to it, or what a trigger asks for.
                Err(error) if is_locked(&error) => {
                    drop(tx);
                    if let [one] = &free[..] {
                        busy.push(one.claim.id);
                    } else {
                        stack.push(free.split_off(free.len() / 2));
                        stack.push(free);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Settled::applied(applied).busy(busy))
    }

    /// Locks what these results write, and answers whose rows, or whose queue's, somebody else has locked.
    async fn locked_among(&self, conn: &mut PgConnection, settled: &[Settlement]) -> Result<HashSet<JobId>> {
        let claims = Claims::of(&settled.iter().collect::<Vec<_>>());
        let done: Vec<bool> = settled.iter().map(|settlement| settlement.outcome.is_completed()).collect();
        // Locking: jobs, then queues, as everywhere; whatever cannot be locked at once is left. What is only changed needs a weaker
        // lock than what is deleted, beside which others may refer to the row.
        let busy = sqlx::query_scalar!(
            r#"
with settled as materialized (
  select * from unnest($1::bigint[], $2::text[], $3::boolean[]) as settled (id, queue, done)
),
free_done as materialized (
  select job.id from graphile_worker._private_jobs job
  where job.id = any (array(select settled.id from settled where settled.done))
  order by job.id
  for update skip locked
),
free_other as materialized (
  select job.id from graphile_worker._private_jobs job
  where job.id = any (array(select settled.id from settled where not settled.done))
  order by job.id
  for no key update skip locked
),
free_queue as materialized (
  select queue.queue_name from graphile_worker._private_job_queues queue
  where queue.queue_name = any ($2)
    and (select count(*) from free_done) + (select count(*) from free_other) >= 0
  order by queue.queue_name
  for no key update skip locked
)
select settled.id as "id!"
from settled
where (
    exists (select from graphile_worker._private_jobs job where job.id = settled.id)
    and settled.id <> all (array(select free_done.id from free_done))
    and settled.id <> all (array(select free_other.id from free_other))
  )
  or (
    exists (select from graphile_worker._private_job_queues queue where queue.queue_name = settled.queue)
    and settled.queue <> all (array(select free_queue.queue_name from free_queue))
  )
"#,
            &claims.id,
            &claims.queue as &[Option<&str>],
            &done,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("look for results that can be written", e))?;
        Ok(busy.into_iter().map(JobId::from_number).collect())
    }

    /// What [`delete_completed`](Self::delete_completed) does, for jobs that one claim took: the fence is the same for all, so there
    /// is nothing to join, which takes half the time.
    async fn delete_of_one_claim(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        moment: DateTime<Utc>,
        done: &[&Settlement],
        max_wait: &str,
    ) -> Result<Vec<i64>> {
        let ids: Vec<i64> = done.iter().map(|settlement| settlement.claim.id.number()).collect();
        let queues: Vec<&str> = done.iter().filter_map(|settlement| settlement.claim.queue.as_deref()).collect();
        if !queues.is_empty() {
            // Locking: as in `delete_completed`. Jobs first, because the answer is read from them.
            return sqlx::query_scalar!(
                r#"
with deleted as (
  delete from graphile_worker._private_jobs job
  where job.id = any ($2)
    and job.locked_by || '' = $1
    and job.locked_at = $3
    -- Asked once, before the first row is looked at.
    and (select set_config('lock_timeout', $4, true)) is not null
  returning job.id
),
released as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  where queue.queue_name = any ($5)
    and queue.locked_by || '' = $1
    and queue.locked_at = $3
)
select deleted.id from deleted
"#,
                worker.as_str(),
                &ids,
                moment,
                max_wait,
                &queues as &[&str],
            )
            .fetch_all(self.database.schema.on(conn))
            .await
            .map_err(|e| self.database.error("complete jobs", e));
        }
        sqlx::query_scalar!(
            r#"
delete from graphile_worker._private_jobs job
where job.id = any ($2)
  and job.locked_by || '' = $1
  and job.locked_at = $3
  -- Asked once, before the first row is looked at.
  and (select set_config('lock_timeout', $4, true)) is not null
returning job.id
"#,
            worker.as_str(),
            &ids,
            moment,
            max_wait,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("complete jobs", e))
    }

    async fn delete_completed(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        done: &[&Settlement],
        max_wait: &str,
    ) -> Result<Vec<i64>> {
        let claims = Claims::of(done);
        // Locking: rows that this worker holds, which nobody else writes but an administrator who breaks the lock.
        sqlx::query_scalar!(
            r#"
with settled as materialized (
  select * from unnest($2::bigint[], $3::timestamptz[], $4::text[]) as settled (id, locked_at, queue)
  where (select set_config('lock_timeout', $5, true)) is not null
),
deleted as (
  delete from graphile_worker._private_jobs job
  using settled
  where job.id = settled.id
    and job.locked_by || '' = $1
    and job.locked_at = settled.locked_at
  returning job.id
),
released as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from settled
  where queue.queue_name = settled.queue
    and queue.locked_by || '' = $1
    and queue.locked_at = settled.locked_at
)
select deleted.id from deleted
"#,
            worker.as_str(),
            &claims.id,
            &claims.locked_at,
            &claims.queue as &[Option<&str>],
            max_wait,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("complete jobs", e))
    }

    async fn write_others(
        &self,
        conn: &mut PgConnection,
        worker: &WorkerId,
        rest: &[&Settlement],
        max_wait: &str,
    ) -> Result<Vec<i64>> {
        let claims = Claims::of(rest);
        let changes = Changes::of(rest);
        // attempts: a dead job uses up its attempts; a released or snoozed one gets its attempt back, unless its key
        // was taken while it ran (then somebody replaced or removed it, and it must stay unavailable). So does one that was cut
        // off, unless it was the last time too; then it keeps the attempt, and comes back apart from others (`Rescued::spread`).
        // run_at: as Graphile counts, from the later of now and the job's own time; bounded, so that a row with an
        // absurd time cannot make the whole statement overflow.
        sqlx::query_scalar!(
            r#"
with settled as materialized (
  select *
  from unnest(
    $2::bigint[], $3::timestamptz[], $4::text[], $5::boolean[], $6::text[], $7::text[], $8::timestamptz[],
    $9::bigint[], $10::text[]
  ) as settled (id, locked_at, queue, had_key, outcome, error, run_at, delay_micros, payload)
  where (select set_config('lock_timeout', $11, true)) is not null
),
released as (
  update graphile_worker._private_job_queues queue
  set locked_by = null, locked_at = null
  from settled
  where queue.queue_name = settled.queue
    and queue.locked_by || '' = $1
    and queue.locked_at = settled.locked_at
),
written as (
  update graphile_worker._private_jobs job
  set
    attempts = case
      when settled.outcome = 'dead' then job.max_attempts
      when settled.outcome in ('failed', 'requeued') or (settled.had_key and job.key is null) then job.attempts
      when settled.outcome = 'interrupted' and coalesce(starts_with(job.last_error, $12), false) then job.attempts
      else greatest(job.attempts - 1, 0)
    end,
    last_error = coalesce(settled.error, job.last_error),
    payload = coalesce(settled.payload::json, job.payload),
    run_at = coalesce(
      settled.run_at,
      least(
        case when settled.outcome in ('snoozed', 'requeued') then now() else greatest(now(), job.run_at) end,
        timestamptz '9999-01-01 00:00:00Z'
      ) + settled.delay_micros * interval '1 microsecond',
      job.run_at
    ) + case
      when settled.outcome = 'interrupted' and job.attempts > 1 and coalesce(starts_with(job.last_error, $12), false)
        then random() * least(2 * exp(least(job.attempts, 10)), 600) * interval '1 second'
      else interval '0'
    end,
    locked_by = null,
    locked_at = null
  from settled
  where job.id = settled.id
    and job.locked_by || '' = $1
    and job.locked_at = settled.locked_at
  returning job.id, settled.outcome
),
-- What is released is ready, and others may have it.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":' || count(*)::text || '}')
  from written
  where written.outcome in ('returned', 'interrupted', 'requeued')
  having count(*) > 0
)
select written.id as "id!"
from written
left join notified on true
"#,
            worker.as_str(),
            &claims.id,
            &claims.locked_at,
            &claims.queue as &[Option<&str>],
            &claims.had_key,
            &changes.outcome as &[&str],
            &changes.error as &[Option<String>],
            &changes.run_at as &[Option<DateTime<Utc>>],
            &changes.delay as &[Option<i64>],
            &changes.payload as &[Option<&str>],
            max_wait,
            INTERRUPTED,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("write failed jobs", e))
    }
}

/// The moment at which all of these jobs were claimed, if it is one.
fn one_moment(done: &[&Settlement]) -> Option<DateTime<Utc>> {
    let first = done.first()?.claim.token;
    let same = |settlement: &&Settlement| settlement.claim.token == first;
    done.iter().all(same).then(|| claimed_at(first))
}
