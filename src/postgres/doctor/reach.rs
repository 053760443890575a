//! What this role may do, and whether notifications arrive.

use std::time::Duration;

use sqlx::Acquire;
use sqlx::postgres::PgListener;

use super::{Findings, POLL, Seen};
use crate::postgres::PostgresStorage;

/// How long a notification may take.
const MAX_WAIT: Duration = Duration::from_secs(3);

impl PostgresStorage {
    pub(super) async fn privileges(&self) -> Findings {
        let rows = sqlx::query!(
            r#"
select
  rel.relname::text as "table!",
  (
    select string_agg(wanted, ', ')
    from unnest(array['select', 'insert', 'update', 'delete']) as wanted
    where not has_table_privilege(rel.oid, wanted)
  ) as missing
from pg_class rel
where rel.relnamespace = (select oid from pg_namespace where nspname = $1)
  and rel.relname in (
    '_private_jobs', '_private_job_queues', '_private_tasks', '_private_known_crontabs', 'backfill_pools'
  )
order by 1
"#,
            self.database.schema.name(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look at privileges", e))?;
        let (schema, role) = (self.database.schema.quoted(), self.role());
        let mut seen = Seen::fine("this role may do what a worker does");
        for row in rows {
            if let Some(missing) = row.missing {
                seen = seen.problem(
                    format!("this role may not {missing} in the table {}", row.table),
                    format!("grant {missing} on {schema}.\"{}\" to {role};", row.table),
                );
            }
        }
        for hidden in self.database.hidden_rows().await? {
            let table = &hidden.table;
            let problem = if hidden.commands.iter().any(|command| command == "select") {
                format!("row security hides every row of the table {table} from this role")
            } else {
                format!("row security keeps this role from each {} in the table {table}", hidden.commands.join(" and "))
            };
            seen = seen.problem(problem, hidden.remedy());
        }
        let functions = sqlx::query_scalar!(
            r#"
select fn.proname::text as "name!"
from pg_proc fn
where fn.pronamespace = (select oid from pg_namespace where nspname = $1)
  and not has_function_privilege(fn.oid, 'execute')
order by 1
"#,
            self.database.schema.name(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look at privileges", e))?;
        if !functions.is_empty() {
            seen = seen.problem(
                format!("this role may not execute {}", functions.join(", ")),
                format!("grant execute on all functions in schema {schema} to {role};"),
            );
        }
        Ok(seen)
    }

    /// Listens as a worker does, and notifies as an enqueuer does. Behind a pooler that hands out connections by the
    /// transaction, `LISTEN` seems to work, and nothing ever arrives.
    pub(super) async fn notifications(&self) -> Findings {
        let fail = |e| self.database.error("listen", e);
        let channel = format!("backfill:doctor:{:016x}", fastrand::u64(..));
        let mut listener = PgListener::connect_with(&self.database.pool).await.map_err(fail)?;
        listener.eager_reconnect(false);
        if self.database.is_transaction_pooled(listener.acquire().await.map_err(fail)?).await.map_err(fail)? {
            let pooled =
                "a pooler in transaction mode stands between: LISTEN does not work on this way to the database";
            return Ok(Seen::fine("").problem(pooled, POLL));
        }
        listener.listen(&channel).await.map_err(fail)?;
        // Through the pool, as from another program; in its own time, so that a pooler may give the connection away.
        sqlx::query!("select pg_notify($1, '')", channel)
            .execute(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("notify", e))?;
        let heard = tokio::time::timeout(MAX_WAIT, listener.try_recv()).await;
        let seen = Seen::fine("notifications arrive");
        if matches!(heard, Ok(Ok(Some(_)))) {
            return Ok(seen);
        }
        Ok(seen.problem(
            format!(
                "a notification did not arrive within {MAX_WAIT:?}: LISTEN does not work on this way to the database"
            ),
            POLL,
        ))
    }

    fn role(&self) -> String {
        format!("\"{}\"", self.database.pool.connect_options().get_username().replace('"', "\"\""))
    }
}
