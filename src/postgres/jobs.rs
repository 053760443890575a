//! Reading jobs.

use futures::TryStreamExt;

use super::PostgresStorage;
use super::connection::row::jobs;
use crate::error::{Error, Result};
use crate::job::{Job, JobId, JobState};
use crate::storage::{Counts, JobFilter};

impl PostgresStorage {
    pub(super) async fn existing_jobs(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        sqlx::query_scalar!(
            "select job.id from graphile_worker._private_jobs job where job.id = any ($1)",
            &JobId::numbers(ids)
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map(|ids| ids.into_iter().map(JobId::from_number).collect())
        .map_err(|e| self.database.error("look for jobs", e))
    }

    pub(super) async fn read_job(&self, id: JobId) -> Result<Option<Job>> {
        let row = jobs!(
            "",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where job.id = $1
"#,
            id.number(),
        )
        .fetch_optional(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("read a job", e))?;
        Ok(row.map(Job::from))
    }

    pub(super) async fn list_jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        let fail = |e| self.database.error("list jobs", e);
        let mut work = self.database.work().await?;
        // A payload that is not wanted is not unpacked either. Rows are read one by one, until they are enough.
        let mut rows = jobs!(
            payload: "(case when $7 then job.payload else '{}'::json end)::text",
            "",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where ($1::text is null or task.identifier = $1)
  and ($2::text is null or queue.queue_name = $2)
  and ($3::text is null or job.key = $3)
  and ($4::bigint is null or job.id > $4)
  and ($5::text is null or $5 = case
    when job.locked_at is not null then 'running'
    when job.attempts >= job.max_attempts then 'dead'
    when job.attempts > 0 and job.last_error is not null then 'retrying'
    when job.run_at > now() then 'scheduled'
    else 'ready'
  end)
order by job.id
limit $6
"#,
            filter.task,
            filter.queue,
            filter.key,
            filter.after.map(JobId::number),
            filter.state.map(JobState::as_str),
            i64::from(filter.limit),
            filter.payloads,
        )
        .fetch(self.database.schema.on(&mut *work));
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(fail)? {
            bytes += if filter.payloads { row.payload.text.len() as u64 } else { 0 };
            if !jobs.is_empty() && filter.max_bytes.is_some_and(|most| bytes > most) {
                break;
            }
            jobs.push(Job::from(row));
        }
        drop(rows);
        self.database.done(work).await?;
        Ok(jobs)
    }

    pub(super) async fn count_jobs(&self) -> Result<Counts> {
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
            counts.add(state, u64::try_from(row.count).unwrap_or_default());
        }
        Ok(counts)
    }
}
