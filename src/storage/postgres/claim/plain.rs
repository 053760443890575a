//! All candidates or none.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::super::PostgresStorage;
use super::answer::Reader;
use super::claim;
use crate::error::Result;
use crate::storage::{ClaimRequest, Claimed};

impl PostgresStorage {
    /// Takes the first jobs if all of them may be taken as they are; `None` if something has to be left, and then nothing is
    /// taken. And tells how long it walked.
    pub(super) async fn claim_plain(
        &self,
        conn: &mut PgConnection,
        request: &ClaimRequest<'_>,
        place: (i16, Option<DateTime<Utc>>),
    ) -> Result<(Option<Claimed>, Duration)> {
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let forbidden = (!request.forbidden_flags.is_empty()).then_some(request.forbidden_flags);
        let mut rows = claim!(
            r#"
-- `= any (array(…))` rather than a join: the planner expects ten elements and always uses the primary key, with
-- or without statistics.
job as (
  update graphile_worker._private_jobs job
  set attempts = job.attempts + 1, locked_by = $1, locked_at = now()
  where job.id = any (array(select candidate.id from candidate where (select walked.is_plain from walked)))
  returning job.id, job.task_id, job.payload, job.priority, job.run_at, job.attempts, job.max_attempts, job.last_error,
    job.created_at, job.updated_at, job.key, job.revision, job.flags
)
-- Rows of several kinds, as `answer` reads them.
select
  null::bigint as "id?",
  null::integer as "task_id?",
  null::integer as "queue_id?",
  walked.candidates as "candidates?",
  null::text as "text?",
  null::smallint as "priority?",
  now() as "run_at?: crate::storage::postgres::row::Timestamp",
  null::smallint as "attempts?",
  null::smallint as "max_attempts?",
  null::text as "last_error?",
  null::timestamptz as "created_at?: crate::storage::postgres::row::Timestamp",
  null::timestamptz as "updated_at?: crate::storage::postgres::row::Timestamp",
  null::text as "key?",
  case when not coalesce(walked.is_plain, false) then 3 end as "revision?",
  null::text as "flags?",
  walked.took as "walk?"
from walked
union all
select null, served.id, null, null, served.identifier, null, null, null, null, null, null, null, null, null, null, null
from served
union all
select job.id, job.task_id, null, null, job.payload::text, job.priority, job.run_at, job.attempts,
  job.max_attempts, job.last_error, job.created_at, job.updated_at, job.key, job.revision, job.flags::text, null
from job
"#,
            request.pool.as_str(),
            request.tasks,
            limit,
            forbidden,
            request.now,
            place.0,
            place.1,
            i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
        )
        .fetch(self.schema.on(conn));
        let mut reader = Reader::new(request);
        while let Some(row) = rows.try_next().await.map_err(|e| self.error("claim jobs", e))? {
            reader.take(row);
        }
        Ok(reader.end())
    }
}
