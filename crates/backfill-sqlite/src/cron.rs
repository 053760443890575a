//! The gate through which crontabs add their jobs.

use std::sync::Arc;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::Job;
use backfill_core::storage::{DueJob, KnownCrontab, Schedules};
use chrono::{DateTime, Utc};

use crate::SqliteStorage;
use crate::add::store;
use crate::errors::failed;
use crate::file::{micros, time};
use crate::row::Text;

#[async_trait]
impl Schedules for SqliteStorage {
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        let rows = sqlx::query!(
            r#"
select identifier as "identifier!: Text", known_since as "known_since!: i64", last_execution as "last_execution?: i64"
from backfill_crontabs
order by identifier
"#
        )
        .fetch_all(&mut *self.file.read("read the known crontab entries").await?)
        .await
        .map_err(failed("read the known crontab entries"))?;
        let known = rows
            .into_iter()
            .map(|row| KnownCrontab::new(row.identifier.text, time(row.known_since), row.last_execution.map(time)));
        Ok(known.collect())
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        let (identifiers, since) = (crate::json(identifiers.to_vec()), micros(since));
        self.file
            .writer
            .write("register crontab entries", move |connection| {
                Box::pin(async move {
                    sqlx::query!(
                        r#"
insert into backfill_crontabs (identifier, known_since)
select value, ?2 from json_each(?1) where true
on conflict do nothing
"#,
                        identifiers,
                        since
                    )
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        let (clock, moment, due) = (Arc::clone(self.file.clock()), micros(moment), due.to_vec());
        let added = self
            .file
            .writer
            .write("add the jobs of the crontab", move |connection| {
                Box::pin(async move {
                    let mut added = Vec::with_capacity(due.len());
                    for due in due {
                        // Whoever moves an entry's last execution forward adds its job, in the same transaction.
                        let won = sqlx::query!(
                            r#"
insert into backfill_crontabs (identifier, known_since, last_execution) values (?1, ?2, ?2)
on conflict (identifier) do update set last_execution = excluded.last_execution
where last_execution is null or last_execution < excluded.last_execution
"#,
                            due.identifier,
                            moment
                        )
                        .execute(&mut *connection)
                        .await?
                        .rows_affected();
                        added.push(if won > 0 { store(&clock, connection, &[due.job]).await?.pop() } else { None });
                    }
                    Ok(added)
                })
            })
            .await?;
        if added.iter().any(Option::is_some) {
            self.file.tell();
        }
        Ok(added)
    }
}
