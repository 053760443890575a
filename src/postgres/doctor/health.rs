//! What builds up over time.

use chrono::Utc;

use super::{Findings, Seen, UNREAD};
use crate::error::Error;
use crate::postgres::PostgresStorage;
use crate::postgres::connection::row::Text;
use crate::storage::Storage;

/// A transaction older than this keeps vacuum from removing what was deleted since.
const OLD_TRANSACTION_SECONDS: f64 = 300.0;
/// Fewer dead rows than this are no trouble, whatever their share.
const MANY_DEAD_ROWS: i64 = 50_000;
/// A table of fewer rows is planned well without statistics.
const MANY_ROWS: i64 = 10_000;
/// Longer ago than the usual 15 seconds and a check by others every 5.
const LAST_SEEN_SECONDS: f64 = 30.0;
const CLOCK_SECONDS: i64 = 5;

impl PostgresStorage {
    pub(super) async fn clock(&self) -> Findings {
        let before = Utc::now();
        let server = self.now().await?;
        // Whatever the way took, the server's time lies between these two if the clocks agree.
        let after = Utc::now();
        let off = if server < before { server - before } else { (server - after).max(chrono::TimeDelta::zero()) };
        let seen = Seen::fine("this machine's clock and the server's agree");
        if off.abs().num_seconds() < CLOCK_SECONDS {
            return Ok(seen);
        }
        Ok(seen.problem(
            format!("the server's clock and this machine's differ by {} s", off.num_seconds()),
            "let both machines follow NTP: crontabs go by the worker's clock, jobs by the server's",
        ))
    }

    /// `own` says whether our own objects are there, of which one is the table of workers; `reads_jobs` whether there is time to read all jobs.
    pub(super) async fn locks(&self, own: bool, reads_jobs: bool) -> Findings {
        let fail = |e| self.database.error("look at locks", e);
        let rows = sqlx::query!(
            r#"
select lock.locked_by as "worker!: Text", count(*) as "locks!"
from (
  select job.locked_by, job.locked_at from graphile_worker._private_jobs job where job.locked_at is not null and $1
  union all
  select queue.locked_by, queue.locked_at from graphile_worker._private_job_queues queue where queue.locked_at is not null
) as lock
where lock.locked_at < now() - interval '4 hours'
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
group by lock.locked_by
order by 1
"#,
            reads_jobs,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        let mut seen = Seen::fine(if reads_jobs {
            "no lock is stale, and every registered worker was seen lately".to_owned()
        } else {
            format!("no queue's lock is stale, and every registered worker was seen lately; of jobs' locks: {UNREAD}")
        });
        for row in rows {
            seen = seen.problem(
                format!("{} locks of {} are older than four hours", row.locks, row.worker.text),
                format!("run a worker (it releases them within ten minutes), or `backfill unlock {}`", row.worker.text),
            );
        }
        if !own {
            return Ok(seen);
        }
        let dead = sqlx::query!(
            r#"
select pool.id as "id: Text", extract(epoch from clock_timestamp() - pool.seen_at)::float8 as "seconds!"
from graphile_worker.backfill_pools pool
-- A pool may ask for more time than others. (As JSON, because a schema that is not migrated yet has no such column.)
where pool.seen_at < clock_timestamp()
    - greatest(make_interval(secs => $1), (to_jsonb(pool) ->> 'dead_after')::interval * 1.5)
  and pool.seen_at > 'epoch'
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by pool.id
"#,
            LAST_SEEN_SECONDS,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        for row in dead {
            seen = seen.problem(
                format!(
                    "the worker {} was last seen {:.0} s ago, and no worker has released its jobs",
                    row.id.text, row.seconds
                ),
                format!("run a worker (it frees the jobs at once), or `backfill unlock {}`", row.id.text),
            );
        }
        let kept = sqlx::query_scalar!(
            r#"
select pool.id as "id: Text"
from graphile_worker.backfill_pools pool
where pool.seen_at = 'epoch'
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by pool.id
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        for Text { text: worker, .. } in kept {
            seen = seen.problem(
                format!("the worker {worker} is dead, and somebody's lock keeps jobs that it held from being freed"),
                format!(
                    "end the transaction that has locked them: select pid from pg_locks where mode = 'RowShareLock' and \
                     relation = '{}._private_jobs'::regclass;",
                    self.database.schema.quoted()
                ),
            );
        }
        Ok(seen)
    }

    pub(super) async fn orphans(&self) -> Findings {
        let row = sqlx::query!(
            r#"
select
  count(*) filter (where task.id is null) as "without_task!",
  count(*) filter (where job.job_queue_id is not null and queue.id is null) as "without_queue!"
from graphile_worker._private_jobs job
left join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
"#
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for orphans", e))?;
        let schema = self.database.schema.quoted();
        let mut seen = Seen::fine("every job has its task and its queue");
        if row.without_task > 0 {
            seen = seen.problem(
                format!("{} jobs belong to a task that was deleted; no worker ever fetches them", row.without_task),
                format!(
                    "delete them: delete from {schema}._private_jobs job where not exists \
                     (select from {schema}._private_tasks task where task.id = job.task_id);"
                ),
            );
        }
        if row.without_queue > 0 {
            seen = seen.problem(
                format!("{} jobs belong to a queue that was deleted; no worker ever fetches them", row.without_queue),
                format!(
                    "take them out of it: update {schema}._private_jobs job set job_queue_id = null where job_queue_id is not \
                     null and not exists (select from {schema}._private_job_queues queue where queue.id = job.job_queue_id);"
                ),
            );
        }
        Ok(seen)
    }

    /// Jobs with bytes that are no UTF-8, a thousand at most. Only a database whose encoding checks nothing can have them.
    async fn damaged_rows(&self) -> Result<Vec<i64>, Error> {
        let rows = sqlx::query!(
            r#"
select odd.id as "id!", odd.texts as "texts!: Text"
from (
  select job.id, concat_ws(' ', job.payload::text, job.key, job.last_error, job.flags::text) as texts
  from graphile_worker._private_jobs job
  where current_setting('server_encoding') = 'SQL_ASCII'
) as odd
where odd.texts ~ '[^\x01-\x7f]'
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by odd.id
limit 1000
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for rows that cannot be read", e))?;
        Ok(rows.into_iter().filter(|row| row.texts.is_damaged).map(|row| row.id).collect())
    }

    /// `reads_jobs` says whether there may be time to read each.
    pub(super) async fn rows(&self, reads_jobs: bool) -> Findings {
        let rows = sqlx::query!(
            r#"
select
  stat.relname::text as "table!",
  stat.n_live_tup as "live!",
  stat.n_dead_tup as "dead!",
  stat.last_vacuum is null and stat.last_autovacuum is null as "never_vacuumed!",
  stat.last_analyze is null and stat.last_autoanalyze is null as "never_analyzed!",
  pg_size_pretty(pg_total_relation_size(stat.relid)) as "size!"
from pg_stat_user_tables stat
where stat.schemaname = $1 and stat.relname in ('_private_jobs', '_private_job_queues', '_private_tasks')
order by 1
"#,
            self.database.schema.name(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look at the tables' statistics", e))?;
        let schema = self.database.schema.quoted();
        let sizes: Vec<String> = rows.iter().map(|row| format!("{} {}", row.table, row.size)).collect();
        let mut seen = Seen::fine(sizes.join(", "));
        let damaged = if reads_jobs { self.damaged_rows().await? } else { Vec::new() };
        if let Some(first) = damaged.first() {
            seen = seen.problem(
                format!("{} jobs hold bytes that are not valid UTF-8; the first is job {first}", damaged.len()),
                "such jobs are shown with replacement characters, and fail if it is their payload: update the rows, or delete them \
                 with `backfill complete`; a database in UTF-8 takes no such bytes",
            );
        }
        for row in rows {
            if row.dead > MANY_DEAD_ROWS && row.dead > row.live {
                seen = seen.problem(
                    format!(
                        "the table {} has {} dead rows beside {} live ones ({})",
                        row.table, row.dead, row.live, row.size
                    ),
                    format!(
                        "vacuum {schema}.\"{}\"; and if they come back, let autovacuum run more often: alter table \
                         {schema}.\"{}\" set (autovacuum_vacuum_scale_factor = 0.01)",
                        row.table, row.table
                    ),
                );
            }
            if row.never_analyzed && row.live > MANY_ROWS {
                seen = seen.problem(
                    format!(
                        "the table {} has {} rows and no statistics; claims may be planned badly",
                        row.table, row.live
                    ),
                    format!("analyze {schema}.\"{}\";", row.table),
                );
            }
        }
        Ok(seen)
    }

    /// Nothing that was deleted after the oldest snapshot anywhere can be removed, in any table.
    pub(super) async fn vacuum_horizon(&self) -> Findings {
        // Without this right, other roles' sessions look as if they had no transaction.
        let sees = sqlx::query_scalar!(r#"select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as "sees!""#)
            .fetch_one(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("look for what holds vacuum back", e))?;
        if !sees {
            return Ok(Seen::nothing(
                "this role does not see other roles' transactions; grant pg_read_all_stats to it",
            ));
        }
        let rows = sqlx::query!(
            r#"
select holder.what as "what!: Text", holder.seconds, holder.remedy as "remedy!: Text"
from (
  select
    format('backend %s (%s, user %s, %s)', activity.pid, coalesce(nullif(activity.application_name, ''), 'no application name'),
      activity.usename, activity.state) as what,
    extract(epoch from clock_timestamp() - activity.xact_start)::float8 as seconds,
    format('end its transaction, or: select pg_terminate_backend(%s);', activity.pid) as remedy
  from pg_stat_activity activity
  where activity.backend_xmin is not null
    and activity.pid <> pg_backend_pid()
    and activity.backend_type = 'client backend'
    and activity.xact_start < clock_timestamp() - make_interval(secs => $1)
  union all
  select
    format('the standby behind backend %s (%s; hot_standby_feedback)', activity.pid,
      coalesce(nullif(activity.application_name, ''), 'no application name')),
    null,
    'end the long query on that standby, or switch its hot_standby_feedback off'
  from pg_stat_activity activity
  where activity.backend_type = 'walsender' and age(activity.backend_xmin) > 1000000
  union all
  select
    format('prepared transaction %s', prepared.gid),
    extract(epoch from clock_timestamp() - prepared.prepared)::float8,
    format('commit it or roll it back: rollback prepared %L;', prepared.gid)
  from pg_prepared_xacts prepared
  where prepared.prepared < clock_timestamp() - make_interval(secs => $1)
  union all
  select
    format('replication slot %s (%s rows of history)', slot.slot_name, age(coalesce(slot.catalog_xmin, slot.xmin))),
    null,
    format('let its consumer catch up, or: select pg_drop_replication_slot(%L);', slot.slot_name)
  from pg_replication_slots slot
  where slot.xmin is not null and (not slot.active or age(slot.xmin) > 1000000)
) as holder
-- As in `jobs!`. Roles have names from all databases, in whatever encoding.
where (
    select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
  ) is distinct from ''
"#,
            OLD_TRANSACTION_SECONDS,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for what holds vacuum back", e))?;
        let mut seen = Seen::fine("no old transaction keeps deleted rows from being removed");
        for row in rows {
            let since = row.seconds.map_or_else(String::new, |seconds| format!(" for {:.0} min", seconds / 60.0));
            seen = seen.problem(format!("vacuum is held back by {}{since}", row.what.text), row.remedy.text);
        }
        Ok(seen)
    }

    pub(super) async fn numbers(&self) -> Findings {
        // Of both names' tables the numbers are 32 bits wide, and Node up to 0.17 uses one up for each add.
        let rows = sqlx::query!(
            r#"
select sequencename::text as "name!", coalesce(last_value, 0)::float8 / max_value as "used!"
from pg_sequences
where schemaname = $1
order by 1
"#,
            self.database.schema.name(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look at sequences", e))?;
        let mut seen = Seen::fine("no sequence runs out");
        for row in rows.into_iter().filter(|row| row.used > 0.8) {
            seen = seen.problem(
                format!("the sequence {} is used up by {:.0} %", row.name, row.used * 100.0),
                format!(
                    "upgrade Node's graphile-worker to 0.18 or later (older ones use a number up for each add), and restart \
                     the sequence where a long stretch of its table's numbers is free: alter sequence {schema}.\"{}\" restart \
                     with N; of the table T, N is the n of: select id + 1 as n, coalesce(lead(id) over (order by id), \
                     2147483647) - id - 1 as free from (select 0 as id union all select id from {schema}.\"T\") as used \
                     order by free desc limit 1;",
                    row.name,
                    schema = self.database.schema.quoted(),
                ),
            );
        }
        Ok(seen)
    }
}
