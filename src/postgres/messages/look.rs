//! Looking at lines, documents and events. Nothing here writes.

use super::super::PostgresStorage;
use super::super::connection::row::jobs;
use crate::error::Result;
use crate::job::{Job, Payload};
use crate::storage::WorkerId;
use crate::storage::messages::{Depth, Document, DocumentKey, Event, end_of_prefix};

impl PostgresStorage {
    pub(super) async fn count_lines(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        let mut work = self.database.work().await?;
        let rows = sqlx::query!(
            r#"
select ready as "ready!", delayed as "delayed!", held as "held!" from graphile_worker.backfill_depths($1, $2)
"#,
            lines,
            // One more says that there are more.
            i64::from(cap) + 1,
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("count the jobs of lines", e))?;
        self.database.done(work).await?;
        let depth = |(line, counts): (&String, [i64; 3])| {
            Depth::new(line, counts.map(|count| u64::try_from(count).unwrap_or_default()), cap)
        };
        let counts = rows.into_iter().map(|row| [row.ready, row.delayed, row.held]);
        Ok(lines.iter().zip(counts).map(depth).collect())
    }

    pub(super) async fn read_head(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        let mut work = self.database.work().await?;
        let rows = jobs!(
            "",
            r#"
from graphile_worker.backfill_peek($1, $2) as job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
order by job.priority, job.run_at, job.id
"#,
            line,
            i64::from(limit),
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("look at the head of a line", e))?;
        self.database.done(work).await?;
        Ok(rows.into_iter().map(Job::from).collect())
    }

    pub(super) async fn read_documents(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Document>> {
        let mut work = self.database.work().await?;
        // The keys that begin so are those from the prefix on, until one that does not.
        let rows = sqlx::query!(
            r#"
select document.key, document.value::text as "value!", document.version, document.owner, document.until
from graphile_worker.backfill_documents document
where document.kind = $1
  and document.key >= $2
  and ($6::text is null or document.key < $6)
  and ($3::text is null or document.key > $3)
  and starts_with(document.key, $4)
  and (document.until is null or document.until > clock_timestamp())
order by document.key
limit $5
"#,
            kind,
            after.map_or(prefix, |after| after.max(prefix)),
            after,
            prefix,
            i64::from(limit),
            end_of_prefix(prefix),
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("read documents", e))?;
        self.database.done(work).await?;
        let documents = rows.into_iter().map(|row| {
            let version = u64::try_from(row.version).unwrap_or_default();
            let mut document =
                Document::new(DocumentKey::new(kind, row.key), Payload::from_trusted(row.value), version);
            document.owner = row.owner.map(WorkerId::named);
            document.until = row.until;
            document
        });
        Ok(documents.collect())
    }

    pub(super) async fn read_events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        let mut work = self.database.work().await?;
        let rows = sqlx::query!(
            r#"
select event.position, event.at, event.payload::text as "payload!"
from graphile_worker.backfill_events event
where event.stream = $1 and event.position > $2
order by event.position
limit $3
"#,
            stream,
            i64::try_from(since).unwrap_or(i64::MAX),
            i64::from(limit),
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("read events", e))?;
        self.database.done(work).await?;
        let position = |position| u64::try_from(position).unwrap_or_default();
        let events = rows.into_iter().map(|row| {
            Event::new(position(row.position), stream.to_owned(), row.at, Payload::from_trusted(row.payload))
        });
        Ok(events.collect())
    }

    pub(super) async fn read_streams(&self, prefix: &str) -> Result<Vec<String>> {
        let mut work = self.database.work().await?;
        // From name to name through the index, whatever events there are.
        let streams = sqlx::query_scalar!(
            r#"
with recursive named (stream) as (
  (
    select event.stream
    from graphile_worker.backfill_events event
    where event.stream >= $1
    order by event.stream
    limit 1
  )
  union all
  select (
    select event.stream
    from graphile_worker.backfill_events event
    where event.stream > named.stream
    order by event.stream
    limit 1
  )
  from named
  where starts_with(named.stream, $1)
)
select named.stream as "stream!" from named where starts_with(named.stream, $1)
"#,
            prefix,
        )
        .fetch_all(self.database.schema.on(&mut *work))
        .await
        .map_err(|e| self.database.error("list streams", e))?;
        self.database.done(work).await?;
        Ok(streams)
    }
}
