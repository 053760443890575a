//! Looking for what is wrong with the file. Changes nothing.

use async_trait::async_trait;
use backfill_core::error::{Error, Unready};
use backfill_core::storage::{Check, CheckStatus, Doctor, Effort};
use sqlx::{Connection, SqliteConnection};

use crate::SqliteStorage;
use crate::migrate;
use crate::row::Text;

/// More than it takes a worker to notice that it is not registered, and more than clocks that agree differ by; in microseconds (a
/// minute).
const SOME_TIME: i64 = 60 * 1_000_000;
/// Free space that is worth giving back, in bytes, if it is most of the file.
const MUCH: i64 = 100 * 1024 * 1024;

#[async_trait]
impl Doctor for SqliteStorage {
    async fn diagnose(&self, _: Effort) -> Vec<Check> {
        let path = self.file.path().display();
        if let Err(error) = migrate::check(&self.file, self.messages).await {
            let remedy = match &error {
                Error::NotReady { reason: Unready::TooNew { .. }, .. } => "upgrade backfill here, or name another file",
                Error::NotReady { .. } => "migrate it (`backfill migrate`), or name another file",
                _ => "check the path and its permissions, and that it is an SQLite file",
            };
            return vec![found("file", error.to_string(), remedy)];
        }
        let mut connection = match self.file.reader().await {
            Ok(connection) => connection,
            Err(error) => return vec![found("file", error.to_string(), "check the path and its permissions")],
        };
        let mut checked = vec![fine("file", format!("{path}, version {}", crate::VERSION))];
        checked.push(self.writable().await);
        checked.push(journal(&mut connection).await.unwrap_or_else(|error| skipped("journal", &error)));
        checked.push(integrity(&mut connection).await.unwrap_or_else(|error| skipped("integrity", &error)));
        checked.push(self.locks(&mut connection).await.unwrap_or_else(|error| skipped("locks", &error)));
        checked.push(self.times(&mut connection).await.unwrap_or_else(|error| skipped("times", &error)));
        checked.push(self.triggers(&mut connection).await.unwrap_or_else(|error| skipped("triggers", &error)));
        checked.push(space(&mut connection).await.unwrap_or_else(|error| skipped("space", &error)));
        checked
    }
}

impl SqliteStorage {
    /// Begins to write, and writes nothing.
    async fn writable(&self) -> Check {
        // SQLite refuses the statement, and not the transaction; there is no worker without a name.
        let nothing = self.file.writer.write("write", |connection| {
            Box::pin(async move {
                sqlx::query!("delete from backfill_pools where id is null").execute(connection).await.map(drop)
            })
        });
        match nothing.await {
            Ok(()) => fine("writing", "the file may be written".to_owned()),
            Err(error) => found(
                "writing",
                format!("jobs cannot be added or run here: {error}"),
                "make the file, and the directory that it is in, writable for this user; or end what holds the file",
            ),
        }
    }

    /// Whether triggers of the user's let jobs be taken and deleted: that is tried with the first ready ones, and undone.
    async fn triggers(&self, connection: &mut SqliteConnection) -> sqlx::Result<Check> {
        let names = sqlx::query_scalar!(
            r#"select name as "name!: Text" from sqlite_master where type = 'trigger' and tbl_name = 'backfill_jobs' order by name"#
        )
        .fetch_all(connection)
        .await?;
        if names.is_empty() {
            return Ok(fine("triggers", "no trigger stands between a job and its worker".to_owned()));
        }
        let names: Vec<String> = names.into_iter().map(|name| format!("{:?}", name.text)).collect();
        let (names, now) = (names.join(", "), self.file.now());
        let tried = self.file.writer.write("try what triggers do", move |connection| {
            Box::pin(async move {
                let ready = sqlx::query_scalar!(
                    r#"
select id as "id!: i64"
from backfill_jobs indexed by backfill_jobs_line
where locked_at is null and attempts < max_attempts and run_at <= ?1
order by priority, run_at, id
limit 100
"#,
                    now
                )
                .fetch_all(&mut *connection)
                .await?;
                let all = ready.len() as u64;
                let ready = crate::json(ready);
                let mut tx = connection.begin().await?;
                let claimed = sqlx::query!(
                    r#"
update backfill_jobs set attempts = attempts + 1, locked_at = ?2, locked_by = 'backfill doctor'
where id in (select value from json_each(?1))
"#,
                    ready,
                    now
                )
                .execute(&mut *tx)
                .await?
                .rows_affected();
                let deleted = sqlx::query!(
                    r#"
delete from backfill_jobs where id in (select value from json_each(?1)) and locked_at = ?2 and locked_by = 'backfill doctor'
"#,
                    ready,
                    now
                )
                .execute(&mut *tx)
                .await?
                .rows_affected();
                tx.rollback().await?;
                Ok((all, claimed, deleted))
            })
        });
        Ok(match tried.await {
            Err(error) => found(
                "triggers",
                format!("triggers ({names}) refuse what a worker does: {error}"),
                "what a trigger refuses, no worker can take either: see the message",
            ),
            Ok((ready, claimed, _)) if claimed < ready => found(
                "triggers",
                format!("a trigger keeps {} of {ready} ready jobs from being taken ({names})", ready - claimed),
                "let it ignore no update in which locked_by changes, or abort with a message that says why",
            ),
            Ok((_, claimed, deleted)) if deleted < claimed => found(
                "triggers",
                format!(
                    "a trigger keeps {} of {claimed} jobs from being deleted when they are done ({names})",
                    claimed - deleted
                ),
                "let it ignore no delete, or abort with a message that says why; such jobs stay held, and run again later",
            ),
            Ok((0, ..)) => {
                fine("triggers", format!("triggers stand there ({names}), and no job is ready to try them with"))
            }
            Ok((ready, ..)) => {
                fine("triggers", format!("triggers ({names}) let jobs be taken and done, as {ready} were for a moment"))
            }
        })
    }

    /// What is dated ahead, and so would never be due or never be missed.
    async fn times(&self, connection: &mut SqliteConnection) -> sqlx::Result<Check> {
        let limit = self.file.now() + SOME_TIME;
        let ahead = sqlx::query_scalar!(
            r#"
select 'the crontab entry ' || identifier as "what!: Text" from backfill_crontabs where last_execution > ?1
union all
select 'the heartbeat of ' || id from backfill_pools where seen_at > ?1
order by 1
"#,
            limit
        )
        .fetch_all(connection)
        .await?;
        let ahead: Vec<String> = ahead.into_iter().map(|what| what.text).collect();
        if ahead.is_empty() {
            return Ok(fine("times", "no crontab or worker is dated ahead".to_owned()));
        }
        Ok(found(
            "times",
            format!("dated ahead, so that nothing happens to them before then: {}", ahead.join(", ")),
            "set the clock right; then, for a crontab entry: update backfill_crontabs set last_execution = null where identifier = \
             '...'; and for a worker that is gone: `backfill unlock`",
        ))
    }

    async fn locks(&self, connection: &mut SqliteConnection) -> sqlx::Result<Check> {
        let limit = self.file.now() - SOME_TIME;
        let old = sqlx::query!(
            r#"
select job.locked_by as "worker!: Text", count(*) as "jobs!: i64"
from backfill_jobs job indexed by backfill_jobs_held
where job.locked_by is not null
  and job.locked_at < ?1
  and job.locked_by not like 'lease:%'
  and not exists (select 1 from backfill_pools pool where pool.id = job.locked_by)
group by job.locked_by
order by 1
"#,
            limit
        )
        .fetch_all(connection)
        .await?;
        if old.is_empty() {
            return Ok(fine("locks", "no job is held by a worker that is not registered".to_owned()));
        }
        let workers: Vec<&str> = old.iter().map(|row| row.worker.text.as_str()).collect();
        let jobs: i64 = old.iter().map(|row| row.jobs).sum();
        Ok(found(
            "locks",
            format!("{jobs} jobs have been held for more than a minute by workers that are not registered"),
            &format!("if they are gone: `backfill unlock {}`", workers.join(" ")),
        ))
    }
}

// Pragmas are not checked statements: the checker cannot describe them.

async fn journal(connection: &mut SqliteConnection) -> sqlx::Result<Check> {
    let mode: String = sqlx::query_scalar("pragma journal_mode").fetch_one(connection).await?;
    if mode == "wal" {
        return Ok(fine("journal", "a write-ahead log".to_owned()));
    }
    Ok(found(
        "journal",
        format!("the journal's mode is {mode}, in which readers and writers wait for each other"),
        "start a worker, which changes it; if that does not, the file system cannot do it: use a local disk",
    ))
}

async fn integrity(connection: &mut SqliteConnection) -> sqlx::Result<Check> {
    let said: Vec<String> = sqlx::query_scalar("pragma quick_check(5)").fetch_all(connection).await?;
    if said == ["ok"] {
        return Ok(fine("integrity", "the file is whole".to_owned()));
    }
    Ok(found(
        "integrity",
        said.join("; "),
        "stop everybody, keep a copy, and restore a backup (or try sqlite3's .recover)",
    ))
}

async fn space(connection: &mut SqliteConnection) -> sqlx::Result<Check> {
    let size: i64 = sqlx::query_scalar("pragma page_size").fetch_one(&mut *connection).await?;
    let pages: i64 = sqlx::query_scalar("pragma page_count").fetch_one(&mut *connection).await?;
    let free: i64 = sqlx::query_scalar("pragma freelist_count").fetch_one(connection).await?;
    let mebibytes = |pages: i64| pages * size / 1024 / 1024;
    if free * size > MUCH && free * 2 > pages {
        return Ok(found(
            "space",
            format!("{} MiB of the file's {} MiB are free", mebibytes(free), mebibytes(pages)),
            "they are used again; to give them back, run `sqlite3 FILE vacuum` while nobody works",
        ));
    }
    Ok(fine("space", format!("{} MiB, of which {} MiB are free", mebibytes(pages), mebibytes(free))))
}

fn fine(what: &'static str, detail: String) -> Check {
    Check::new(what, CheckStatus::Fine { detail })
}

fn found(what: &'static str, problem: String, remedy: &str) -> Check {
    Check::new(what, CheckStatus::Found { problem, remedy: remedy.to_owned() })
}

fn skipped(what: &'static str, error: &sqlx::Error) -> Check {
    Check::new(what, CheckStatus::Skipped { why: error.to_string() })
}
