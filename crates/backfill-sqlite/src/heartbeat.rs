//! Heartbeats, rescue, and locks that are released.
//!
//! All processes are on one machine and go by its clock. When that jumps, or the machine was asleep, everybody looks dead for a
//! while; so a worker that looks dead is looked at again after longer than a heartbeat takes, and must not have sent one. And while somebody holds
//! the file's lock, nobody can: who had to wait for it gives the others time.

use std::sync::Arc;
use std::time::Duration;

use backfill_core::Result;
use backfill_core::job::JobId;
use backfill_core::storage::{Registration, Rescued, Watch, WorkerId, WorkerStatus};
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::add::name_tasks;

/// Graphile's rule: a lock this old is no lock.
pub(crate) const STALE: i64 = 4 * 3600 * 1_000_000;
/// Of `dead_after`, the time between the two looks: longer than a third, in which a heartbeat is due.
const SECOND_LOOK: f64 = 0.4;
/// But no longer than this.
const SECOND_LOOK_WITHIN: Duration = Duration::from_secs(6);
/// So long may beginning a transaction take on a busy machine without anybody holding the lock.
const BUSY_MACHINE: Duration = Duration::from_millis(200);

/// Microseconds, as times are; so many at the most that nothing overflows.
fn in_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

impl SqliteStorage {
    pub(crate) async fn register_worker(&self, registration: &Registration<'_>) -> Result<bool> {
        let (clock, worker) = (Arc::clone(self.file.clock()), registration.worker.to_string());
        let tasks = crate::json(registration.tasks.to_vec());
        let (dead_after, in_place) = (registration.dead_after.map(in_micros), registration.in_place);
        self.file
            .writer
            .write("register a worker", move |connection| {
                Box::pin(async move {
                    name_tasks(connection, &tasks).await?;
                    let now = clock.now();
                    let shown = sqlx::query!(
                        r#"
insert into backfill_pools (id, started_at, seen_at, dead_after, serves, in_place) values (?1, ?2, ?2, ?3, ?4, ?5)
on conflict do nothing
"#,
                        worker,
                        now,
                        dead_after,
                        tasks,
                        in_place
                    )
                    .execute(connection)
                    .await?;
                    Ok(shown.rows_affected() > 0)
                })
            })
            .await
    }

    pub(crate) async fn serve_tasks(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        let (worker, tasks) = (worker.to_string(), crate::json(tasks.to_vec()));
        self.file
            .writer
            .write("tell the tasks of a worker", move |connection| {
                Box::pin(async move {
                    name_tasks(connection, &tasks).await?;
                    let shown = sqlx::query!("update backfill_pools set serves = ?2 where id = ?1", worker, tasks)
                        .execute(connection)
                        .await?;
                    Ok(shown.rows_affected() > 0)
                })
            })
            .await
    }

    pub(crate) async fn write_heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        let (clock, worker) = (Arc::clone(self.file.clock()), worker.to_string());
        self.file
            .writer
            .write("send a heartbeat", move |connection| {
                Box::pin(async move {
                    let now = clock.now();
                    let shown = sqlx::query!("update backfill_pools set seen_at = ?2 where id = ?1", worker, now)
                        .execute(connection)
                        .await?;
                    Ok(shown.rows_affected() > 0)
                })
            })
            .await
    }

    pub(crate) async fn write_status(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        let (worker, status) = (worker.to_string(), status.to_text());
        self.file
            .writer
            .write("tell what a worker does", move |connection| {
                Box::pin(async move {
                    sqlx::query!("update backfill_pools set status = ?2 where id = ?1", worker, status)
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .await
    }

    pub(crate) async fn remove_registration(&self, worker: &WorkerId) -> Result<()> {
        let worker = worker.to_string();
        let released = self
            .file
            .writer
            .write("deregister a worker", move |connection| {
                Box::pin(async move {
                    sqlx::query!("delete from backfill_pools where id = ?1", worker).execute(&mut *connection).await?;
                    release_claims(connection, &worker, &[]).await
                })
            })
            .await?;
        self.tell_if(released);
        Ok(())
    }

    pub(crate) async fn release_untracked_jobs(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        // A lost claim was handed to the thread that writes before this, which does one thing after the other.
        let (worker, holds) = (worker.to_string(), holds.to_vec());
        let released = self
            .file
            .writer
            .write("release jobs", move |connection| {
                Box::pin(async move { release_claims(connection, &worker, &holds).await })
            })
            .await?;
        self.tell_if(released);
        Ok(released)
    }

    pub(crate) async fn release_stale_locks(&self) -> Result<u64> {
        let clock = Arc::clone(self.file.clock());
        let released = self
            .file
            .writer
            .write("release stale locks", move |connection| {
                Box::pin(async move {
                    let now = clock.now();
                    let limit = now - STALE;
                    let queues = sqlx::query!(
                        r#"
update backfill_queues set locked_at = null, locked_by = null
where locked_at < ?1 and not exists (select 1 from backfill_pools pool where pool.id = backfill_queues.locked_by)
"#,
                        limit
                    )
                    .execute(&mut *connection)
                    .await?
                    .rows_affected();
                    let released = sqlx::query!(
                        r#"
update backfill_jobs indexed by backfill_jobs_held set locked_at = null, locked_by = null, run_at = max(run_at, ?2)
where locked_by is not null
  and locked_at < ?1
  -- A worker that sends heartbeats still works on it; one that does not is the rescuer's business.
  and not exists (select 1 from backfill_pools pool where pool.id = backfill_jobs.locked_by)
"#,
                        limit,
                        now
                    )
                    .execute(&mut *connection)
                    .await?
                    .rows_affected();
                    wake(connection, released.max(queues.min(1))).await?;
                    Ok(released)
                })
            })
            .await?;
        self.tell_if(released);
        Ok(released)
    }

    pub(crate) async fn rescue_workers(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let (clock, waited) = (Arc::clone(self.file.clock()), self.file.writer.waited());
        let dead_after = watch.dead_after;
        let (dead_after_micros, contact) = (in_micros(dead_after), in_micros(watch.contact));
        // The cheap look first: nearly always no worker is dead, and then nothing is written or locked. It comes early, so that the
        // second is in time.
        let pause = dead_after.mul_f64(SECOND_LOOK).min(SECOND_LOOK_WITHIN);
        let soon = self.file.now().saturating_add(in_micros(pause));
        let dead = sqlx::query_scalar!(
            r#"
select count(*) as "count!: i64"
from backfill_pools
where seen_at < ?1 - max(?2, coalesce(dead_after, 0)) and max(?2, coalesce(dead_after, 0)) <= ?3
"#,
            soon,
            dead_after_micros,
            contact
        )
        .fetch_one(&mut *self.file.read("look for dead workers").await?)
        .await
        .map_err(crate::errors::failed("look for dead workers"))?;
        if dead == 0 {
            return Ok(Vec::new());
        }
        tokio::time::sleep(pause).await;
        let rescued = self
            .file
            .writer
            .write("rescue the jobs of dead workers", move |connection| {
                Box::pin(async move {
                    if waited.time() > (dead_after / 4).max(BUSY_MACHINE) {
                        // Somebody held the file's lock: the others could not send a heartbeat either, and do so now.
                        return Ok(Vec::new());
                    }
                    let now = clock.now();
                    let dead = sqlx::query!(
                        r#"
delete from backfill_pools
where seen_at < ?1 - max(?2, coalesce(dead_after, 0)) and max(?2, coalesce(dead_after, 0)) <= ?3
returning cast(id as blob) as "id!: Vec<u8>", in_place as "in_place!: bool"
"#,
                        now,
                        dead_after_micros,
                        contact
                    )
                    .fetch_all(&mut *connection)
                    .await?;
                    let mut rescued = Vec::new();
                    for row in dead {
                        // Told as text, whatever bytes it is.
                        let worker = String::from_utf8_lossy(&row.id).into_owned();
                        let error = Rescued::last_error(&worker);
                        let back = if row.in_place { Back::InPlace } else { Back::NotBefore(now) };
                        let jobs = release(connection, &row.id, back, Some(&error)).await?;
                        rescued.push(Rescued { worker, jobs });
                    }
                    Ok(rescued)
                })
            })
            .await?;
        self.tell_if(rescued.iter().map(|worker| worker.jobs).sum());
        Ok(rescued)
    }

    pub(crate) async fn unlock_workers(&self, workers: &[String]) -> Result<u64> {
        let workers = workers.to_vec();
        let released = self
            .file
            .writer
            .write("unlock workers", move |connection| {
                Box::pin(async move {
                    let mut released = 0;
                    for worker in workers {
                        // Whoever is unlocked counts as dead: one that is alive all the same notices, as after a rescue.
                        sqlx::query!("delete from backfill_pools where id = ?1", worker)
                            .execute(&mut *connection)
                            .await?;
                        released += release(connection, worker.as_bytes(), Back::InPlace, None).await?;
                    }
                    Ok(released)
                })
            })
            .await?;
        self.tell_if(released);
        Ok(released)
    }

    fn tell_if(&self, released: u64) {
        if released > 0 {
            self.cursor.forget();
            self.file.tell();
        }
    }
}

/// Releases the jobs that a worker holds, but for some. The attempt is given back too, unless the job's key was taken over since the
/// claim; that one must stay unavailable. A takeover leaves no key, all attempts used, and a moment of change after the claim's.
async fn release_claims(connection: &mut SqliteConnection, worker: &str, but: &[JobId]) -> sqlx::Result<u64> {
    let but = crate::json(JobId::numbers(but));
    let queues = sqlx::query!(
        r#"
update backfill_queues set locked_at = null, locked_by = null
where locked_by = ?1
  and exists (
    select 1
    from backfill_jobs job
    where job.locked_by = ?1
      and job.queue = backfill_queues.name
      and job.locked_at = backfill_queues.locked_at
      and job.id not in (select value from json_each(?2))
  )
"#,
        worker,
        but
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let released = sqlx::query!(
        r#"
update backfill_jobs set
  attempts = case
    when key is null and attempts >= max_attempts and updated_at > locked_at then attempts
    else max(attempts - 1, 0)
  end,
  locked_at = null,
  locked_by = null
where locked_by = ?1 and id not in (select value from json_each(?2))
"#,
        worker,
        but
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    // A queue may be held by whoever holds no job of it.
    wake(connection, released.max(queues.min(1))).await?;
    Ok(released)
}

/// Where jobs come back to.
#[derive(Clone, Copy)]
enum Back {
    /// Where they stood.
    InPlace,
    /// This time or later; those that have died with a worker before come back apart from each other (`Rescued::spread`).
    NotBefore(i64),
}

/// Releases everything that a worker holds. Its id is given as the bytes that are stored: one that is
/// no text must keep nobody from being rescued.
async fn release(
    connection: &mut SqliteConnection,
    worker: &[u8],
    back: Back,
    error: Option<&str>,
) -> sqlx::Result<u64> {
    let earliest = if let Back::NotBefore(earliest) = back { Some(earliest) } else { None };
    let queues = sqlx::query!(
        "update backfill_queues set locked_at = null, locked_by = null where locked_by = cast(?1 as text)",
        worker
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let released = sqlx::query!(
        r#"
update backfill_jobs set
  locked_at = null,
  locked_by = null,
  run_at = max(run_at, coalesce(?2, run_at)) + case
    when ?2 is null or attempts <= 1 then 0
    else abs(random() % case attempts when 2 then 14778112 when 3 then 40171074 when 4 then 109196300 when 5 then 296826318
      else 600000000 end)
  end,
  last_error = coalesce(?3, last_error)
where locked_by = cast(?1 as text)
"#,
        worker,
        earliest,
        error
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    // A queue may be held by whoever holds no job of it.
    wake(connection, released.max(queues.min(1))).await?;
    Ok(released)
}

/// Lets listeners, those of other processes too, notice that waiting jobs were made ready. Not new ones: their numbers tell. But these
/// may stand where claims have passed by.
pub(crate) async fn wake(connection: &mut SqliteConnection, jobs: u64) -> sqlx::Result<()> {
    if jobs > 0 {
        let jobs = i64::try_from(jobs).unwrap_or(i64::MAX);
        sqlx::query!("update backfill_wakeups set count = count + ?1", jobs).execute(connection).await?;
    }
    Ok(())
}
