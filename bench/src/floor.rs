//! The floor: the bare statements, in a loop that does nothing else. No runner of this schema that claims and deletes can be
//! faster than this on the same connections and in the same batches.

use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::JoinSet;

use crate::Result;
use crate::child::{Record, ready, say, slowly};

const CLAIM: &str = "
with candidate as materialized (
  select id from graphile_worker._private_jobs
  where is_available and run_at <= now() and task_id = any (array(select id from graphile_worker._private_tasks))
  order by priority, run_at
  limit $1
  for update skip locked
)
update graphile_worker._private_jobs
set attempts = attempts + 1, locked_by = 'floor', locked_at = now()
where id = any (array(select id from candidate))
returning id, payload::text";

const DELETE: &str = "delete from graphile_worker._private_jobs where id = any ($1)";

/// Drains with so many connections.
pub async fn run(url: &str, batch: i64, connections: usize, fused: bool) -> Result<()> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(PgConnection::connect(url).await?);
    }
    let input = ready().await?;
    let mut loops = JoinSet::new();
    for connection in open {
        loops.spawn(
            async move { if fused { in_one(connection, batch).await } else { in_two(connection, batch).await } },
        );
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    input.closed().await;
    Ok(())
}

async fn in_two(mut connection: PgConnection, batch: i64) -> Result<()> {
    loop {
        let jobs: Vec<(i64, String)> = sqlx::query_as(CLAIM).bind(batch).fetch_all(&mut connection).await?;
        if jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = jobs.into_iter().map(|job| job.0).collect();
        sqlx::query(DELETE).bind(ids).execute(&mut connection).await?;
    }
}

/// The delete of one batch and the claim of the next are one statement.
async fn in_one(mut connection: PgConnection, batch: i64) -> Result<()> {
    let fused =
        format!("with gone as ({}), {}", DELETE.replace("$1", "$2"), CLAIM.trim_start().trim_start_matches("with "));
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let next =
            sqlx::query_as(sqlx::AssertSqlSafe(fused.clone())).bind(batch).bind(&ids).fetch_all(&mut connection).await;
        let jobs: Vec<(i64, String)> = match next {
            // A claim waits for a row that somebody deletes at this moment in spite of `skip locked`, and here both do both.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("40P01") => continue,
            other => other?,
        };
        if jobs.is_empty() {
            return Ok(());
        }
        ids = jobs.into_iter().map(|job| job.0).collect();
    }
}

/// Drains an SQLite file through one connection, whose settings are those of the library's: more would only wait for each other.
pub async fn drain_file(url: &str, batch: i64, fused: bool) -> Result<()> {
    let mut connection = url
        .parse::<SqliteConnectOptions>()?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "4000")
        .pragma("cache_size", "-32000")
        .connect()
        .await?;
    let input = ready().await?;
    let mut done = String::from("[]");
    loop {
        if fused {
            // The delete of one batch and the claim of the next are one transaction.
            sqlx::query("begin immediate").execute(&mut connection).await?;
            sqlx::query(DELETE_IN_FILE).bind(&done).execute(&mut connection).await?;
        }
        let jobs: Vec<(i64, String)> = sqlx::query_as(CLAIM_IN_FILE).bind(batch).fetch_all(&mut connection).await?;
        let ids: Vec<i64> = jobs.into_iter().map(|job| job.0).collect();
        done = serde_json::to_string(&ids)?;
        if fused {
            sqlx::query("commit").execute(&mut connection).await?;
        } else {
            sqlx::query(DELETE_IN_FILE).bind(&done).execute(&mut connection).await?;
        }
        if ids.is_empty() {
            break;
        }
    }
    input.closed().await;
    Ok(())
}

const CLAIM_IN_FILE: &str = "
update backfill_jobs set attempts = attempts + 1, locked_by = 'floor', locked_at = unixepoch() * 1000000
where id in (
  select id from backfill_jobs indexed by backfill_jobs_line
  where locked_at is null and attempts < max_attempts and run_at <= unixepoch() * 1000000
  order by priority, run_at, id
  limit ?1
)
returning id, payload";

const DELETE_IN_FILE: &str = "delete from backfill_jobs where id in (select value from json_each(?1))";

/// Claims and deletes by the bare statements whenever it is notified, and tells when each job was there.
pub async fn one_at_a_time(url: &str) -> Result<()> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("jobs:insert").await?;
    let mut connection = PgConnection::connect(url).await?;
    let record = Record::new(true);
    let input = ready().await?;
    let work = async {
        loop {
            listener.recv().await?;
            let jobs: Vec<(i64, String)> = sqlx::query_as(CLAIM).bind(24_i64).fetch_all(&mut connection).await?;
            for (_, payload) in &jobs {
                record.began(&serde_json::from_str(payload)?);
            }
            let ids: Vec<i64> = jobs.into_iter().map(|job| job.0).collect();
            sqlx::query(DELETE).bind(ids).execute(&mut connection).await?;
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = work => ended,
        () = input.closed() => Ok(()),
    };
    ended?;
    record.tell()
}

/// Reads and deletes whatever it is notified of, which was stored as claimed already, and tells when each job was there.
pub async fn one_at_a_time_handed(url: &str) -> Result<()> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("floor").await?;
    let mut connection = PgConnection::connect(url).await?;
    let record = Record::new(true);
    let input = ready().await?;
    let work = async {
        loop {
            let id: i64 = listener.recv().await?.payload().parse()?;
            let payload: String =
                sqlx::query_scalar("select payload::text from graphile_worker._private_jobs where id = $1")
                    .bind(id)
                    .fetch_one(&mut listener)
                    .await?;
            record.began(&serde_json::from_str(&payload)?);
            sqlx::query(DELETE).bind(vec![id]).execute(&mut connection).await?;
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = work => ended,
        () = input.closed() => Ok(()),
    };
    ended?;
    record.tell()
}

pub const ADD: &str = "
with job as (
  insert into graphile_worker._private_jobs (task_id, payload)
  select id, $1::text::json from graphile_worker._private_tasks where identifier = 'noop'
)
select pg_notify('jobs:insert', random()::text) is null";

pub const HAND_OFF: &str = "
with job as (
  insert into graphile_worker._private_jobs (task_id, payload, attempts, locked_at, locked_by)
  select id, $1::text::json, 1, now(), 'floor' from graphile_worker._private_tasks where identifier = 'noop'
  returning id
)
select pg_notify('floor', job.id::text) is null from job";

/// Adds one job after the other by a bare statement, with a pause.
pub async fn add_slowly(url: &str, jobs: usize, pause: Duration, statement: &'static str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(TASK).execute(&mut connection).await?;
    let connection = tokio::sync::Mutex::new(connection);
    slowly(jobs, pause, async |n| {
        let payload = format!("{{\"n\":{n}}}");
        sqlx::query(statement).bind(payload).execute(&mut *connection.lock().await).await?;
        Ok(())
    })
    .await
}

const TASK: &str = "insert into graphile_worker._private_tasks (identifier) values ('noop') on conflict do nothing";

/// Bare bulk insert, in chunks of ten thousand.
pub async fn fill(url: &str, jobs: usize) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(TASK).execute(&mut connection).await?;
    ready().await?;
    let begin = Instant::now();
    let numbers: Vec<usize> = (0..jobs).collect();
    for chunk in numbers.chunks(10_000) {
        let payloads: Vec<String> = chunk.iter().map(|n| format!("{{\"n\":{n}}}")).collect();
        sqlx::query(
            "insert into graphile_worker._private_jobs (task_id, payload)
             select (select id from graphile_worker._private_tasks where identifier = 'noop'), payload::json
             from unnest($1::text[]) as payload",
        )
        .bind(payloads)
        .execute(&mut connection)
        .await?;
    }
    say(begin.elapsed().as_secs_f64())
}
