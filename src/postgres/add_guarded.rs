//! Storing jobs where a trigger stands guard: one of the user's, which may change each row before it is stored, or leave it out.
//!
//! What was stored is told as it was stored. A row that was left out fails the call, and nothing of it is stored: nobody can be
//! told of a job that is not there. All of it goes through the one statement that answers whole rows, in the order of its input,
//! which is how rows are paired with inputs of which nothing may be left, not even the key.

use std::collections::HashMap;

use sqlx::{Connection, PgConnection};

use super::PostgresStorage;
use super::add::{Columns, chunks};
use super::connection::row::jobs;
use crate::error::{Error, Result};
use crate::job::{Job, JobKeyMode, NewJob};

/// How often rows that are missing are tried again: the job that has their key may have been claimed at that moment.
const ROUNDS: usize = 3;

impl PostgresStorage {
    /// Whether a trigger may change rows, or leave them out, before they are stored.
    pub(super) async fn is_guarded(&self, conn: &mut PgConnection) -> Result<bool> {
        sqlx::query_scalar!(
            r#"
select exists (
  select from pg_catalog.pg_trigger trigger
  where trigger.tgrelid = 'graphile_worker._private_jobs'::regclass
    and trigger.tgenabled <> 'D'
    and trigger.tgtype::integer & 3 = 3
    and trigger.tgtype::integer & 20 <> 0
) as "stands!"
"#
        )
        .fetch_one(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("look for triggers", e))
    }

    /// Stores the jobs at these places of the batch, and puts the stored ones at the same places.
    pub(super) async fn add_guarded(
        &self,
        conn: &mut PgConnection,
        batch: &[NewJob],
        mode: Option<JobKeyMode>,
        places: &[usize],
        stored: &mut [Option<Job>],
    ) -> Result<()> {
        let fail = |e| self.database.error("store jobs", e);
        let mut tx = conn.begin().await.map_err(fail)?;
        for chunk in chunks(batch, places) {
            self.add_guarded_chunk(&mut tx, batch, mode, chunk, stored).await?;
            self.read_stored(&mut tx, chunk, stored).await?;
        }
        tx.commit().await.map_err(fail)
    }

    async fn add_guarded_chunk(
        &self,
        conn: &mut PgConnection,
        batch: &[NewJob],
        mode: Option<JobKeyMode>,
        places: &[usize],
        stored: &mut [Option<Job>],
    ) -> Result<()> {
        let mut missing = places.to_vec();
        let mut left_out = 0;
        for round in 0..ROUNDS {
            let input = Columns::of(batch, &missing);
            // The names in statements of their own, so that no row is missing because another transaction is the first to use one. (A
            // single row that is missing can be tried again.)
            if missing.len() > 1 || round > 0 {
                self.name_tasks(conn, &input.task).await?;
                self.name_queues(conn, &input.queue).await?;
            }
            let rows = self.add_statement(conn, &input, mode.unwrap_or(JobKeyMode::Replace), true).await?;
            left_out = missing.len() - rows.len().min(missing.len());
            if left_out == 0 {
                for (place, job) in missing.drain(..).zip(rows) {
                    stored[place] = Some(job);
                }
                return Ok(());
            }
            // Of several rows only a key tells which one is there.
            let is_told = missing.len() == 1 || (mode.is_some() && pair_by_key(batch, &mut missing, rows, stored));
            if !is_told {
                break;
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(place) => Err(Error::LeftOut { task: batch[*place].task.clone(), jobs: left_out, of: places.len() }),
        }
    }

    /// Reads the stored jobs at these places as they are now: a trigger may have made names that the statement which stored them
    /// could not see.
    async fn read_stored(&self, conn: &mut PgConnection, places: &[usize], stored: &mut [Option<Job>]) -> Result<()> {
        let ids: Vec<i64> =
            places.iter().filter_map(|place| stored[*place].as_ref()).map(|job| job.id.number()).collect();
        let rows = jobs!(
            "-- Jobs that this transaction has stored.",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where job.id = any ($1)
"#,
            &ids,
        )
        .fetch_all(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("read the stored jobs", e))?;
        let mut rows: HashMap<i64, Job> = rows.into_iter().map(|row| (row.id, Job::from(row))).collect();
        for place in places {
            // (A job of no task at all, which a trigger can make too, stays as it is.)
            if let Some(row) = stored[*place].as_ref().and_then(|job| rows.remove(&job.id.number())) {
                stored[*place] = Some(row);
            }
        }
        Ok(())
    }

    /// Names tasks that are not named yet.
    pub(super) async fn name_tasks(&self, conn: &mut PgConnection, tasks: &[&str]) -> Result<()> {
        sqlx::query!(
            r#"
insert into graphile_worker._private_tasks (identifier)
select distinct wanted from unnest($1::text[]) as wanted
where not exists (select from graphile_worker._private_tasks known where known.identifier = wanted)
order by 1
on conflict do nothing
"#,
            tasks as &[&str],
        )
        .execute(self.database.schema.on(conn))
        .await
        .map(|_| ())
        .map_err(|e| self.database.error("name tasks", e))
    }

    /// Names queues that are not named yet.
    pub(super) async fn name_queues(&self, conn: &mut PgConnection, queues: &[Option<&str>]) -> Result<()> {
        sqlx::query!(
            r#"
insert into graphile_worker._private_job_queues (queue_name)
select distinct wanted from unnest($1::text[]) as wanted
where wanted is not null
  and not exists (select from graphile_worker._private_job_queues known where known.queue_name = wanted)
order by 1
on conflict do nothing
"#,
            queues as &[Option<&str>],
        )
        .execute(self.database.schema.on(conn))
        .await
        .map(|_| ())
        .map_err(|e| self.database.error("name queues", e))
    }
}

/// Puts each row at the place whose key it has; `false` if one has a key that nobody gave.
fn pair_by_key(batch: &[NewJob], missing: &mut Vec<usize>, rows: Vec<Job>, stored: &mut [Option<Job>]) -> bool {
    let places: HashMap<&str, usize> =
        missing.iter().filter_map(|place| batch[*place].key.as_deref().map(|key| (key, *place))).collect();
    for job in rows {
        let Some(place) = job.key.as_deref().and_then(|key| places.get(key)) else { return false };
        stored[*place] = Some(job);
    }
    missing.retain(|place| stored[*place].is_none());
    true
}
