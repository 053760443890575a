//! What an administrator sees. Reading never waits for a writer, nor keeps one waiting.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use backfill_core::job::{Job, JobId, JobState};
use backfill_core::search::{Found, Search};
use backfill_core::storage::{
    Counts, Effort, Inspect, Number, Precision, QueueInfo, QueueList, Tally, TaskInfo, WorkerInfo, WorkerStatus,
};
use backfill_core::{Error, Result};

use crate::SqliteStorage;
use crate::errors::failed;
use crate::file::time;
use crate::row::{Text, jobs};
use crate::search::few;

/// Counts as the statements here select them.
#[derive(Clone, Copy)]
struct Numbers([i64; 5]);

impl From<Numbers> for Counts {
    fn from(numbers: Numbers) -> Self {
        let mut counts = Self::default();
        let states = [JobState::Ready, JobState::Scheduled, JobState::Running, JobState::Retrying, JobState::Dead];
        for (state, count) in states.into_iter().zip(numbers.0) {
            counts.add(state, u64::try_from(count).unwrap_or_default());
        }
        counts
    }
}

/// What the view `backfill_job_states` calls a state: files have it as an earlier version made it.
fn name_in_view(state: JobState) -> &'static str {
    match state {
        JobState::Retrying => "failed",
        other => other.as_str(),
    }
}

#[async_trait]
impl Inspect for SqliteStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        let id = id.number();
        let row = jobs!("select", "from backfill_jobs where id = ?1", id)
            .fetch_optional(&mut *self.file.read("read a job").await?)
            .await
            .map_err(failed("read a job"))?;
        Ok(row.map(Job::from))
    }

    async fn search(&self, search: &Search) -> Result<Found> {
        self.search_jobs(search).await
    }

    async fn tally(&self, effort: Effort) -> Result<Tally> {
        if self.is_too_large(effort).await? {
            return self.count_within_a_cap().await;
        }
        let rows = sqlx::query!(
            r#"select state as "state!: String", count(*) as "count!: i64" from backfill_job_states group by state"#
        )
        .fetch_all(&mut *self.file.read("count jobs").await?)
        .await
        .map_err(failed("count jobs"))?;
        let mut counts = Counts::default();
        for row in rows {
            let state = JobState::ALL.into_iter().find(|state| name_in_view(*state) == row.state);
            let state = state.ok_or_else(|| Error::Internal(format!("job state {}", row.state)))?;
            counts.add(state, u64::try_from(row.count).unwrap_or_default());
        }
        Ok(Tally::of(&counts, Precision::Exact))
    }

    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        if self.is_too_large(list.effort).await? {
            return self.queues_without_counts(list).await;
        }
        let rows = sqlx::query!(
            r#"
with state as (
  select
    job.queue as name,
    sum(job.state = 'ready') as ready,
    sum(job.state = 'scheduled') as scheduled,
    sum(job.state = 'running') as running,
    sum(job.state = 'failed') as failed,
    sum(job.state = 'dead') as dead
  from backfill_job_states job
  where job.queue is not null
  group by job.queue
)
select
  queue.name as "name!: Text",
  queue.locked_at as "locked_at?: i64",
  queue.locked_by as "locked_by?: Text",
  coalesce(state.ready, 0) as "ready!: i64",
  coalesce(state.scheduled, 0) as "scheduled!: i64",
  coalesce(state.running, 0) as "running!: i64",
  coalesce(state.failed, 0) as "failed!: i64",
  coalesce(state.dead, 0) as "dead!: i64"
from backfill_queues queue
left join state on state.name = queue.name
order by queue.name
"#
        )
        .fetch_all(&mut *self.file.read("list queues").await?)
        .await
        .map_err(failed("list queues"))?;
        let queues = rows.into_iter().map(|row| {
            let numbers = Numbers([row.ready, row.scheduled, row.running, row.failed, row.dead]);
            let mut queue = QueueInfo::new(row.name.text, numbers.into());
            queue.locked_at = row.locked_at.map(time);
            queue.locked_by = row.locked_by.map(|worker| worker.text);
            queue
        });
        Ok(list.among(queues))
    }

    async fn tasks(&self, effort: Effort) -> Result<Vec<TaskInfo>> {
        if self.is_too_large(effort).await? {
            let unknown = |name| {
                let mut task = TaskInfo::new(name, Counts::default());
                task.precision = Precision::Unknown;
                task
            };
            return Ok(self.task_names().await?.into_iter().map(unknown).collect());
        }
        let rows = sqlx::query!(
            r#"
with state as (
  select
    job.task as name,
    sum(job.state = 'ready') as ready,
    sum(job.state = 'scheduled') as scheduled,
    sum(job.state = 'running') as running,
    sum(job.state = 'failed') as failed,
    sum(job.state = 'dead') as dead,
    min(case when job.state = 'ready' then job.run_at end) as oldest_ready
  from backfill_job_states job
  group by job.task
)
select
  task.name as "name!: Text",
  coalesce(state.ready, 0) as "ready!: i64",
  coalesce(state.scheduled, 0) as "scheduled!: i64",
  coalesce(state.running, 0) as "running!: i64",
  coalesce(state.failed, 0) as "failed!: i64",
  coalesce(state.dead, 0) as "dead!: i64",
  state.oldest_ready as "oldest_ready?: i64"
from backfill_tasks task
left join state on state.name = task.name
order by task.name
"#
        )
        .fetch_all(&mut *self.file.read("list tasks").await?)
        .await
        .map_err(failed("list tasks"))?;
        let tasks = rows.into_iter().map(|row| {
            let numbers = Numbers([row.ready, row.scheduled, row.running, row.failed, row.dead]);
            let mut task = TaskInfo::new(row.name.text, numbers.into());
            task.oldest_ready = row.oldest_ready.map(time);
            task
        });
        Ok(tasks.collect())
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        sqlx::query_scalar!(r#"select name as "name!: Text" from backfill_tasks order by name"#)
            .fetch_all(&mut *self.file.read("read task names").await?)
            .await
            .map(|names| names.into_iter().map(|name| name.text).collect())
            .map_err(failed("read task names"))
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        sqlx::query_scalar!(
            r#"select coalesce((select seq from sqlite_sequence where name = 'backfill_jobs'), 0) as "last!: i64""#
        )
        .fetch_one(&mut *self.file.read("read the last id").await?)
        .await
        .map(|last| Some(JobId::from_number(last)))
        .map_err(failed("read the last id"))
    }

    async fn workers(&self, _: Effort) -> Result<Vec<WorkerInfo>> {
        let now = self.file.now();
        let rows = sqlx::query!(
            r#"
with held as (
  select job.locked_by as id, 1 as job, 0 as queue, job.locked_at
  from backfill_jobs job indexed by backfill_jobs_held
  where job.locked_by is not null
  union all
  select queue.locked_by, 0, 1, queue.locked_at
  from backfill_queues queue
  where queue.locked_by is not null
),
holder as (
  select held.id, sum(held.job) as jobs, sum(held.queue) as queues, min(held.locked_at) as oldest_lock
  from held
  group by held.id
)
select
  coalesce(pool.id, holder.id) as "id!: Text",
  pool.started_at as "started_at?: i64",
  pool.seen_at as "seen_at?: i64",
  pool.serves as "serves?: Text",
  pool.status as "status?: Text",
  coalesce(holder.jobs, 0) as "jobs!: i64",
  coalesce(holder.queues, 0) as "queues!: i64",
  holder.oldest_lock as "oldest_lock?: i64"
from backfill_pools pool
full join holder on holder.id = pool.id
order by 1
"#
        )
        .fetch_all(&mut *self.file.read("list workers").await?)
        .await
        .map_err(failed("list workers"))?;
        let workers = rows.into_iter().map(|row| {
            let mut worker = WorkerInfo::new(row.id.text);
            worker.started_at = row.started_at.map(time);
            worker.seen_at = row.seen_at.map(time);
            worker.last_seen_ago =
                row.seen_at.and_then(|seen| u64::try_from(now - seen).ok()).map(Duration::from_micros);
            worker.tasks = row
                .serves
                .and_then(|names| serde_json::from_str::<BTreeSet<String>>(&names.text).ok())
                .map(|names| names.into_iter().collect());
            worker.status = row.status.and_then(|status| WorkerStatus::from_text(&status.text));
            worker.jobs = u64::try_from(row.jobs).unwrap_or_default();
            worker.queues = u64::try_from(row.queues).unwrap_or_default();
            worker.oldest_lock = row.oldest_lock.map(time);
            worker
        });
        Ok(workers.collect())
    }

    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.workers(Effort::Exact).await?.into_iter().filter(|worker| worker.seen_at.is_some()).collect())
    }
}

impl SqliteStorage {
    pub(crate) async fn existing_jobs(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        let ids = crate::json(JobId::numbers(ids));
        sqlx::query_scalar!(
            r#"select id as "id!: i64" from backfill_jobs where id in (select value from json_each(?1))"#,
            ids,
        )
        .fetch_all(&mut *self.file.read("look for jobs").await?)
        .await
        .map(|ids| ids.into_iter().map(JobId::from_number).collect())
        .map_err(failed("look for jobs"))
    }
}

/// Up to here are counted the jobs of a state that an index gives.
const CAP: i64 = 100_000;
/// The same of those that are ready or scheduled, whose rows have to be read.
const LINE_CAP: i64 = 10_000;

impl SqliteStorage {
    /// Whether there are more jobs than can be counted with this effort.
    async fn is_too_large(&self, effort: Effort) -> Result<bool> {
        if effort == Effort::Exact {
            return Ok(false);
        }
        let few = few(&mut *self.file.read("count jobs").await?).await.map_err(failed("count jobs"))?;
        Ok(few.is_none())
    }

    /// Jobs by state, of each at most so many: what there is of a state is a part of an index.
    async fn count_within_a_cap(&self) -> Result<Tally> {
        let now = self.file.now();
        let row = sqlx::query!(
            r#"
select
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_dead
      where locked_at is null and attempts >= max_attempts limit ?1
    )
  ) as "dead!: i64",
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_retrying
      where locked_at is null and attempts > 0 and attempts < max_attempts and last_error is not null limit ?1
    )
  ) as "retrying!: i64",
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_held where locked_by is not null limit ?1
    )
  ) as "running!: i64"
"#,
            CAP
        )
        .fetch_one(&mut *self.file.read("count jobs").await?)
        .await
        .map_err(failed("count jobs"))?;
        let capped = |count: i64, cap: i64| {
            Number::capped(u64::try_from(count).unwrap_or_default(), u64::try_from(cap).unwrap_or_default())
        };
        let mut tally = Tally::default();
        (tally.dead, tally.retrying) = (capped(row.dead, CAP), capped(row.retrying, CAP));
        tally.running = capped(row.running, CAP);
        let (mut ready, mut scheduled) = (0, 0);
        let mut priority = None;
        while let Some(next) = self.priority_behind(priority).await? {
            // A priority is a part of the index, and in it each of the two states is one.
            let row = sqlx::query!(
                r#"
select
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_line
      where locked_at is null and attempts < max_attempts and priority = ?1 and run_at <= ?2
        and not (attempts > 0 and last_error is not null)
      limit ?3
    )
  ) as "ready!: i64",
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_line
      where locked_at is null and attempts < max_attempts and priority = ?1 and run_at > ?2
        and not (attempts > 0 and last_error is not null)
      limit ?3
    )
  ) as "scheduled!: i64"
"#,
                next,
                now,
                LINE_CAP
            )
            .fetch_one(&mut *self.file.read("count jobs").await?)
            .await
            .map_err(failed("count jobs"))?;
            (ready, scheduled) = (ready + row.ready, scheduled + row.scheduled);
            if ready >= LINE_CAP && scheduled >= LINE_CAP {
                break;
            }
            priority = Some(next);
        }
        (tally.ready, tally.scheduled) = (capped(ready, LINE_CAP), capped(scheduled, LINE_CAP));
        Ok(tally)
    }

    /// The next priority that a job has which can be claimed.
    async fn priority_behind(&self, priority: Option<i64>) -> Result<Option<i64>> {
        let behind = priority.unwrap_or(i64::MIN);
        sqlx::query_scalar!(
            r#"
select priority as "priority!: i64" from backfill_jobs indexed by backfill_jobs_line
where locked_at is null and attempts < max_attempts and priority > ?1
order by priority limit 1
"#,
            behind
        )
        .fetch_optional(&mut *self.file.read("count jobs").await?)
        .await
        .map_err(failed("count jobs"))
    }

    async fn queues_without_counts(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        let (after, limit) = (list.after.clone(), list.limit.map_or(i64::MAX, i64::from));
        // A pattern is compared here, so no limit may cut off what comes behind.
        let limit = if list.name.is_none() { limit } else { i64::MAX };
        let rows = sqlx::query!(
            r#"
select name as "name!: Text", locked_at as "locked_at?: i64", locked_by as "locked_by?: Text"
from backfill_queues
where ?1 is null or name > ?1
order by name
limit ?2
"#,
            after,
            limit
        )
        .fetch_all(&mut *self.file.read("list queues").await?)
        .await
        .map_err(failed("list queues"))?;
        Ok(list.among(rows.into_iter().map(|row| {
            let mut queue = QueueInfo::new(row.name.text, Counts::default());
            queue.precision = Precision::Unknown;
            queue.locked_at = row.locked_at.map(time);
            queue.locked_by = row.locked_by.map(|worker| worker.text);
            queue
        })))
    }
}
