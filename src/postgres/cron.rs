//! The gate through which crontabs add their jobs.

use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::PostgresStorage;
use super::connection::rights::Need;
use super::connection::row::{Text, Timestamp};
use crate::error::{Error, Result};
use crate::job::{Job, NewJob};
use crate::storage::{DueJob, KnownCrontab, Schedules};

#[async_trait]
impl Schedules for PostgresStorage {
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        self.database.explained(Need::Read, self.read_known_crontabs().await).await
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.database.retrying(|| self.insert_known_crontabs(identifiers, since)).await
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        self.database.retrying(|| self.add_due_jobs(moment, due)).await
    }
}

impl PostgresStorage {
    pub(super) async fn read_known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        let rows = sqlx::query!(
            r#"
select
  known.identifier as "identifier!: Text",
  known.known_since as "known_since: Timestamp",
  known.last_execution as "last_execution: Timestamp"
from graphile_worker._private_known_crontabs known
-- As in `jobs!`.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by known.identifier
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("read the known crontab entries", e))?;
        let known = rows.into_iter().map(|row| {
            KnownCrontab::new(row.identifier.text, row.known_since.0, row.last_execution.map(|time| time.0))
        });
        Ok(known.collect())
    }

    pub(super) async fn insert_known_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        sqlx::query!(
            r#"
insert into graphile_worker._private_known_crontabs (identifier, known_since)
select new.identifier, $2
from unnest($1::text[]) as new (identifier)
on conflict do nothing
"#,
            identifiers,
            since,
        )
        .execute(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("register crontab entries", e))?;
        Ok(())
    }

    pub(super) async fn add_due_jobs(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        let fail = |e| self.database.error("add the jobs of the crontab", e);
        let identifiers: Vec<String> = due.iter().map(|due| due.identifier.clone()).collect();
        let mut tx = self.database.transaction().await?;
        // The gate. Whoever moves an entry's last execution forward may add its job; the row stays locked until that job is
        // committed with it. The rows are locked in the order of the crontab, as Node does, so that two workers with the same
        // file do not deadlock.
        let won: HashSet<String> = sqlx::query_scalar!(
            r#"
insert into graphile_worker._private_known_crontabs as known (identifier, known_since, last_execution)
select due.identifier, $2, $2
from unnest($1::text[]) with ordinality as due (identifier, place)
order by due.place
on conflict (identifier) do update
set last_execution = excluded.last_execution
where known.last_execution is null or known.last_execution < excluded.last_execution
returning known.identifier
"#,
            &identifiers,
            moment,
        )
        .fetch_all(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?
        .into_iter()
        .collect();
        let mut added: Vec<Option<Job>> = due.iter().map(|_| None).collect();
        let winners: Vec<usize> = (0..due.len()).filter(|place| won.contains(&due[*place].identifier)).collect();
        for batch in without_repeated_keys(&winners, due) {
            let jobs: Vec<NewJob> = batch.iter().map(|place| due[*place].job.clone()).collect();
            let stored = self.add_chunks(&mut tx, &jobs).await?;
            for (place, job) in batch.into_iter().zip(stored) {
                added[place] = Some(job);
            }
        }
        tx.commit().await.map_err(fail)?;
        if winners.iter().any(|place| added[*place].is_none()) {
            return Err(Error::Internal("a job of the crontab was not paired with its entry".to_owned()));
        }
        Ok(added)
    }
}

/// Splits a batch wherever a key comes again: the second job is to find the first one there.
fn without_repeated_keys(places: &[usize], due: &[DueJob]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut keys = HashSet::new();
    for place in places {
        let repeated = due[*place].job.key.as_ref().is_some_and(|key| !keys.insert(key));
        if repeated {
            keys.clear();
            keys.extend(due[*place].job.key.as_ref());
        }
        match batches.last_mut() {
            Some(batch) if !repeated => batch.push(*place),
            _ => batches.push(vec![*place]),
        }
    }
    batches
}
