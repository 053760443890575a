//! Looking at lines, documents and events, and deleting what is no longer wanted.

use backfill_core::Result;
use backfill_core::job::Job;
use backfill_core::storage::WorkerId;
use backfill_core::storage::messages::{Depth, Document, DocumentKey, Event, Purge, end_of_prefix};

use super::lease::free;
use super::take::next_priority;
use crate::SqliteStorage;
use crate::errors::failed;
use crate::file::{micros, time};
use crate::heartbeat::wake;
use crate::row::{Text, jobs};

/// So many jobs one part of a purge deletes.
const PART: i64 = 1_000;

impl SqliteStorage {
    pub(super) async fn count_lines(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        let fail = failed("count the jobs of lines");
        let mut connection = self.file.read("count the jobs of lines").await?;
        let now = self.file.now();
        // One more says that there are more.
        let most = i64::from(cap) + 1;
        let mut depths = Vec::with_capacity(lines.len());
        for line in lines {
            let (mut counts, mut priority) = ([0_i64; 3], None);
            while let Some(next) = next_priority(&mut connection, line, priority).await.map_err(&fail)? {
                priority = Some(next);
                let of_priority = sqlx::query!(
                    r#"
select
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_task_line
      where task = ?1 and locked_at is null and attempts < max_attempts and priority = ?2 and run_at <= ?3
      limit ?4
    )
  ) as "ready!: i64",
  (
    select count(*) from (
      select 1 from backfill_jobs indexed by backfill_jobs_task_line
      where task = ?1 and locked_at is null and attempts < max_attempts and priority = ?2 and run_at > ?3
      limit ?4
    )
  ) as "delayed!: i64"
"#,
                    line,
                    next,
                    now,
                    most,
                );
                let of_priority = of_priority.fetch_one(&mut *connection).await.map_err(&fail)?;
                counts[0] += of_priority.ready;
                counts[1] += of_priority.delayed;
                if counts[0] >= most && counts[1] >= most {
                    break;
                }
            }
            let held = sqlx::query_scalar!(
                r#"
select count(*) as "held!: i64"
from (
  select 1 from backfill_jobs indexed by backfill_jobs_held_line where task = ?1 and locked_at is not null limit ?2
)
"#,
                line,
                most,
            );
            counts[2] = held.fetch_one(&mut *connection).await.map_err(&fail)?;
            depths.push(Depth::new(line, counts.map(|count| u64::try_from(count).unwrap_or_default()), cap));
        }
        Ok(depths)
    }

    pub(super) async fn read_head(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        let fail = failed("look at the head of a line");
        let mut connection = self.file.read("look at the head of a line").await?;
        let now = self.file.now();
        let (mut jobs, mut priority) = (Vec::new(), None);
        while let Some(next) = next_priority(&mut connection, line, priority).await.map_err(&fail)? {
            let room = i64::from(limit) - i64::try_from(jobs.len()).unwrap_or(i64::MAX);
            if room <= 0 {
                break;
            }
            priority = Some(next);
            let rows = jobs!(
                "select",
                r#"
from backfill_jobs indexed by backfill_jobs_task_line
where task = ?1 and locked_at is null and attempts < max_attempts and priority = ?2 and run_at <= ?3
order by run_at, id
limit ?4
"#,
                line,
                next,
                now,
                room,
            );
            jobs.extend(rows.fetch_all(&mut *connection).await.map_err(&fail)?.into_iter().map(Job::from));
        }
        Ok(jobs)
    }

    pub(super) async fn purge_line(&self, line: &str, what: Purge) -> Result<u64> {
        let now = self.file.now();
        let (ready_by, all) = match what {
            Purge::All => (None, true),
            Purge::ReadyBefore(time) => (Some(micros(time).min(now)), false),
            _ => (Some(now), false),
        };
        // From id to id, so that no part looks again at what others have passed by.
        let (mut purged, mut last) = (0, i64::MIN);
        loop {
            let line = line.to_owned();
            let part = self.file.writer.write("purge a line", move |connection| {
                Box::pin(async move {
                    // What came after the call began stays, or it might never end.
                    let rows = jobs!(
                        payload: "'{}'",
                        r#"
delete from backfill_jobs
where id in (
  select id from backfill_jobs
  where id > ?6 and task = ?1 and ((?2 and created_at <= ?4) or (locked_at is null and attempts < max_attempts and run_at <= ?3))
  order by id
  limit ?5
)
returning
"#,
                        "",
                        line,
                        all,
                        ready_by,
                        now,
                        PART,
                        last,
                    );
                    let gone: Vec<Job> = rows.fetch_all(&mut *connection).await?.into_iter().map(Job::from).collect();
                    let mut queued = false;
                    for job in &gone {
                        queued |= job.queue.is_some();
                        if let (Some(queue), Some(holder)) = (&job.queue, &job.locked_by) {
                            free(connection, queue, holder, job.locked_at.map(micros)).await?;
                        }
                    }
                    // What stands behind deleted ones may be first now.
                    wake(connection, u64::from(queued)).await?;
                    let newest = gone.iter().map(|job| job.id.number()).max();
                    Ok((gone.len() as u64, newest))
                })
            });
            let (part, newest) = part.await?;
            purged += part;
            last = newest.unwrap_or(last);
            if part < u64::try_from(PART).unwrap_or_default() {
                self.cursor.forget_soon();
                self.file.tell();
                return Ok(purged);
            }
        }
    }

    pub(super) async fn read_documents(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Document>> {
        let (now, limit, end) = (self.file.now(), i64::from(limit), end_of_prefix(prefix));
        // The keys that begin so are those from the prefix on, until one that does not.
        let from = after.map_or(prefix, |after| after.max(prefix));
        let rows = sqlx::query_as!(
            Row,
            r#"
select
  key as "key!: Text", value as "value!: Text", version as "version!: i64", owner as "owner?: Text", until as "until?: i64"
from backfill_documents
where kind = ?1 and key >= ?2 and key < coalesce(?7, x'') and (?3 is null or key > ?3) and (until is null or until > ?4)
  and substr(key, 1, length(?5)) = ?5
order by key
limit ?6
"#,
            kind,
            from,
            after,
            now,
            prefix,
            limit,
            end,
        )
        .fetch_all(&mut *self.file.read("read documents").await?)
        .await
        .map_err(failed("read documents"))?;
        let document = |row: Row| {
            let Row { key, value, version, owner, until } = row;
            let version = u64::try_from(version).unwrap_or_default();
            let mut document = Document::new(DocumentKey::new(kind, key.text), value.into(), version);
            document.owner = owner.map(|owner| WorkerId::named(owner.text));
            document.until = until.map(time);
            document
        };
        Ok(rows.into_iter().map(document).collect())
    }

    pub(super) async fn delete_expired_documents(&self, limit: u32) -> Result<u64> {
        let (now, limit) = (self.file.now(), i64::from(limit));
        self.file
            .writer
            .write("forget expired documents", move |connection| {
                Box::pin(async move {
                    let gone = sqlx::query!(
                        r#"
delete from backfill_documents
where (kind, key) in (
  select kind, key from backfill_documents indexed by backfill_documents_until
  where until is not null and until <= ?1
  limit ?2
)
"#,
                        now,
                        limit
                    );
                    Ok(gone.execute(connection).await?.rows_affected())
                })
            })
            .await
    }

    pub(super) async fn read_events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        let (after, limit) = (i64::try_from(since).unwrap_or(i64::MAX), i64::from(limit));
        let rows = sqlx::query!(
            r#"
select position as "position!: i64", at as "at!: i64", payload as "payload!: Text"
from backfill_events
where stream = ?1 and position > ?2
order by position
limit ?3
"#,
            stream,
            after,
            limit,
        )
        .fetch_all(&mut *self.file.read("read events").await?)
        .await
        .map_err(failed("read events"))?;
        let position = |position| u64::try_from(position).unwrap_or_default();
        let events = rows
            .into_iter()
            .map(|row| Event::new(position(row.position), stream.to_owned(), time(row.at), row.payload.into()));
        Ok(events.collect())
    }

    pub(super) async fn read_streams(&self, prefix: &str) -> Result<Vec<String>> {
        let fail = failed("list streams");
        let mut connection = self.file.read("list streams").await?;
        // From name to name through the index, whatever events there are.
        let (mut streams, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let next = sqlx::query_scalar!(
                r#"
select min(stream) as "stream?: Text" from backfill_events where stream >= ?1 and (?2 is null or stream > ?2)
"#,
                prefix,
                after,
            );
            match next.fetch_one(&mut *connection).await.map_err(&fail)? {
                Some(next) if next.text.starts_with(prefix) => {
                    streams.push(next.text.clone());
                    after = Some(next.text);
                }
                _ => return Ok(streams),
            }
        }
    }

    pub(super) async fn delete_events(&self, stream: &str, upto: u64) -> Result<u64> {
        let (stream, upto) = (stream.to_owned(), i64::try_from(upto).unwrap_or(i64::MAX));
        self.file
            .writer
            .write("forget events", move |connection| {
                Box::pin(async move {
                    let gone =
                        sqlx::query!("delete from backfill_events where stream = ?1 and position <= ?2", stream, upto);
                    Ok(gone.execute(connection).await?.rows_affected())
                })
            })
            .await
    }
}

struct Row {
    key: Text,
    value: Text,
    version: i64,
    owner: Option<Text>,
    until: Option<i64>,
}
