//! Storing jobs.
//!
//! Jobs without keys are stored by one statement for a chunk of them; those with keys one by one, since what happens to each
//! depends on the job that has its key.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use backfill_core::job::{Job, JobKeyMode, NewJob};
use backfill_core::{Error, Result};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};

use crate::SqliteStorage;
use crate::errors::{failed, left_out};
use crate::file::{File, MonotonicClock, time};
use crate::heartbeat::wake;
use crate::row::{insert_new, insert_new_ones, jobs, new_one, update_replaced};

/// Most jobs in one statement.
const CHUNK_JOBS: usize = 5_000;
/// Most payload bytes in one statement. On their way through JSON they are copied a dozen times, here and in SQLite.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;
/// A payload of more bytes is not worth that way: it is bound to a statement of its own as it is.
pub(crate) const LARGE: usize = 64 * 1024;

impl SqliteStorage {
    pub(crate) async fn add_jobs(&self, jobs: Vec<NewJob>) -> Result<Vec<Job>> {
        let stored = match <[NewJob; 1]>::try_from(jobs) {
            // Single ones that meet are stored together.
            Ok([job]) if job.key.is_none() => vec![self.file.writer.add(job).await?],
            jobs => {
                let jobs = jobs.map_or_else(|jobs| jobs, Vec::from);
                check_keys(&jobs)?;
                let clock = Arc::clone(self.file.clock());
                let work = self.file.writer.write("store jobs", move |connection| {
                    Box::pin(async move { store(&clock, connection, &jobs).await })
                });
                work.await?
            }
        };
        self.file.tell();
        Ok(stored)
    }
}

/// Stores jobs on the caller's own connection, all or none.
pub(crate) async fn add_in(file: &File, connection: &mut SqliteConnection, jobs: Vec<NewJob>) -> Result<Vec<Job>> {
    check_keys(&jobs)?;
    let fail = failed("store jobs");
    // A savepoint, where the caller has a transaction open.
    let mut tx = connection.begin().await.map_err(&fail)?;
    let stored = store(file.clock(), &mut tx, &jobs).await.map_err(&fail)?;
    tx.commit().await.map_err(fail)?;
    Ok(stored)
}

fn check_keys(jobs: &[NewJob]) -> Result<()> {
    let mut keys = HashSet::new();
    match jobs.iter().filter_map(|job| job.key.as_ref()).find(|key| !keys.insert(*key)) {
        Some(key) => Err(Error::DuplicateKey { key: key.clone() }),
        None => Ok(()),
    }
}

/// Stores jobs in the transaction that this connection is in.
pub(crate) async fn store(
    clock: &MonotonicClock,
    connection: &mut SqliteConnection,
    batch: &[NewJob],
) -> sqlx::Result<Vec<Job>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    // First of all something is written: where the caller's transaction has not done so, that takes the lock.
    let tasks: BTreeSet<&str> = batch.iter().map(|job| job.task.as_str()).collect();
    name_tasks(connection, &names(tasks)).await?;
    let queues: BTreeSet<&str> = batch.iter().filter_map(|job| job.queue.as_deref()).collect();
    if !queues.is_empty() {
        name_queues(connection, &names(queues)).await?;
    }
    // Each a moment later than the one before, so that a batch keeps its order.
    let begin = clock.take(batch.len());
    let moment = |place: usize| begin + i64::try_from(place).unwrap_or_default();
    let mut stored: Vec<Option<Job>> = batch.iter().map(|_| None).collect();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for (place, job) in batch.iter().enumerate() {
        if job.key.is_some() {
            stored[place] = Some(store_keyed(connection, job, moment(place)).await?);
            continue;
        }
        let size = job.payload.as_str().len();
        if size > LARGE {
            // Numbers are given in the order of the batch.
            store_plain(connection, batch, &std::mem::take(&mut chunk), moment, &mut stored).await?;
            bytes = 0;
            stored[place] = Some(store_alone(connection, job, moment(place)).await?);
            continue;
        }
        if chunk.len() == CHUNK_JOBS || (!chunk.is_empty() && bytes + size > CHUNK_BYTES) {
            store_plain(connection, batch, &std::mem::take(&mut chunk), moment, &mut stored).await?;
            bytes = 0;
        }
        chunk.push(place);
        bytes += size;
    }
    store_plain(connection, batch, &chunk, moment, &mut stored).await?;
    let all: Option<Vec<Job>> = stored.into_iter().collect();
    let all = all.ok_or_else(|| sqlx::Error::Protocol("a stored job was not paired with its input".to_owned()))?;
    let began = time(begin);
    if batch.iter().zip(&all).any(|(new, job)| new.run_at.is_some() && job.run_at < began) {
        // Claims may have passed by a place in the past.
        wake(connection, 1).await?;
    }
    if has_triggers(connection).await? { as_stored(connection, all).await } else { Ok(all) }
}

/// Whether the user has put triggers on the jobs, which may change what was stored.
async fn has_triggers(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    let triggers = sqlx::query_scalar!(
        r#"select count(*) as "count!: i64" from sqlite_master where type = 'trigger' and tbl_name = 'backfill_jobs'"#
    );
    Ok(triggers.fetch_one(connection).await? > 0)
}

/// The jobs as they are now; one that a trigger has deleted at once was left out.
async fn as_stored(connection: &mut SqliteConnection, told: Vec<Job>) -> sqlx::Result<Vec<Job>> {
    let ids = crate::json(told.iter().map(|job| job.id.number()).collect::<Vec<_>>());
    let rows = jobs!("select", "from backfill_jobs where id in (select value from json_each(?1))", ids);
    let mut rows: HashMap<i64, Job> =
        rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, Job::from(row))).collect();
    let all = told.len();
    let stored: Vec<Job> = told.iter().filter_map(|job| rows.remove(&job.id.number())).collect();
    match told.iter().find(|job| stored.iter().all(|there| there.id != job.id)) {
        Some(missing) if stored.len() < all => Err(left_out(&missing.task, all - stored.len(), all)),
        _ => Ok(stored),
    }
}

fn names(names: BTreeSet<&str>) -> String {
    Value::from_iter(names).to_string()
}

pub(crate) async fn name_tasks(connection: &mut SqliteConnection, names: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into backfill_tasks (name) select value from json_each(?1) where true on conflict do nothing",
        names
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn name_queues(connection: &mut SqliteConnection, names: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into backfill_queues (name) select value from json_each(?1) where true on conflict do nothing",
        names
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The highest number that a job ever had.
async fn last_id(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    // An aggregate, because the checker stumbles over the column itself, which has no declared type.
    sqlx::query_scalar!(
        r#"select coalesce(max(seq), 0) as "seq!: i64" from sqlite_sequence where name = 'backfill_jobs'"#
    )
    .fetch_one(connection)
    .await
}

/// Stores the jobs without keys at these places of the batch.
async fn store_plain(
    connection: &mut SqliteConnection,
    batch: &[NewJob],
    places: &[usize],
    moment: impl Fn(usize) -> i64,
    stored: &mut [Option<Job>],
) -> sqlx::Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    // The numbers are given here: nobody else writes meanwhile, and the rows need not be answered.
    let mut id = last_id(connection).await?;
    let mut rows = Vec::with_capacity(places.len());
    for place in places {
        id += 1;
        let (new, now) = (&batch[*place], moment(*place));
        let job = new.stored(id, new.due(time(now)), time(now));
        rows.push(new_one(&job));
        stored[*place] = Some(job);
    }
    let inserted = insert_new_ones(connection, rows).await?;
    let inserted = usize::try_from(inserted).unwrap_or(usize::MAX);
    if inserted < places.len() {
        return Err(left_out(&batch[places[0]].task, places.len() - inserted, batch.len()));
    }
    Ok(())
}

/// What happens to a job with a key depends on the job that has it: see [`JobKeyMode`].
async fn store_keyed(connection: &mut SqliteConnection, new: &NewJob, now: i64) -> sqlx::Result<Job> {
    let holder = jobs!("select", "from backfill_jobs where key = ?1", new.key)
        .fetch_optional(&mut *connection)
        .await?
        .map(Job::from);
    let Some(holder) = holder else { return store_alone(connection, new, now).await };
    if new.key_mode == JobKeyMode::UnsafeDedupe {
        let row = jobs!(
            "update backfill_jobs set revision = revision + 1, updated_at = ?2 where id = ?1 returning",
            "",
            holder.id.number(),
            now
        );
        return row.fetch_optional(connection).await?.map(Job::from).ok_or_else(|| left_out(&new.task, 1, 1));
    }
    if holder.locked_at.is_none() && holder.attempts < holder.max_attempts {
        return replace(connection, holder, new, now).await;
    }
    // It runs or is dead: it gives its key up and will not run again.
    sqlx::query!(
        r#"
update backfill_jobs set key = null, attempts = max_attempts, updated_at = max(?2, coalesce(locked_at, 0) + 1)
where id = ?1
"#,
        holder.id.number(),
        now
    )
    .execute(&mut *connection)
    .await?;
    store_alone(connection, new, now).await
}

/// Stores one job, whose key, if it has one, nobody has.
async fn store_alone(connection: &mut SqliteConnection, new: &NewJob, now: i64) -> sqlx::Result<Job> {
    let id = last_id(connection).await? + 1;
    let job = new.stored(id, new.due(time(now)), time(now));
    if insert_new(connection, &job).await? == 0 { Err(left_out(&new.task, 1, 1)) } else { Ok(job) }
}

/// A waiting job takes over everything from the new one.
async fn replace(connection: &mut SqliteConnection, mut job: Job, new: &NewJob, now: i64) -> sqlx::Result<Job> {
    new.meets(&mut job, time(now));
    let row = update_replaced(&mut *connection, &job).await?.ok_or_else(|| left_out(&new.task, 1, 1))?;
    // It may be ready now, and nothing was added by which others would notice.
    wake(connection, 1).await?;
    Ok(Job::from(row))
}
