//! What an administrator sees of queues, tasks and workers.
//!
//! Each is one pass over the jobs table: meant for people, not for a dashboard that asks every second.

use std::time::Duration;

use super::PostgresStorage;
use super::connection::errors;
use super::connection::rights::Need;
use super::connection::row::{Text, Timestamp};
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{Counts, Inspect, JobFilter, QueueInfo, TaskInfo, WorkerInfo, WorkerStatus};
use async_trait::async_trait;

/// Counts as the statements here select them.
#[derive(Clone, Copy)]
struct Numbers {
    ready: i64,
    scheduled: i64,
    running: i64,
    retrying: i64,
    dead: i64,
}

impl From<Numbers> for Counts {
    fn from(numbers: Numbers) -> Self {
        let number = |count| u64::try_from(count).unwrap_or_default();
        let Numbers { ready, scheduled, running, retrying, dead } = numbers;
        let mut counts = Self::default();
        counts.ready = number(ready);
        counts.scheduled = number(scheduled);
        counts.running = number(running);
        counts.retrying = number(retrying);
        counts.dead = number(dead);
        counts
    }
}

/// Names from a JSON array. (One that is none is told by nobody.)
fn sorted(names: &Text) -> Option<Vec<String>> {
    let mut names: Vec<String> = serde_json::from_str(&names.text).ok()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

#[async_trait]
impl Inspect for PostgresStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.database.explained(Need::Read, self.read_job(id).await).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.database.explained(Need::Read, self.list_jobs(filter).await).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.database.explained(Need::Read, self.count_jobs().await).await
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.database.explained(Need::Read, self.list_queues().await).await
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        self.database.explained(Need::Read, self.list_tasks().await).await
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        self.database.explained(Need::Read, self.read_task_names().await).await
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        self.database.explained(Need::Read, self.read_last_id().await).await.map(Some)
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.database.explained(Need::Read, self.list_workers().await).await
    }

    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        self.list_serving().await
    }
}

impl PostgresStorage {
    /// The schemas of this database that have a job queue in them, in the order of their names: for telling somebody who named
    /// another one.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage).
    pub async fn schemas(&self) -> Result<Vec<String>> {
        sqlx::query_scalar!(
            r#"
select namespace.nspname::text as "name!: Text"
from pg_catalog.pg_class class
join pg_catalog.pg_namespace namespace on namespace.oid = class.relnamespace
where class.relname = '_private_jobs' and class.relkind in ('r', 'p')
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by 1"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map(|names| names.into_iter().map(|name| name.text).collect())
        .map_err(|e| self.database.error("look for schemas", e))
    }

    pub(super) async fn list_queues(&self) -> Result<Vec<QueueInfo>> {
        let rows = sqlx::query!(
            r#"
with job as (
  select
    job.job_queue_id,
    case
      when job.locked_at is not null then 'running'
      when job.attempts >= job.max_attempts then 'dead'
      when job.attempts > 0 and job.last_error is not null then 'retrying'
      when job.run_at > now() then 'scheduled'
      else 'ready'
    end as state
  from graphile_worker._private_jobs job
  where job.job_queue_id is not null
)
select
  queue.queue_name as "queue_name!: Text",
  queue.locked_at as "locked_at: Timestamp",
  queue.locked_by as "locked_by?: Text",
  count(*) filter (where job.state = 'ready') as "ready!",
  count(*) filter (where job.state = 'scheduled') as "scheduled!",
  count(*) filter (where job.state = 'running') as "running!",
  count(*) filter (where job.state = 'retrying') as "retrying!",
  count(*) filter (where job.state = 'dead') as "dead!"
from graphile_worker._private_job_queues queue
left join job on job.job_queue_id = queue.id
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
group by queue.id
order by queue.queue_name
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("list queues", e))?;
        let queues = rows.into_iter().map(|row| {
            let numbers = Numbers {
                ready: row.ready,
                scheduled: row.scheduled,
                running: row.running,
                retrying: row.retrying,
                dead: row.dead,
            };
            let mut queue = QueueInfo::new(row.queue_name.text, numbers.into());
            queue.locked_at = row.locked_at.map(|time| time.0);
            queue.locked_by = row.locked_by.map(|worker| worker.text);
            queue
        });
        Ok(queues.collect())
    }

    pub(super) async fn list_tasks(&self) -> Result<Vec<TaskInfo>> {
        let rows = sqlx::query!(
            r#"
with job as (
  select
    job.task_id,
    job.run_at,
    case
      when job.locked_at is not null then 'running'
      when job.attempts >= job.max_attempts then 'dead'
      when job.attempts > 0 and job.last_error is not null then 'retrying'
      when job.run_at > now() then 'scheduled'
      else 'ready'
    end as state
  from graphile_worker._private_jobs job
)
select
  task.identifier as "identifier!: Text",
  count(*) filter (where job.state = 'ready') as "ready!",
  count(*) filter (where job.state = 'scheduled') as "scheduled!",
  count(*) filter (where job.state = 'running') as "running!",
  count(*) filter (where job.state = 'retrying') as "retrying!",
  count(*) filter (where job.state = 'dead') as "dead!",
  min(job.run_at) filter (where job.state = 'ready') as "oldest_ready: Timestamp"
from graphile_worker._private_tasks task
left join job on job.task_id = task.id
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
group by task.id
order by task.identifier
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("list tasks", e))?;
        let tasks = rows.into_iter().map(|row| {
            let numbers = Numbers {
                ready: row.ready,
                scheduled: row.scheduled,
                running: row.running,
                retrying: row.retrying,
                dead: row.dead,
            };
            let mut task = TaskInfo::new(row.identifier.text, numbers.into());
            task.oldest_ready = row.oldest_ready.map(|time| time.0);
            task
        });
        Ok(tasks.collect())
    }

    pub(super) async fn list_workers(&self) -> Result<Vec<WorkerInfo>> {
        // Workers of Node's send no heartbeats; they are known by what they hold.
        let rows = sqlx::query!(
            r#"
with held as (
  select job.locked_by as id, 1 as job, 0 as queue, job.locked_at
  from graphile_worker._private_jobs job
  where job.locked_by is not null
  union all
  select queue.locked_by, 0, 1, queue.locked_at
  from graphile_worker._private_job_queues queue
  where queue.locked_by is not null
),
holder as (
  select held.id, sum(held.job) as jobs, sum(held.queue) as queues, min(held.locked_at) as oldest_lock
  from held
  group by held.id
)
select
  coalesce(pool.id, holder.id) as "id!: Text",
  pool.started_at as "started_at?: Timestamp",
  pool.seen_at as "seen_at?: Timestamp",
  extract(epoch from clock_timestamp() - pool.seen_at)::float8 as "last_seen_ago_seconds?",
  -- By way of JSON, which a schema understands that an earlier version has made.
  to_jsonb(pool) ->> 'serves' as "serves?: Text",
  to_jsonb(pool) ->> 'status' as "status?: Text",
  coalesce(holder.jobs, 0) as "jobs!",
  coalesce(holder.queues, 0) as "queues!",
  holder.oldest_lock as "oldest_lock?: Timestamp"
from graphile_worker.backfill_pools pool
full join holder on holder.id = pool.id
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by 1
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await;
        let rows = match rows {
            // A schema that Node has made, and no worker of ours has run on.
            Err(error) if errors::code(&error).as_deref() == Some(errors::UNDEFINED_TABLE) => {
                return self.list_holders().await;
            }
            rows => rows.map_err(|e| self.database.error("list workers", e))?,
        };
        let workers = rows.into_iter().map(|row| {
            let mut worker = WorkerInfo::new(row.id.text);
            worker.started_at = row.started_at.map(|time| time.0);
            worker.seen_at = row.seen_at.map(|time| time.0);
            worker.last_seen_ago =
                row.last_seen_ago_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            worker.tasks = row.serves.as_ref().and_then(sorted);
            worker.status = row.status.and_then(|status| WorkerStatus::from_text(&status.text));
            worker.jobs = u64::try_from(row.jobs).unwrap_or_default();
            worker.queues = u64::try_from(row.queues).unwrap_or_default();
            worker.oldest_lock = row.oldest_lock.map(|time| time.0);
            worker
        });
        Ok(workers.collect())
    }

    /// Registered workers and their tasks, without a look at the jobs.
    pub(super) async fn list_serving(&self) -> Result<Vec<WorkerInfo>> {
        let rows = sqlx::query!(
            r#"
select
  pool.id as "id: Text",
  pool.started_at as "started_at: Timestamp",
  pool.seen_at as "seen_at: Timestamp",
  extract(epoch from clock_timestamp() - pool.seen_at)::float8 as "last_seen_ago_seconds!",
  to_jsonb(pool) ->> 'serves' as "serves?: Text",
  to_jsonb(pool) ->> 'status' as "status?: Text"
from graphile_worker.backfill_pools pool
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by pool.id
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await;
        let rows = match rows {
            Err(error) if errors::code(&error).as_deref() == Some(errors::UNDEFINED_TABLE) => return Ok(Vec::new()),
            rows => rows.map_err(|e| self.database.error("list workers", e))?,
        };
        let workers = rows.into_iter().map(|row| {
            let mut worker = WorkerInfo::new(row.id.text);
            worker.started_at = Some(row.started_at.0);
            worker.seen_at = Some(row.seen_at.0);
            worker.last_seen_ago = Duration::try_from_secs_f64(row.last_seen_ago_seconds).ok();
            worker.tasks = row.serves.as_ref().and_then(sorted);
            worker.status = row.status.and_then(|status| WorkerStatus::from_text(&status.text));
            worker
        });
        Ok(workers.collect())
    }

    /// The sequence knows it: jobs that are done have no rows. It takes no lock that anybody waits for.
    async fn read_last_id(&self) -> Result<JobId> {
        sqlx::query_scalar!(
            r#"select case when is_called then last_value else 0 end as "last!" from graphile_worker.jobs_id_seq1"#
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map(JobId::from_number)
        .map_err(|e| self.database.error("read the last id", e))
    }

    /// Workers by what they hold alone.
    async fn list_holders(&self) -> Result<Vec<WorkerInfo>> {
        let rows = sqlx::query!(
            r#"
select held.id as "id!: Text", sum(held.job) as "jobs!", sum(held.queue) as "queues!", min(held.locked_at) as "oldest_lock: Timestamp"
from (
  select job.locked_by as id, 1 as job, 0 as queue, job.locked_at
  from graphile_worker._private_jobs job
  where job.locked_by is not null
  union all
  select queue.locked_by, 0, 1, queue.locked_at
  from graphile_worker._private_job_queues queue
  where queue.locked_by is not null
) as held
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
group by held.id
order by 1
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("list workers", e))?;
        let workers = rows.into_iter().map(|row| {
            let mut worker = WorkerInfo::new(row.id.text);
            worker.jobs = u64::try_from(row.jobs).unwrap_or_default();
            worker.queues = u64::try_from(row.queues).unwrap_or_default();
            worker.oldest_lock = row.oldest_lock.map(|time| time.0);
            worker
        });
        Ok(workers.collect())
    }
}
