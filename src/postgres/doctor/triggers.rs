//! Triggers of the user's that stand between a job and its worker.

use super::{Findings, Seen};
use crate::postgres::PostgresStorage;
use crate::postgres::connection::row::Text;

impl PostgresStorage {
    /// Whether triggers let jobs be claimed and deleted: that is tried with the first ready ones, and undone.
    pub(super) async fn triggers(&self) -> Findings {
        let fail = |e| self.database.error("try what triggers do", e);
        // Bits of tgtype: 1 for each row, 2 before, 8 delete, 16 update.
        let names = sqlx::query_scalar!(
            r#"
select trigger.tgname::text as "name!: Text"
from pg_catalog.pg_trigger trigger
where trigger.tgrelid = 'graphile_worker._private_jobs'::regclass
  and not trigger.tgisinternal
  and trigger.tgenabled <> 'D'
  and trigger.tgtype::integer & 3 = 3
  and trigger.tgtype::integer & 24 <> 0
  -- As in `jobs!`.
  and (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
order by 1
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        if names.is_empty() {
            return Ok(Seen::fine("no trigger stands between a job and its worker"));
        }
        let names: Vec<String> = names.into_iter().map(|name| format!("{:?}", name.text)).collect();
        let names = names.join(", ");
        let mut tx = self.database.transaction().await?;
        // Locking: what somebody else has locked is passed by, and what is locked here is free again in a moment.
        let claims = sqlx::query!(
            r#"
with ready as materialized (
  select job.id
  from graphile_worker._private_jobs job
  where job.is_available = true and job.run_at <= now()
  order by job.priority, job.run_at
  limit 100
  for update skip locked
),
claimed as (
  update graphile_worker._private_jobs job
  set attempts = job.attempts + 1, locked_by = 'backfill doctor', locked_at = now()
  where job.id = any (array(select ready.id from ready))
  returning job.id
)
select (select count(*) from ready) as "ready!", array(select claimed.id from claimed) as "claimed!"
"#
        )
        .fetch_one(self.database.schema.on(&mut *tx))
        .await
        .map_err(fail)?;
        let deleted =
            sqlx::query!("delete from graphile_worker._private_jobs job where job.id = any ($1)", &claims.claimed)
                .execute(self.database.schema.on(&mut *tx))
                .await
                .map_err(fail)?
                .rows_affected();
        tx.rollback().await.map_err(fail)?;
        let mut seen = Seen::fine(match claims.ready {
            0 => format!("triggers stand there ({names}), and no job is ready to try them with"),
            ready => format!("triggers ({names}) let jobs be taken and done, as {ready} were for a moment"),
        });
        let claimed = i64::try_from(claims.claimed.len()).unwrap_or(i64::MAX);
        if claimed < claims.ready {
            let kept = claims.ready - claimed;
            seen = seen.problem(
                format!(
                    "a trigger keeps {kept} of {} ready jobs from being taken ({names}): it returns null before the update",
                    claims.ready
                ),
                "let it return new where locked_by changes, or raise an exception that says why",
            );
        }
        if deleted < claims.claimed.len() as u64 {
            let kept = claims.claimed.len() as u64 - deleted;
            seen = seen.problem(
                format!(
                    "a trigger keeps {kept} of {} jobs from being deleted when they are done ({names}): it returns null before the \
                     delete",
                    claims.claimed.len()
                ),
                "let it return old, or raise an exception that says why; such jobs stay held, and run again later",
            );
        }
        Ok(seen)
    }
}
