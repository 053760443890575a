//! How many jobs there are.
//!
//! A count reads every row, which takes seconds where there are millions. So a bounded look counts only where there are few rows
//! ([`FEW`]), or few of a kind, which an index gives; the rest is estimated of a sample of the table's pages.

use super::{ListIndex, PostgresStorage};
use crate::error::{Error, Result};
use crate::job::JobState;
use crate::storage::{Counts, Effort, Number, Precision, Tally, TaskInfo, WorkerInfo};

/// So many rows are counted in any case: that takes about 50 ms.
pub(super) const FEW: u64 = 200_000;
/// Where the server has never counted the rows, so many pages are taken for few rows.
const FEW_PAGES: i64 = 10_000;
/// Up to here are counted the jobs of a state that an index gives.
const CAP: i64 = 100_000;
/// The same of those that wait for another attempt, whose rows have to be read.
const RETRYING_CAP: i64 = 20_000;
/// Up to here are counted the jobs that are ready, or scheduled, of each priority: their rows have to be read.
const AVAILABLE_CAP: i64 = 2_000;
/// So many pages of the table are a sample.
const SAMPLE_PAGES: f64 = 2_000.0;

/// Numbers of jobs by state as statements here select them.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub ready: i64,
    pub scheduled: i64,
    pub running: i64,
    pub retrying: i64,
    pub dead: i64,
}

impl From<Numbers> for Counts {
    fn from(numbers: Numbers) -> Self {
        let Numbers { ready, scheduled, running, retrying, dead } = numbers;
        let mut counts = Self::default();
        (counts.ready, counts.scheduled) = (number(ready), number(scheduled));
        (counts.running, counts.retrying, counts.dead) = (number(running), number(retrying), number(dead));
        counts
    }
}

pub(super) fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// How large the table is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pages: i64,
    pub rows: Option<u64>,
}

impl Size {
    /// Whether its rows can be counted while a person waits.
    pub fn is_small(self) -> bool {
        self.rows.map_or(self.pages <= FEW_PAGES, |rows| rows <= FEW)
    }
}

/// Jobs that were counted.
struct Counted {
    jobs: u64,
    /// Whether there are no more: no cap was reached.
    is_whole: bool,
}

impl Counted {
    fn capped(rows: i64) -> Self {
        Self { jobs: number(rows), is_whole: rows < CAP }
    }
}

/// What a sample says of the whole table.
struct Sampled {
    counts: Counts,
    /// By how much the sample is smaller than the table.
    scale: f64,
}

impl Sampled {
    fn number(&self, state: JobState) -> Number {
        Number::estimated(scaled(Tally::of(&self.counts, Precision::Estimated).get(state).value, self.scale))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate is rounded anyway, and never negative"
)]
fn scaled(count: u64, scale: f64) -> u64 {
    (count as f64 * scale).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "an estimate is rounded anyway")]
fn ratio(whole: u64, part: u64) -> f64 {
    if part == 0 { 0.0 } else { whole as f64 / part as f64 }
}

impl PostgresStorage {
    pub(super) async fn tally_jobs(&self, effort: Effort) -> Result<Tally> {
        let size = self.size().await?;
        if effort == Effort::Exact || size.is_small() {
            return Ok(Tally::of(&self.count_jobs().await?, Precision::Exact));
        }
        let sampled = self.sample(size).await?;
        let counted = |counted: Counted, state| {
            // What is more than the cap is known better by the sample, unless that says it is less.
            if counted.is_whole { Number::exact(counted.jobs) } else { better(sampled.number(state), counted.jobs) }
        };
        let mut tally = Tally::default();
        let (ready, scheduled) = self.count_available().await?;
        tally.ready = counted(ready, JobState::Ready);
        tally.scheduled = counted(scheduled, JobState::Scheduled);
        let indexes = self.indexes().await?;
        let has = |index: ListIndex| indexes.contains(&index);
        tally.dead = if has(ListIndex::Dead) {
            counted(self.count_dead().await?, JobState::Dead)
        } else {
            sampled.number(JobState::Dead)
        };
        tally.retrying = if has(ListIndex::Retrying) {
            counted(self.count_retrying().await?, JobState::Retrying)
        } else {
            sampled.number(JobState::Retrying)
        };
        tally.running = if has(ListIndex::Running) {
            counted(self.count_running().await?, JobState::Running)
        } else {
            // Few among millions are in no sample. Workers say how many they run; what Node's run is known by the sample alone.
            let told: u64 = self.list_serving().await?.iter().filter_map(said_to_run).sum();
            better(sampled.number(JobState::Running), told)
        };
        Ok(tally)
    }

    /// Jobs by task, of a sample.
    pub(super) async fn estimate_tasks(&self, size: Size) -> Result<Vec<TaskInfo>> {
        let rows = sqlx::query!(
            r#"
select
  job.task_id,
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and not (job.attempts > 0 and job.last_error is not null) and job.run_at <= now()) as "ready!",
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and not (job.attempts > 0 and job.last_error is not null) and job.run_at > now()) as "scheduled!",
  count(*) filter (where job.locked_at is not null) as "running!",
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and job.attempts > 0 and job.last_error is not null) as "retrying!",
  count(*) filter (where job.locked_at is null and job.attempts >= job.max_attempts) as "dead!"
from graphile_worker._private_jobs job tablesample system ($1)
group by job.task_id
"#,
            size.sample(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("estimate the jobs of each task", e))?;
        let sampled: std::collections::HashMap<i32, Counts> = rows
            .into_iter()
            .map(|row| {
                let numbers = Numbers {
                    ready: row.ready,
                    scheduled: row.scheduled,
                    running: row.running,
                    retrying: row.retrying,
                    dead: row.dead,
                };
                (row.task_id, Counts::from(numbers))
            })
            .collect();
        let scale = ratio(size.rows(), sampled.values().map(Counts::total).sum());
        let names = self.task_ids().await?;
        let tasks = names.into_iter().map(|(id, name)| {
            let mut counts = Counts::default();
            if let Some(sample) = sampled.get(&id) {
                let sample = Tally::of(sample, Precision::Estimated);
                for state in JobState::ALL {
                    counts.add(state, scaled(sample.get(state).value, scale));
                }
            }
            let mut task = TaskInfo::new(name, counts);
            task.precision = Precision::Estimated;
            task
        });
        Ok(tasks.collect())
    }

    pub(super) async fn size(&self) -> Result<Size> {
        let found = sqlx::query!(
            r#"
select
  pg_relation_size(class.oid) / current_setting('block_size')::bigint as "pages!",
  -- What the planner goes by: rows per page when they were counted last, times the pages of today.
  case
    when class.relpages > 0 and class.reltuples >= 0
    then (class.reltuples::float8 / class.relpages * (pg_relation_size(class.oid) / current_setting('block_size')::bigint))::bigint
  end as rows
from pg_catalog.pg_class class
where class.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1) and class.relname = '_private_jobs'
"#,
            self.database.schema.name(),
        )
        .fetch_optional(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("estimate the number of jobs", e))?;
        let found = found.map(|found| (found.pages, found.rows));
        let (pages, rows) = found.unwrap_or_default();
        Ok(Size { pages, rows: rows.map(number) })
    }

    async fn count_jobs(&self) -> Result<Counts> {
        let rows = sqlx::query!(
            r#"
select
  case
    when job.locked_at is not null then 'running'
    when job.attempts >= job.max_attempts then 'dead'
    when job.attempts > 0 and job.last_error is not null then 'retrying'
    when job.run_at > now() then 'scheduled'
    else 'ready'
  end as "state!",
  count(*) as "count!"
from graphile_worker._private_jobs job
group by 1
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("count jobs", e))?;
        let mut counts = Counts::default();
        for row in rows {
            let state: JobState = row.state.parse().map_err(|_| Error::Internal(format!("job state {}", row.state)))?;
            counts.add(state, number(row.count));
        }
        Ok(counts)
    }

    /// The states of a sample of the table's pages.
    async fn sample(&self, size: Size) -> Result<Sampled> {
        let row = sqlx::query!(
            r#"
select
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and not (job.attempts > 0 and job.last_error is not null) and job.run_at <= now()) as "ready!",
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and not (job.attempts > 0 and job.last_error is not null) and job.run_at > now()) as "scheduled!",
  count(*) filter (where job.locked_at is not null) as "running!",
  count(*) filter (where job.locked_at is null and job.attempts < job.max_attempts
    and job.attempts > 0 and job.last_error is not null) as "retrying!",
  count(*) filter (where job.locked_at is null and job.attempts >= job.max_attempts) as "dead!"
from graphile_worker._private_jobs job tablesample system ($1)
"#,
            size.sample(),
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("estimate the number of jobs", e))?;
        let counts = Counts::from(Numbers {
            ready: row.ready,
            scheduled: row.scheduled,
            running: row.running,
            retrying: row.retrying,
            dead: row.dead,
        });
        Ok(Sampled { counts, scale: ratio(size.rows(), counts.total()) })
    }

    /// Ready and scheduled jobs, up to a cap for each priority: a priority is a range of the index by which jobs are claimed.
    async fn count_available(&self) -> Result<(Counted, Counted)> {
        let row = sqlx::query!(
            r#"
with recursive known (priority) as (
  (select job.priority from graphile_worker._private_jobs job where job.is_available = true order by job.priority limit 1)
  union all
  select (
    select job.priority
    from graphile_worker._private_jobs job
    where job.is_available = true and job.priority > known.priority
    order by job.priority
    limit 1
  )
  from known
  where known.priority is not null
)
select
  coalesce(sum(ready.count), 0)::bigint as "ready!",
  coalesce(max(ready.rows) < $1, true) as "is_all_ready!",
  coalesce(sum(scheduled.count), 0)::bigint as "scheduled!",
  coalesce(max(scheduled.rows) < $1, true) as "is_all_scheduled!"
from known
cross join lateral (
  select count(*) as rows, count(*) filter (where not (due.attempts > 0 and due.has_error)) as count
  from (
    select job.attempts, job.last_error is not null as has_error
    from graphile_worker._private_jobs job
    where job.is_available = true and job.priority = known.priority and job.run_at <= now()
    order by job.run_at
    limit $1
  ) as due
) as ready
cross join lateral (
  select count(*) as rows, count(*) filter (where not (later.attempts > 0 and later.has_error)) as count
  from (
    select job.attempts, job.last_error is not null as has_error
    from graphile_worker._private_jobs job
    where job.is_available = true and job.priority = known.priority and job.run_at > now()
    order by job.run_at
    limit $1
  ) as later
) as scheduled
where known.priority is not null
"#,
            AVAILABLE_CAP,
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("count jobs that wait", e))?;
        let counted = |jobs, is_whole| Counted { jobs: number(jobs), is_whole };
        Ok((counted(row.ready, row.is_all_ready), counted(row.scheduled, row.is_all_scheduled)))
    }

    // The predicates are those of the indexes, word for word.

    async fn count_dead(&self) -> Result<Counted> {
        sqlx::query_scalar!(
            r#"
select count(*) as "count!"
from (
  select from graphile_worker._private_jobs job
  where job.locked_at is null and job.attempts >= job.max_attempts
  limit $1
) as dead
"#,
            CAP
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map(Counted::capped)
        .map_err(|e| self.database.error("count dead jobs", e))
    }

    async fn count_retrying(&self) -> Result<Counted> {
        sqlx::query!(
            r#"
select count(*) as "rows!", count(*) filter (where retrying.has_error) as "count!"
from (
  select job.last_error is not null as has_error
  from graphile_worker._private_jobs job
  where job.locked_at is null and job.attempts > 0 and job.attempts < job.max_attempts
  limit $1
) as retrying
"#,
            RETRYING_CAP
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map(|row| Counted { jobs: number(row.count), is_whole: row.rows < RETRYING_CAP })
        .map_err(|e| self.database.error("count jobs that wait for another attempt", e))
    }

    async fn count_running(&self) -> Result<Counted> {
        sqlx::query_scalar!(
            r#"
select count(*) as "count!"
from (select from graphile_worker._private_jobs job where job.locked_at is not null limit $1) as running
"#,
            CAP
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map(Counted::capped)
        .map_err(|e| self.database.error("count running jobs", e))
    }
}

impl Size {
    /// About how many rows; as many as usual, if the server has never counted them.
    fn rows(self) -> u64 {
        self.rows.unwrap_or_else(|| number(self.pages).saturating_mul(30))
    }

    /// How much of the table a sample is, in percent.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "it is about so much")]
    fn sample(self) -> f32 {
        (100.0 * SAMPLE_PAGES / (self.pages.max(1) as f64)).clamp(0.000_1, 100.0) as f32
    }
}

/// The estimate, but not less than what is known to be there.
fn better(estimate: Number, known: u64) -> Number {
    Number::estimated(estimate.value.max(known))
}

/// How many jobs a worker says that it runs.
pub(super) fn said_to_run(worker: &WorkerInfo) -> Option<u64> {
    worker.status.as_ref().map(|status| status.running as u64)
}
