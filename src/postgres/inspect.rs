//! What an administrator sees of queues, tasks and workers.
//!
//! With [`Effort::Exact`] each is one pass over the jobs table. With [`Effort::Bounded`] that is so only while the table is small.

use std::collections::HashMap;
use std::time::Duration;

use super::connection::errors;
use super::connection::rights::Need;
use super::connection::row::{Text, Timestamp};
use super::tally::{Numbers, number, said_to_run};
use super::{ListIndex, PostgresStorage};
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::search::{Found, Pattern, Search};
use crate::storage::{
    Counts, Effort, Inspect, Precision, QueueInfo, QueueList, Tally, TaskInfo, WorkerInfo, WorkerStatus,
};
use async_trait::async_trait;

/// Of a queue at most so many jobs are counted by its index.
const OF_QUEUE: i64 = 1_000;
/// Of so many queues at a time.
const MOST_QUEUES: u32 = 200;

/// How the jobs of queues are counted.
#[derive(Clone, Copy)]
enum CountOfQueues {
    Scan,
    ByIndex,
    /// Not at all.
    None,
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

    async fn search(&self, search: &Search) -> Result<Found> {
        self.database.explained(Need::Read, self.search_jobs(search).await).await
    }

    async fn tally(&self, effort: Effort) -> Result<Tally> {
        self.database.explained(Need::Read, self.tally_jobs(effort).await).await
    }

    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        self.database.explained(Need::Read, self.list_queues(list).await).await
    }

    async fn tasks(&self, effort: Effort) -> Result<Vec<TaskInfo>> {
        self.database.explained(Need::Read, self.tasks_with(effort).await).await
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        self.database.explained(Need::Read, self.read_task_names().await).await
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        self.database.explained(Need::Read, self.read_last_id().await).await.map(Some)
    }

    async fn workers(&self, effort: Effort) -> Result<Vec<WorkerInfo>> {
        self.database.explained(Need::Read, self.workers_with(effort).await).await
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

    async fn tasks_with(&self, effort: Effort) -> Result<Vec<TaskInfo>> {
        let size = self.size().await?;
        if effort == Effort::Exact || size.is_small() {
            self.list_tasks().await
        } else {
            self.estimate_tasks(size).await
        }
    }

    async fn workers_with(&self, effort: Effort) -> Result<Vec<WorkerInfo>> {
        if effort == Effort::Exact
            || self.size().await?.is_small()
            || self.indexes().await?.contains(&ListIndex::Running)
        {
            return self.list_workers().await;
        }
        // What workers say of themselves; and the queues that are held, also by Node's.
        let serving = self.list_serving().await?.into_iter().map(|mut worker| {
            worker.jobs = said_to_run(&worker).unwrap_or_default();
            worker.precision = Precision::Estimated;
            worker
        });
        Ok(WorkerInfo::holding(serving, [], &self.held_queues().await?))
    }

    /// The ids and names of all tasks, by name.
    pub(super) async fn task_ids(&self) -> Result<Vec<(i32, String)>> {
        let tasks = sqlx::query!(
            r#"
select task.id, task.identifier as "identifier: Text"
from graphile_worker._private_tasks task
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by task.identifier
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("read task names", e))?;
        Ok(tasks.into_iter().map(|task| (task.id, task.identifier.text)).collect())
    }

    async fn list_queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        let counts = self.count_of_queues(list).await?;
        let name = list.name.as_ref().map(Pattern::to_like);
        // A page of names first: only their jobs are counted.
        let rows = sqlx::query!(
            r#"
select
  queue.id,
  queue.queue_name as "queue_name: Text",
  queue.locked_at as "locked_at: Timestamp",
  queue.locked_by as "locked_by: Text"
from graphile_worker._private_job_queues queue
where ($1::text is null or queue.queue_name like $1)
  and ($2::text is null or queue.queue_name > $2)
  -- As in `jobs!`.
  and (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by queue.queue_name
limit $3
"#,
            name,
            list.after,
            list.limit.map_or(i64::MAX, i64::from),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("list queues", e))?;
        let ids: Vec<i32> = rows.iter().map(|row| row.id).collect();
        let mut counted = match counts {
            // Of all queues there may be too many to be named.
            CountOfQueues::Scan => self.scan_queues((list.limit.is_some()).then_some(&ids[..])).await?,
            CountOfQueues::ByIndex => self.count_queues(&ids).await?,
            CountOfQueues::None => HashMap::new(),
        };
        let queues = rows.into_iter().map(|row| {
            let (jobs, precision) = counted.remove(&row.id).unwrap_or_default();
            let mut queue = QueueInfo::new(row.queue_name.text, jobs);
            queue.precision = if matches!(counts, CountOfQueues::None) { Precision::Unknown } else { precision };
            queue.locked_at = row.locked_at.map(|time| time.0);
            queue.locked_by = row.locked_by.map(|worker| worker.text);
            queue
        });
        Ok(queues.collect())
    }

    /// How the jobs of queues can be counted in time.
    async fn count_of_queues(&self, list: &QueueList) -> Result<CountOfQueues> {
        Ok(if list.effort == Effort::Exact || self.size().await?.is_small() {
            CountOfQueues::Scan
        } else if self.indexes().await?.contains(&ListIndex::Queue)
            && list.limit.is_some_and(|limit| limit <= MOST_QUEUES)
        {
            CountOfQueues::ByIndex
        } else {
            CountOfQueues::None
        })
    }

    /// The jobs of these queues, or of all, by a pass over all jobs.
    async fn scan_queues(&self, ids: Option<&[i32]>) -> Result<HashMap<i32, (Counts, Precision)>> {
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
  where job.job_queue_id is not null and ($1::integer[] is null or job.job_queue_id = any ($1))
)
select
  job.job_queue_id as "id!",
  count(*) filter (where job.state = 'ready') as "ready!",
  count(*) filter (where job.state = 'scheduled') as "scheduled!",
  count(*) filter (where job.state = 'running') as "running!",
  count(*) filter (where job.state = 'retrying') as "retrying!",
  count(*) filter (where job.state = 'dead') as "dead!"
from job
group by job.job_queue_id
"#,
            ids,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("count the jobs of queues", e))?;
        let counts = rows.into_iter().map(|row| {
            let numbers = Numbers {
                ready: row.ready,
                scheduled: row.scheduled,
                running: row.running,
                retrying: row.retrying,
                dead: row.dead,
            };
            (row.id, (numbers.into(), Precision::Exact))
        });
        Ok(counts.collect())
    }

    /// The jobs of these queues, of each at most so many, by an index that somebody has asked for.
    async fn count_queues(&self, ids: &[i32]) -> Result<HashMap<i32, (Counts, Precision)>> {
        let rows = sqlx::query!(
            r#"
select
  wanted.id as "id!",
  count(*) as "rows!",
  count(*) filter (where job.state = 'ready') as "ready!",
  count(*) filter (where job.state = 'scheduled') as "scheduled!",
  count(*) filter (where job.state = 'running') as "running!",
  count(*) filter (where job.state = 'retrying') as "retrying!",
  count(*) filter (where job.state = 'dead') as "dead!"
from unnest($1::integer[]) as wanted (id)
cross join lateral (
  select
    case
      when job.locked_at is not null then 'running'
      when job.attempts >= job.max_attempts then 'dead'
      when job.attempts > 0 and job.last_error is not null then 'retrying'
      when job.run_at > now() then 'scheduled'
      else 'ready'
    end as state
  from graphile_worker._private_jobs job
  where job.job_queue_id = wanted.id
  limit $2
) as job
group by wanted.id
"#,
            ids,
            OF_QUEUE,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("count the jobs of queues", e))?;
        let counts = rows.into_iter().map(|row| {
            let numbers = Numbers {
                ready: row.ready,
                scheduled: row.scheduled,
                running: row.running,
                retrying: row.retrying,
                dead: row.dead,
            };
            let precision = if row.rows < OF_QUEUE { Precision::Exact } else { Precision::AtLeast };
            (row.id, (numbers.into(), precision))
        });
        Ok(counts.collect())
    }

    /// The queues that a worker holds, without their jobs.
    async fn held_queues(&self) -> Result<Vec<QueueInfo>> {
        let rows = sqlx::query!(
            r#"
select
  queue.queue_name as "queue_name: Text",
  queue.locked_at as "locked_at: Timestamp",
  queue.locked_by as "locked_by: Text"
from graphile_worker._private_job_queues queue
where queue.locked_by is not null
  -- As in `jobs!`.
  and (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("list queues", e))?;
        let queues = rows.into_iter().map(|row| {
            let mut queue = QueueInfo::new(row.queue_name.text, Counts::default());
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
  where job.locked_at is not null and job.locked_by is not null
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
            worker.jobs = number(row.jobs);
            worker.queues = number(row.queues);
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
  where job.locked_at is not null and job.locked_by is not null
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
            worker.jobs = number(row.jobs);
            worker.queues = number(row.queues);
            worker.oldest_lock = row.oldest_lock.map(|time| time.0);
            worker
        });
        Ok(workers.collect())
    }
}
