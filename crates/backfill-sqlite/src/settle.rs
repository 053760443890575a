//! Writing how jobs ended.
//!
//! Everything is fenced by (job, worker, moment of the claim). Completed jobs go by claim: those that were claimed at one moment
//! are deleted by one statement. The others are written one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use backfill_core::Result;
use backfill_core::job::limits::later;
use backfill_core::job::{JobId, NewJob, RunAt};
use backfill_core::storage::messages::{Applied, Unit, check_units};
use backfill_core::storage::{INTERRUPTED, Settled, Settlement, Storage, WorkerId};
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::add::store;
use crate::file::{MonotonicClock, micros, time};
use crate::heartbeat::wake;

/// What belongs to one moment of claiming.
#[derive(Default)]
struct OfClaim {
    done: Vec<i64>,
    queues: Vec<String>,
    rest: Vec<Settlement>,
    /// What is to follow jobs.
    then: HashMap<i64, Vec<NewJob>>,
}

impl SqliteStorage {
    pub(crate) async fn settle_jobs(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        let freed_queues = settled.iter().filter(|settlement| settlement.claim.queue.is_some()).count();
        let claims = claims_of(settled);
        let follows = settled.iter().any(|settlement| !settlement.then.is_nothing());
        let (clock, worker) = (Arc::clone(self.file.clock()), worker.to_string());
        let applied = self
            .file
            .writer
            .write("write results", move |connection| {
                Box::pin(async move { settle(&clock, connection, &worker, claims).await })
            })
            .await?;
        if freed_queues > 0 {
            self.cursor.queue_was_freed(Instant::now());
        }
        if follows {
            self.file.tell();
        }
        Ok(Settled::applied(applied.into_iter().map(JobId::from_number).collect()).freed_queues(freed_queues))
    }
}

impl SqliteStorage {
    /// Writes a result on the caller's own connection to this file, in the caller's transaction: with it, or not at all. Answers whether the
    /// claim stood.
    ///
    /// # Errors
    /// When SQLite fails, or what follows needs messages that this storage was opened without.
    pub async fn settle_within(
        &self,
        connection: &mut SqliteConnection,
        worker: &WorkerId,
        settlement: &Settlement,
    ) -> Result<bool> {
        let fail = crate::errors::failed("complete a job in the caller's transaction");
        if settlement.then.needs_messages() {
            self.require_messages()?;
            let units = [Unit::of_settlement(worker, settlement)];
            check_units(&units)?;
            let applied = crate::messages::apply_in(self.file.clock(), connection, &units).await.map_err(fail)?;
            return Ok(applied.iter().all(Applied::is_done));
        }
        let claims = claims_of(std::slice::from_ref(settlement));
        let applied = settle(self.file.clock(), connection, worker.as_str(), claims).await.map_err(fail)?;
        Ok(!applied.is_empty())
    }
}

/// Results by the moments of their claims.
fn claims_of(settled: &[Settlement]) -> BTreeMap<i64, OfClaim> {
    let mut claims: BTreeMap<i64, OfClaim> = BTreeMap::new();
    for settlement in settled {
        let of_claim = claims.entry(settlement.claim.token.number()).or_default();
        of_claim.queues.extend(settlement.claim.queue.clone());
        if !settlement.then.is_nothing() {
            of_claim.then.insert(settlement.claim.id.number(), settlement.then.jobs.clone());
        }
        if settlement.outcome.is_completed() {
            of_claim.done.push(settlement.claim.id.number());
        } else {
            of_claim.rest.push(settlement.clone());
        }
    }
    claims
}

async fn settle(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    worker: &str,
    claims: BTreeMap<i64, OfClaim>,
) -> sqlx::Result<Vec<i64>> {
    let (mut applied, mut released, mut for_others, mut freed) = (Vec::new(), 0, false, false);
    for (moment, of_claim) in claims {
        if !of_claim.queues.is_empty() {
            let next = release_queues(connection, worker, (moment, clock.now()), of_claim.queues).await?;
            for_others |= next.any_for_others;
            freed |= next.any;
        }
        let before = applied.len();
        if !of_claim.done.is_empty() {
            applied.extend(delete(connection, worker, moment, of_claim.done).await?);
        }
        for settlement in of_claim.rest {
            let id = settlement.claim.id.number();
            let is_released = settlement.outcome.releases();
            if write(clock, connection, worker, moment, settlement).await? {
                applied.push(id);
                released += u64::from(is_released);
            }
        }
        let mut then = of_claim.then;
        for follow in applied[before..].iter().filter_map(|id| then.remove(id)) {
            store(clock, connection, &follow).await?;
        }
    }
    // Whoever frees a queue looks for its next job itself; others have heard of nothing.
    wake(connection, released.max(u64::from(for_others))).await?;
    if freed {
        // … but for those who have passed its jobs by, and would not look there for long.
        sqlx::query!("update backfill_wakeups set freed = freed + 1").execute(connection).await?;
    }
    Ok(applied)
}

/// What stands next in queues that were freed.
struct Next {
    /// Whether there is a job that is ready.
    any: bool,
    /// Whether one is of a task that the worker that freed the queue does not serve.
    any_for_others: bool,
}

/// Frees the serial queues that this claim took, even if their jobs are gone. Answers what stands next in them. (The job that is settled
/// may still be held; then the one behind it is looked at, and nobody minds.)
async fn release_queues(
    connection: &mut SqliteConnection,
    worker: &str,
    (moment, now): (i64, i64),
    queues: Vec<String>,
) -> sqlx::Result<Next> {
    let queues = crate::json(queues);
    sqlx::query!(
        r#"
update backfill_queues set locked_at = null, locked_by = null
where name in (select value from json_each(?1)) and locked_by = ?2 and locked_at = ?3
"#,
        queues,
        worker,
        moment,
    )
    .execute(&mut *connection)
    .await?;
    let next = sqlx::query!(
        r#"
select
  count(next.task) > 0 as "any!: bool",
  coalesce(
    max(
      next.task not in (
        select served.value
        from backfill_pools pool, json_each(pool.serves) served
        where pool.id = ?2
      )
    ),
    false
  ) as "any_for_others!: bool"
from (
  select (
    select job.task
    from backfill_jobs job indexed by backfill_jobs_queue
    where job.queue = freed.value and job.locked_at is null and job.attempts < job.max_attempts and job.run_at <= ?3
    order by job.priority, job.run_at, job.id
    limit 1
  ) as task
  from json_each(?1) freed
) next
"#,
        queues,
        worker,
        now,
    )
    .fetch_one(connection)
    .await?;
    Ok(Next { any: next.any, any_for_others: next.any_for_others })
}

async fn delete(
    connection: &mut SqliteConnection,
    worker: &str,
    moment: i64,
    done: Vec<i64>,
) -> sqlx::Result<Vec<i64>> {
    let list = crate::json(done.clone());
    // As a rule all of them stand, and then their numbers need not be read back one by one.
    let standing = sqlx::query_scalar!(
        r#"
select count(*) as "count!: i64"
from backfill_jobs
where id in (select value from json_each(?1)) and locked_by = ?2 and locked_at = ?3
"#,
        list,
        worker,
        moment,
    )
    .fetch_one(&mut *connection)
    .await?;
    let all = usize::try_from(standing).is_ok_and(|standing| standing == done.len());
    let applied = if all {
        done
    } else {
        sqlx::query_scalar!(
            r#"
select id as "id!: i64"
from backfill_jobs
where id in (select value from json_each(?1)) and locked_by = ?2 and locked_at = ?3
"#,
            list,
            worker,
            moment,
        )
        .fetch_all(&mut *connection)
        .await?
    };
    sqlx::query!(
        "delete from backfill_jobs where id in (select value from json_each(?1)) and locked_by = ?2 and locked_at = ?3",
        list,
        worker,
        moment,
    )
    .execute(connection)
    .await?;
    Ok(applied)
}

/// Writes an outcome other than done; answers whether the claim stood.
async fn write(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    worker: &str,
    moment: i64,
    settlement: Settlement,
) -> sqlx::Result<bool> {
    let now = time(clock.now());
    let Some(change) = settlement.outcome.change() else { return Ok(false) };
    let (outcome, error, when) = (change.kind, change.error, change.when);
    let payload = change.payload.map(|payload| payload.as_str().to_owned());
    // A failed job's delay counts from now, or from its own time if that is later.
    let (at, delay) = match when {
        None => (None, None),
        Some(RunAt::Time(time)) => (Some(micros(time)), None),
        Some(RunAt::In(delay)) if matches!(outcome, "snoozed" | "requeued") => (Some(micros(later(now, delay))), None),
        Some(RunAt::In(delay)) => (None, Some(micros(later(now, delay)) - micros(now))),
    };
    let now = micros(now);
    let (id, had_key) = (settlement.claim.id.number(), settlement.claim.had_key);
    // attempts: a dead job uses up its attempts; a released or snoozed one gets its attempt back, unless its key was taken
    // while it ran (then somebody replaced or removed it, and it must stay unavailable). So does one that was cut off, unless
    // it was the last time too; then it keeps the attempt, and comes back apart from others (`Rescued::spread`).
    let written = sqlx::query!(
        r#"
update backfill_jobs set
  attempts = case
    when ?4 = 'dead' then max_attempts
    when ?4 in ('failed', 'requeued') or (?5 and key is null) then attempts
    when ?4 = 'interrupted' and coalesce(instr(last_error, ?11) = 1, false) then attempts
    else max(attempts - 1, 0)
  end,
  last_error = coalesce(?6, last_error),
  payload = coalesce(?7, payload),
  run_at = case
    when ?4 = 'interrupted' and coalesce(instr(last_error, ?11) = 1, false)
      then max(?10, min(run_at, 253370764800000000)) + coalesce(?9, 0)
        + abs(random() % case when attempts <= 1 then 1 when attempts = 2 then 14778112 when attempts = 3 then 40171074
            when attempts = 4 then 109196300 when attempts = 5 then 296826318 else 600000000 end)
    else coalesce(?8, max(?10, min(run_at, 253370764800000000)) + ?9, run_at)
  end,
  locked_at = null,
  locked_by = null
where id = ?1 and locked_by = ?2 and locked_at = ?3
"#,
        id,
        worker,
        moment,
        outcome,
        had_key,
        error,
        payload,
        at,
        delay,
        now,
        INTERRUPTED,
    )
    .execute(connection)
    .await?;
    Ok(written.rows_affected() > 0)
}
