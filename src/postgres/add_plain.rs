//! Storing jobs without keys: what nearly all jobs are.
//!
//! Without a key nothing can be in the way, so the statement only looks up names and inserts, and what is stored is known but
//! for its id and times. It answers those, half the cost of answering whole jobs.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::PostgresStorage;
use super::add::{Columns, chunks};
use super::connection::row::Timestamp;
use crate::error::{Error, Result};
use crate::job::{Job, NewJob};

impl PostgresStorage {
    /// Stores the jobs at these places of the batch, and puts the stored ones at the same places. A job is left out when
    /// another transaction was the first to use its task's or queue's name at this very moment; all are, if a trigger wants
    /// another way.
    ///
    /// While the server stores a chunk, the next one is prepared and the last one's answer is read.
    pub(super) async fn add_plain(
        &self,
        conn: &mut PgConnection,
        batch: &[NewJob],
        places: &[usize],
        stored: &mut [Option<Job>],
    ) -> Result<()> {
        if let [place] = *places
            && batch[place].queue.is_none()
        {
            stored[place] = self.insert_one(conn, &batch[place], place).await?;
            return Ok(());
        }
        let mut chunks = chunks(batch, places).into_iter();
        let mut next = chunks.next().map(|places| (places, Columns::of(batch, places)));
        let mut answered: Option<(&[usize], Answer)> = None;
        while let Some((places, input)) = next.take() {
            // The first one is asked first, so what is done beside it is done while the server works.
            let (answer, beside) = futures::join!(self.insert_plain(&mut *conn, &input), async {
                next = chunks.next().map(|places| (places, Columns::of(batch, places)));
                answered.take().map_or(Ok(()), |(places, answer)| pair(batch, places, answer, stored))
            });
            beside?;
            answered = Some((places, answer?));
        }
        answered.map_or(Ok(()), |(places, answer)| pair(batch, places, answer, stored))
    }

    #[expect(clippy::too_many_lines, reason = "one statement, best read in one piece")]
    async fn insert_plain(&self, conn: &mut PgConnection, input: &Columns<'_>) -> Result<Answer> {
        let (tasks, task) = places_of(input.task.iter().copied().map(Some));
        let (queues, queue) = places_of(input.queue.iter().copied());
        let task: Vec<i32> = task.into_iter().flatten().collect();
        let in_a_row = input.place.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        // Locking: none but of names that are new, against other first users of them. Table locks are those of an insert.
        sqlx::query_as!(
            Answer,
            r#"
with
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
job as (
  insert into graphile_worker._private_jobs as job (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
  select
    id_of.queue[given.queue],
    id_of.task[coalesce(given.task, 1)],
    given.payload::json,
    -- A batch's jobs are a microsecond apart, so that they keep their order: jobs are claimed by (priority, run_at), and
    -- ties have none. Storing a job takes longer than that, so none lies in the future when it becomes visible.
    coalesce(
      given.run_at,
      now() + (coalesce(given.delay_micros, 0) + coalesce(given.place, $12 + given.number - 1)) * interval '1 microsecond'
    ),
    coalesce(given.max_attempts, ($6::smallint[])[1]),
    coalesce(given.priority, ($7::smallint[])[1]),
    case when given.flags is not null then
      (select jsonb_object_agg(flag, true) from jsonb_array_elements_text(given.flags::jsonb) as flag)
    end
  -- An array with one element stands for as many that are equal; an empty one for as many nulls. Tasks and queues are told by
  -- their names' places in $10 and $11: one look into an array for each job, and no join.
  from unnest(
    $1::integer[], $2::text[], $3::integer[], $4::timestamptz[], $5::bigint[], $6::smallint[], $7::smallint[], $8::text[],
    $9::bigint[]
  ) with ordinality as given (
    task, payload, queue, run_at, delay_micros, max_attempts, priority, flags, place, number
  )
  cross join (
    select
      array(
        select task.id
        from unnest($10) with ordinality as wanted (name, place)
        left join task on task.identifier = wanted.name
        order by wanted.place
      ) as task,
      array(
        select queue.id
        from unnest($11) with ordinality as wanted (name, place)
        left join queue on queue.queue_name = wanted.name
        order by wanted.place
      ) as queue
  ) as id_of
  where not (select guard.stands from guard)
    and id_of.task[coalesce(given.task, 1)] is not null
    and (given.queue is null or id_of.queue[given.queue] is not null)
  -- Ids grow in the order of the input.
  order by given.number
  returning job.id, job.task_id, job.job_queue_id, job.run_at
),
-- The text is Graphile's; it differs each time, because equal notifications of one transaction are merged.
notified as materialized (
  select pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":' || cardinality($2)::text || '}')
  where not (select guard.stands from guard)
    -- Messages tell of their lines themselves (`messages/write.rs`).
    and current_setting('backfill.lines', true) is distinct from 'told'
)
-- One row with all values of a column in an array: a third of what a row for each job costs, for both sides.
select
  array_agg(job.id) as "ids: Vec<i64>",
  -- Told only where it is needed to know whose job is missing.
  array_agg((select task.identifier from task where task.id = job.task_id)) filter (where cardinality($10) > 1)
    as "tasks: Vec<String>",
  array_agg((select queue.queue_name from queue where queue.id = job.job_queue_id)) filter (where cardinality($11) > 0)
    as "queues: Vec<Option<String>>",
  array_agg(job.run_at) as "run_ats: Vec<Timestamp>",
  now() as "now!: Timestamp",
  (select count(*) from notified) as "notified!"
from job
"#,
            one_if_equal(&task) as &[i32],
            &input.payload as &[&str],
            none_if_null(&queue) as &[Option<i32>],
            none_if_null(&input.run_at) as &[Option<DateTime<Utc>>],
            none_if_null(&input.delay) as &[Option<i64>],
            one_if_equal(&input.max_attempts) as &[i16],
            one_if_equal(&input.priority) as &[i16],
            none_if_null(&input.flags) as &[Option<String>],
            if in_a_row { &[] } else { &input.place[..] },
            &tasks as &[&str],
            &queues as &[&str],
            input.place.first().copied().unwrap_or_default(),
        )
        .fetch_one(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("store jobs", e))
    }
}

/// What the database answers: one array for each column.
struct Answer {
    ids: Option<Vec<i64>>,
    /// Of each job, or not told at all. The same for queues.
    tasks: Option<Vec<String>>,
    queues: Option<Vec<Option<String>>>,
    run_ats: Option<Vec<Timestamp>>,
    now: Timestamp,
    #[expect(dead_code, reason = "it is read by the database, which notifies nobody otherwise")]
    notified: i64,
}

/// Puts each stored job at the place of its input.
fn pair(batch: &[NewJob], places: &[usize], answer: Answer, stored: &mut [Option<Job>]) -> Result<()> {
    let now = answer.now.0;
    let mut rows = rows(answer);
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
            return Err(Error::Internal(format!("{} of {} jobs came back as stored", rows.len(), places.len())));
        }
    }
    let mut rows = rows.into_iter().peekable();
    for &place in places {
        let new = &batch[place];
        let is_its = |task: Option<&str>, queue: Option<&str>| {
            task.is_none_or(|task| task == new.task) && queue == new.queue.as_deref()
        };
        if let Some(row) = rows.next_if(|row| is_its(row.task.as_deref(), row.queue.as_deref())) {
            stored[place] = Some(new.stored(row.id, row.run_at.0, now));
        }
    }
    match rows.next() {
        None => Ok(()),
        Some(row) => Err(Error::Internal(format!("job {} was stored out of order", row.id))),
    }
}

/// A stored job, with the names of its task and queue as far as they are told.
struct Stored {
    id: i64,
    task: Option<String>,
    queue: Option<String>,
    run_at: Timestamp,
}

/// The same by jobs as by columns.
fn rows(answer: Answer) -> Vec<Stored> {
    let mut tasks = answer.tasks.into_iter().flatten();
    let mut queues = answer.queues.into_iter().flatten();
    let times = answer.run_ats.into_iter().flatten();
    let row = |(id, run_at)| Stored { id, task: tasks.next(), queue: queues.next().flatten(), run_at };
    answer.ids.into_iter().flatten().zip(times).map(row).collect()
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

/// Each name once, and of each the place among them, from one on.
fn places_of<'a>(names: impl Iterator<Item = Option<&'a str>>) -> (Vec<&'a str>, Vec<Option<i32>>) {
    let (mut each, mut known) = (Vec::new(), HashMap::new());
    let mut last: (Option<&str>, Option<i32>) = (None, None);
    let places = names
        .map(|name| {
            // As a rule one is as the one before.
            if name != last.0 {
                let place = |name| {
                    *known.entry(name).or_insert_with(|| {
                        each.push(name);
                        // No statement has so many.
                        i32::try_from(each.len()).unwrap_or(i32::MAX)
                    })
                };
                last = (name, name.map(place));
            }
            last.1
        })
        .collect();
    (each, places)
}
