//! Storing jobs without keys: what nearly all jobs are.
//!
//! Without a key nothing can be in the way, so the statement only looks up names and inserts, and what is stored is known but
//! for its id and times. It answers those, half the cost of answering whole jobs.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::PostgresStorage;
use super::add::Columns;
use super::row::Timestamp;
use crate::error::{Error, Result};
use crate::job::{Job, NewJob};

impl PostgresStorage {
    /// Stores the jobs at these places of the batch, and puts the stored ones at the same places. A job is left out when
    /// another transaction was the first to use its task's or queue's name at this very moment.
    #[expect(clippy::too_many_lines, reason = "one statement, best read in one piece")]
    pub(super) async fn add_plain(
        &self,
        conn: &mut PgConnection,
        batch: &[NewJob],
        places: &[usize],
        stored: &mut [Option<Job>],
    ) -> Result<()> {
        let input = Columns::of(batch, places);
        let in_a_row = input.place.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        // Locking: none but of names that are new, against other first users of them. Table locks are those of an insert.
        let mut rows = sqlx::query!(
            r#"
-- An array with one element stands for as many that are equal; an empty one for as many nulls.
with input as materialized (
  select
    coalesce(given.task, ($1::text[])[1]) as task,
    given.payload,
    given.queue,
    given.run_at,
    given.delay_micros,
    coalesce(given.max_attempts, ($6::smallint[])[1]) as max_attempts,
    coalesce(given.priority, ($7::smallint[])[1]) as priority,
    given.flags,
    coalesce(given.place, $12::bigint + given.number - 1) as place
  from unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::smallint[], $7::smallint[], $8::text[],
    $9::bigint[]
  ) with ordinality as given (
    task, payload, queue, run_at, delay_micros, max_attempts, priority, flags, place, number
  )
),
-- Only names that are missing are inserted: a conflicting insert would burn an id of a 32-bit sequence.
new_task as (
  insert into graphile_worker._private_tasks (identifier)
  select wanted
  from unnest($10::text[]) as wanted
  where not exists (select from graphile_worker._private_tasks known where known.identifier = wanted)
  -- In one order, so that two first users of the same names do not deadlock.
  order by 1
  on conflict do nothing
  returning id, identifier
),
new_queue as (
  insert into graphile_worker._private_job_queues (queue_name)
  select wanted
  from unnest($11::text[]) as wanted
  where not exists (select from graphile_worker._private_job_queues known where known.queue_name = wanted)
  order by 1
  on conflict do nothing
  returning id, queue_name
),
task as materialized (
  select id, identifier from new_task
  union all
  select known.id, known.identifier from graphile_worker._private_tasks known where known.identifier = any ($10)
),
queue as materialized (
  select id, queue_name from new_queue
  union all
  select known.id, known.queue_name from graphile_worker._private_job_queues known where known.queue_name = any ($11)
),
job as (
  insert into graphile_worker._private_jobs as job (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
  select
    queue.id,
    task.id,
    input.payload::json,
    -- A batch's jobs are a microsecond apart, so that they keep their order: jobs are claimed by (priority, run_at), and
    -- ties have none. Storing a job takes longer than that, so none lies in the future when it becomes visible.
    coalesce(input.run_at, now() + (coalesce(input.delay_micros, 0) + input.place) * interval '1 microsecond'),
    input.max_attempts,
    input.priority,
    case when input.flags is not null then
      (select jsonb_object_agg(flag, true) from jsonb_array_elements_text(input.flags::jsonb) as flag)
    end
  from input
  join task on task.identifier = input.task
  left join queue on queue.queue_name = input.queue
  where input.queue is null or queue.id is not null
  -- Ids grow in the order of the input.
  order by input.place
  returning job.id, job.task_id, job.job_queue_id, job.run_at, job.created_at
),
-- The text is Graphile's; it differs each time, because equal notifications of one transaction are merged.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || cardinality($2)::text || '}')
)
select
  job.id as "id!",
  -- Told only where it is needed to know whose row is missing.
  case when cardinality($10) > 1 then (select task.identifier from task where task.id = job.task_id) end as "task?",
  case when cardinality($11) > 0 then (select queue.queue_name from queue where queue.id = job.job_queue_id) end as "queue?",
  job.run_at as "run_at!: Timestamp",
  job.created_at as "created_at!: Timestamp"
from job
left join notified on true
"#,
            one_if_equal(&input.task) as &[&str],
            &input.payload as &[&str],
            none_if_null(&input.queue) as &[Option<&str>],
            none_if_null(&input.run_at) as &[Option<DateTime<Utc>>],
            none_if_null(&input.delay) as &[Option<i64>],
            one_if_equal(&input.max_attempts) as &[i16],
            one_if_equal(&input.priority) as &[i16],
            none_if_null(&input.flags) as &[Option<String>],
            if in_a_row { &[] } else { &input.place[..] },
            &distinct(input.task.iter().copied()) as &[&str],
            &distinct(input.queue.iter().copied().flatten()) as &[&str],
            input.place.first().copied().unwrap_or_default(),
        )
        .fetch_all(self.schema.on(conn))
        .await
        .map_err(|e| self.error("store jobs", e))?;
        rows.sort_unstable_by_key(|row| row.id);
        // A name that lost a race leaves out every job of that name, so what came back is matched by name and order; and
        // nothing else may be left out, or a job would be told another's id.
        if rows.len() < places.len() {
            let mut names: HashMap<Names<'_>, (usize, usize)> = HashMap::new();
            let told = rows.iter().any(|row| row.task.is_some());
            for &place in places {
                let task = told.then_some(batch[place].task.as_str());
                names.entry((task, batch[place].queue.as_deref())).or_default().0 += 1;
            }
            for row in &rows {
                names.entry((row.task.as_deref(), row.queue.as_deref())).or_default().1 += 1;
            }
            if names.values().any(|(wanted, stored)| *stored != 0 && stored != wanted) {
                return Err(Error::Internal(format!(
                    "{} of {} jobs came back as stored; does a trigger on the jobs table leave rows out?",
                    rows.len(),
                    places.len()
                )));
            }
        }
        let mut rows = rows.into_iter().peekable();
        for &place in places {
            let new = &batch[place];
            let is_its = |task: Option<&str>, queue: Option<&str>| {
                task.is_none_or(|task| task == new.task) && queue == new.queue.as_deref()
            };
            if let Some(row) = rows.next_if(|row| is_its(row.task.as_deref(), row.queue.as_deref())) {
                stored[place] = Some(new.stored(row.id, row.run_at.0, row.created_at.0));
            }
        }
        match rows.next() {
            None => Ok(()),
            Some(row) => Err(Error::Internal(format!("job {} was stored out of order", row.id))),
        }
    }
}

/// A task and a queue, as far as they are told.
type Names<'a> = (Option<&'a str>, Option<&'a str>);

/// One of them, if all are equal.
fn one_if_equal<T: PartialEq>(values: &[T]) -> &[T] {
    if values.windows(2).all(|pair| pair[0] == pair[1]) { &values[..values.len().min(1)] } else { values }
}

/// None of them, if there is none.
fn none_if_null<T>(values: &[Option<T>]) -> &[Option<T>] {
    if values.iter().all(Option::is_none) { &[] } else { values }
}

/// Each name once.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let names: BTreeSet<&str> = names.collect();
    names.into_iter().collect()
}
