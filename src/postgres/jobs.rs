//! Reading jobs.

use super::PostgresStorage;
use super::connection::row::jobs;
use crate::error::Result;
use crate::job::{Job, JobId};

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
}
