//! Storing jobs.
//!
//! Jobs without keys have a statement of their own (`add_plain`). Of the others, one statement stores a chunk of a batch. It does what
//! the schema's own `add_jobs` function does, step for step (names, freeing taken keys, notification, insert or update), with three
//! differences: it carries each job's values in plain arrays, it serves all three key modes, and its answers are paired with its
//! inputs by their keys, which are unique within a batch.
//!
//! A row can be missing from the answer when another transaction gets in between the statement's snapshot and its
//! insert: it claims the job that has the key, or it is the first to use the same new name. Nothing was stored
//! for such an input, and the next round sees what happened, so the statement is simply run again for what is
//! missing.
//!
//! Where a trigger of the user's may change rows or leave them out, the statements store nothing, and `add_guarded` does.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::connection::row::jobs;
use super::{PostgresStorage, micros};
use crate::error::{Error, Result};
use crate::job::{Job, JobKeyMode, NewJob, RunAt};

/// Most jobs in one statement.
const CHUNK_JOBS: usize = 5_000;
/// Most payload bytes in one statement (a single larger job goes alone).
const CHUNK_BYTES: usize = 16 * 1024 * 1024;
/// How often missing rows are tried again. Each round loses to another transaction that has *finished*, so in
/// practice it takes one.
const ROUNDS: usize = 50;

impl PostgresStorage {
    /// Stores jobs on this connection, all or none: in a transaction of its own, or, where the caller has one
    /// open, in a savepoint of it.
    pub(crate) async fn add_on(&self, conn: &mut PgConnection, batch: &[NewJob]) -> Result<Vec<Job>> {
        match batch {
            [] => Ok(Vec::new()),
            // One job is one row: a statement on its own is all or nothing already.
            [_] => self.add_chunks(conn, batch).await,
            _ => {
                let mut tx = conn.begin().await.map_err(|e| self.database.error("begin storing jobs", e))?;
                let stored = self.add_chunks(&mut tx, batch).await?;
                tx.commit().await.map_err(|e| self.database.error("commit stored jobs", e))?;
                Ok(stored)
            }
        }
    }

    /// Stores jobs on this connection, where several statements are all or none only in a transaction.
    pub(super) async fn add_chunks(&self, conn: &mut PgConnection, batch: &[NewJob]) -> Result<Vec<Job>> {
        let mut stored: Vec<Option<Job>> = batch.iter().map(|_| None).collect();
        let (mut keyed, plain): (Vec<usize>, Vec<usize>) =
            (0..batch.len()).partition(|place| !batch[*place].is_plain());
        // Keys in one order across chunks too.
        keyed.sort_by_key(|place| batch[*place].key.as_deref());
        for mode in [JobKeyMode::Replace, JobKeyMode::PreserveRunAt, JobKeyMode::UnsafeDedupe] {
            let places: Vec<usize> = keyed.iter().copied().filter(|place| batch[*place].key_mode == mode).collect();
            for chunk in chunks(batch, &places) {
                self.add_in_rounds(conn, batch, Some(mode), chunk.to_vec(), &mut stored).await?;
            }
        }
        self.add_in_rounds(conn, batch, None, plain, &mut stored).await?;
        stored
            .into_iter()
            .collect::<Option<Vec<Job>>>()
            .ok_or_else(|| Error::Internal("a stored job was not paired with its input".to_owned()))
    }

    /// Stores the jobs at these places of the batch, which have keys if there is a mode for them, and puts the stored ones at the
    /// same places.
    async fn add_in_rounds(
        &self,
        conn: &mut PgConnection,
        batch: &[NewJob],
        mode: Option<JobKeyMode>,
        mut places: Vec<usize>,
        stored: &mut [Option<Job>],
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            if places.is_empty() {
                return Ok(());
            }
            if let Some(mode) = mode {
                let rows = self.add_statement(conn, &Columns::of(batch, &places), mode, false).await?;
                pair(batch, &places, rows, stored)?;
            } else {
                self.add_plain(conn, batch, &places, stored).await?;
            }
            places.retain(|place| stored[*place].is_none());
            if !places.is_empty() && self.is_guarded(conn).await? {
                return self.add_guarded(conn, batch, mode, &places, stored).await;
            }
        }
        Err(Error::Internal(format!(
            "{} jobs could not be stored in {ROUNDS} rounds because of other transactions",
            places.len()
        )))
    }

    /// One chunk. Where a trigger stands guard nothing is stored, unless `guarded` says that this is known.
    #[expect(clippy::too_many_lines, reason = "one statement, best read in one piece")]
    pub(super) async fn add_statement(
        &self,
        conn: &mut PgConnection,
        input: &Columns<'_>,
        mode: JobKeyMode,
        guarded: bool,
    ) -> Result<Vec<Job>> {
        // Locking: rows of the jobs table only where a key is taken; names that are new are locked against
        // other first users of them until the transaction ends. Table locks are the ordinary ones of an insert,
        // and they are taken before the snapshot, which is what makes `cleanup` safe.
        let rows = jobs!(
            r#"
with input as materialized (
  select *
  from unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[],
    $6::smallint[], $7::text[], $8::smallint[], $9::text[], $11::bigint[]
  ) with ordinality as input (
    task, payload, queue, run_at, delay_micros, max_attempts, key, priority, flags, place, number
  )
),
-- Whether a trigger may change rows, or leave them out, before they are stored. (Bits of tgtype: 1 for each row, 2 before, 4 insert,
-- 16 update.) Then nothing is stored here; see `add_guarded`.
guard as materialized (
  select exists (
    select from pg_catalog.pg_trigger trigger
    where trigger.tgrelid = 'graphile_worker._private_jobs'::regclass
      and trigger.tgenabled <> 'D'
      and trigger.tgtype::integer & 3 = 3
      and trigger.tgtype::integer & 20 <> 0
  ) as stands
),
-- Only names that are missing are inserted: a conflicting insert would burn an id of a 32-bit sequence.
new_task as (
  insert into graphile_worker._private_tasks (identifier)
  select distinct input.task
  from input
  where not exists (select from graphile_worker._private_tasks known where known.identifier = input.task)
  -- In one order, so that two first users of the same names do not deadlock.
  order by 1
  on conflict do nothing
  returning id, identifier
),
new_queue as (
  insert into graphile_worker._private_job_queues (queue_name)
  select distinct input.queue
  from input
  where input.queue is not null
    and not exists (select from graphile_worker._private_job_queues known where known.queue_name = input.queue)
  order by 1
  on conflict do nothing
  returning id, queue_name
),
task as materialized (
  select id, identifier from new_task
  union all
  select known.id, known.identifier
  from graphile_worker._private_tasks known
  where known.identifier = any (array(select input.task from input))
),
queue as materialized (
  select id, queue_name from new_queue
  union all
  select known.id, known.queue_name
  from graphile_worker._private_job_queues known
  where known.queue_name = any (array(select input.queue from input where input.queue is not null))
),
-- A job under this key that runs, or is dead, gives its key up and will not run again. That this came after the claim of one that
-- runs is told by the moment, however long ago this transaction began.
freed as (
  update graphile_worker._private_jobs taken
  set
    key = null,
    attempts = taken.max_attempts,
    updated_at = greatest(now(), taken.locked_at + interval '1 microsecond')
  where $10 <> 'unsafe_dedupe'
    and ($12 or not (select guard.stands from guard))
    and taken.key = any (array(select input.key from input where input.key is not null))
    and taken.is_available is not true
  returning taken.id
),
job as (
  insert into graphile_worker._private_jobs as job (
    job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags
  )
  select
    queue.id,
    task.id,
    input.payload::json,
    -- A batch's jobs are a microsecond apart, so that they keep their order: jobs are claimed by (priority, run_at), and
    -- ties have none. Storing a job takes longer than that, so none lies in the future when it becomes visible.
    coalesce(input.run_at, now() + (coalesce(input.delay_micros, 0) + input.place) * interval '1 microsecond'),
    input.max_attempts,
    input.key,
    input.priority,
    (select jsonb_object_agg(flag, true) from jsonb_array_elements_text(input.flags::jsonb) as flag)
  from input
  join task on task.identifier = input.task
  left join queue on queue.queue_name = input.queue
  -- Reading `freed` makes the insert wait until the keys are free.
  where (select count(*) from freed) >= 0
    and ($12 or not (select guard.stands from guard))
    and (input.queue is null or queue.id is not null)
  -- The input is in the order of its keys, so that two batches with the same keys do not deadlock.
  order by input.number
  on conflict (key) do update set
    job_queue_id = case when $10 = 'unsafe_dedupe' then job.job_queue_id else excluded.job_queue_id end,
    task_id = case when $10 = 'unsafe_dedupe' then job.task_id else excluded.task_id end,
    payload = case
      when $10 = 'unsafe_dedupe' then job.payload
      when json_typeof(job.payload) = 'array' and json_typeof(excluded.payload) = 'array'
        then (job.payload::jsonb || excluded.payload::jsonb)::json
      else excluded.payload
    end,
    run_at = case
      when $10 = 'unsafe_dedupe' or ($10 = 'preserve_run_at' and job.attempts = 0) then job.run_at
      else excluded.run_at
    end,
    max_attempts = case when $10 = 'unsafe_dedupe' then job.max_attempts else excluded.max_attempts end,
    priority = case when $10 = 'unsafe_dedupe' then job.priority else excluded.priority end,
    flags = case when $10 = 'unsafe_dedupe' then job.flags else excluded.flags end,
    attempts = case when $10 = 'unsafe_dedupe' then job.attempts else 0 end,
    last_error = case when $10 = 'unsafe_dedupe' then job.last_error end,
    revision = job.revision + 1,
    updated_at = now()
  where $10 = 'unsafe_dedupe' or job.locked_at is null
  returning job.*
),
-- The text is Graphile's; it differs each time, because equal notifications of one transaction are merged.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || (select count(*) from input)::text || '}')
  where ($12 or not (select guard.stands from guard))
    -- Messages tell of their lines themselves (`messages/write.rs`).
    and current_setting('backfill.lines', true) is distinct from 'told'
    and ($10 <> 'unsafe_dedupe' or exists (select from job where job.revision = 0))
)
"#,
            r#"
-- The rows are answered as they were inserted, so in the order of the input.
from (select job.*, row_number() over () as number from job) as job
-- A job that was left as it is (unsafe_dedupe) may belong to a task and queue that the input does not name. Those of one that a
-- trigger changed may be too new for this statement to see.
join (
  select id, identifier from task
  union
  select job.task_id, '' from job where $12 and job.task_id <> all (array(select task.id from task))
  union
  select known.id, known.identifier from graphile_worker._private_tasks known
  where $10 = 'unsafe_dedupe' and not $12 and known.id = any (array(select job.task_id from job))
) task on task.id = job.task_id
left join (
  select id, queue_name from queue
  union
  select known.id, known.queue_name from graphile_worker._private_job_queues known
  where $10 = 'unsafe_dedupe' and not $12 and known.id = any (array(select job.job_queue_id from job))
) queue on queue.id = job.job_queue_id
left join notified on true
order by job.number
"#,
            &input.task as &[&str],
            &input.payload as &[&str],
            &input.queue as &[Option<&str>],
            &input.run_at as &[Option<DateTime<Utc>>],
            &input.delay as &[Option<i64>],
            &input.max_attempts as &[i16],
            &input.key as &[Option<&str>],
            &input.priority as &[i16],
            &input.flags as &[Option<String>],
            mode.as_str(),
            &input.place,
            guarded,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("store jobs", e))?;
        Ok(rows.into_iter().map(Job::from).collect())
    }
}

/// The places in parts that one statement stores.
pub(super) fn chunks<'p>(batch: &[NewJob], places: &'p [usize]) -> Vec<&'p [usize]> {
    let (mut jobs, mut bytes) = (1, places.first().map_or(0, |place| batch[*place].payload.as_str().len()));
    let together = |_: &usize, next: &usize| {
        let size = batch[*next].payload.as_str().len();
        let together = jobs < CHUNK_JOBS && bytes + size <= CHUNK_BYTES;
        (jobs, bytes) = if together { (jobs + 1, bytes + size) } else { (1, size) };
        together
    };
    places.chunk_by(together).collect()
}

/// A chunk of jobs, turned into one array per value.
pub(super) struct Columns<'a> {
    pub task: Vec<&'a str>,
    pub payload: Vec<&'a str>,
    pub queue: Vec<Option<&'a str>>,
    pub run_at: Vec<Option<DateTime<Utc>>>,
    pub delay: Vec<Option<i64>>,
    pub max_attempts: Vec<i16>,
    pub key: Vec<Option<&'a str>>,
    pub priority: Vec<i16>,
    pub flags: Vec<Option<String>>,
    /// The place in the whole batch.
    pub place: Vec<i64>,
}

impl<'a> Columns<'a> {
    pub fn of(batch: &'a [NewJob], places: &[usize]) -> Self {
        let size = places.len();
        let mut columns = Self {
            task: Vec::with_capacity(size),
            payload: Vec::with_capacity(size),
            queue: Vec::with_capacity(size),
            run_at: Vec::with_capacity(size),
            delay: Vec::with_capacity(size),
            max_attempts: Vec::with_capacity(size),
            key: Vec::with_capacity(size),
            priority: Vec::with_capacity(size),
            flags: Vec::with_capacity(size),
            place: places.iter().map(|place| i64::try_from(*place).unwrap_or(i64::MAX)).collect(),
        };
        for job in places.iter().map(|place| &batch[*place]) {
            let (run_at, delay) = match job.run_at {
                None => (None, None),
                Some(RunAt::Time(time)) => (Some(time), None),
                Some(RunAt::In(delay)) => (None, Some(micros(delay))),
            };
            columns.task.push(&job.task);
            columns.payload.push(job.payload.as_str());
            columns.queue.push(job.queue.as_deref());
            columns.run_at.push(run_at);
            columns.delay.push(delay);
            columns.max_attempts.push(job.max_attempts);
            columns.key.push(job.key.as_deref());
            columns.priority.push(job.priority.0);
            columns.flags.push((!job.flags.is_empty()).then(|| serde_json::Value::from(job.flags.clone()).to_string()));
        }
        columns
    }
}

/// Puts each stored job at the place of its input, which its key tells.
fn pair(batch: &[NewJob], places: &[usize], rows: Vec<Job>, stored: &mut [Option<Job>]) -> Result<()> {
    let key = |place: &usize| batch[*place].key.as_deref().map(|key| (key, *place));
    let place_of_key: HashMap<&str, usize> = places.iter().filter_map(key).collect();
    for job in rows {
        let place = job.key.as_deref().and_then(|key| place_of_key.get(key)).copied();
        let Some(place) = place else {
            return Err(Error::Internal(format!("job {} was stored under a key nobody gave", job.id)));
        };
        stored[place] = Some(job);
    }
    Ok(())
}
