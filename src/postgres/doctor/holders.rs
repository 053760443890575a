//! What is held and will not be released, and what is dated ahead.

use super::{Findings, Seen, UNREAD};
use crate::postgres::PostgresStorage;
use crate::postgres::connection::row::Text;
use crate::storage::reserved_at;

/// More than clocks that agree differ by.
const AHEAD_SECONDS: f64 = 60.0;
/// More than it takes a worker to notice that it is not registered, and to register again.
const STRAY_SECONDS: f64 = 60.0;

impl PostgresStorage {
    /// What only time will free, or not even that. `own` as above.
    pub(super) async fn times(&self, own: bool, reads_jobs: bool) -> Findings {
        let fail = |e| self.database.error("look at times", e);
        let schema = self.database.schema.quoted();
        let mut seen = Seen::fine(if reads_jobs {
            "no crontab, lock or worker is dated ahead".to_owned()
        } else {
            format!("no crontab, lock of a queue, or worker is dated ahead; of jobs' locks: {UNREAD}")
        });
        let ahead = sqlx::query!(
            r#"
select known.identifier as "identifier!: Text", extract(epoch from known.last_execution - clock_timestamp())::float8 as "seconds!"
from graphile_worker._private_known_crontabs known
where known.last_execution > clock_timestamp() + make_interval(secs => $1)
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by 1
"#,
            AHEAD_SECONDS,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        for row in ahead {
            seen = seen.problem(
                format!(
                    "the crontab entry {:?} was last executed {} from now, so it is not executed before then",
                    row.identifier.text,
                    length(row.seconds)
                ),
                format!(
                    "set the clocks right, then: update {schema}._private_known_crontabs set last_execution = now() where \
                     last_execution > now();"
                ),
            );
        }
        let locks = sqlx::query!(
            r#"
select lock.locked_by as "worker!: Text", count(*) as "locks!"
from (
  select job.locked_by, job.locked_at from graphile_worker._private_jobs job where job.locked_at is not null and $3
  union all
  select queue.locked_by, queue.locked_at from graphile_worker._private_job_queues queue where queue.locked_at is not null
) as lock
-- Beyond are jobs that are being moved; and a lease says when it ends.
where lock.locked_at > clock_timestamp() + make_interval(secs => $1) and lock.locked_at < $2
  and not starts_with(lock.locked_by, 'lease:')
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
group by lock.locked_by
order by 1
"#,
            AHEAD_SECONDS,
            reserved_at(),
            reads_jobs,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        for row in locks {
            seen = seen.problem(
                format!("{} locks of {} are dated ahead, so they never seem old", row.locks, row.worker.text),
                format!("if that worker is gone: `backfill unlock {}`", row.worker.text),
            );
        }
        if !own {
            return Ok(seen);
        }
        let workers = sqlx::query_scalar!(
            r#"
select pool.id as "id: Text"
from graphile_worker.backfill_pools pool
where pool.seen_at > clock_timestamp() + make_interval(secs => $1)
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by 1
"#,
            AHEAD_SECONDS,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        for Text { text: worker, .. } in workers {
            seen = seen.problem(
                format!("the last heartbeat of {worker} is dated ahead, so it would not be missed if it died"),
                format!("set the server's clock right; if that worker is gone: `backfill unlock {worker}`"),
            );
        }
        Ok(seen)
    }

    /// Jobs and queues that are held under the name of a worker that is not registered, although none of Node's, which
    /// never are, can be it: its row was deleted. It will not release what it does not know to be its own any more.
    pub(super) async fn strays(&self, own: bool) -> Findings {
        if !own {
            return Ok(Seen::fine("no worker registers here yet"));
        }
        let fail = |e| self.database.error("look for holders", e);
        let sees = sqlx::query_scalar!(r#"select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as "sees!""#)
            .fetch_one(self.database.schema.on(&self.database.db()))
            .await
            .map_err(fail)?;
        if !sees {
            let why = "this role does not see whether workers of Node's listen; grant pg_read_all_stats to it";
            return Ok(Seen::nothing(why));
        }
        let rows = sqlx::query!(
            r#"
select lock.locked_by as "worker!: Text", count(*) as "locks!"
from (
  select job.locked_by, job.locked_at from graphile_worker._private_jobs job where job.locked_at is not null
  union all
  select queue.locked_by, queue.locked_at from graphile_worker._private_job_queues queue where queue.locked_at is not null
) as lock
where lock.locked_at < clock_timestamp() - make_interval(secs => $1)
  -- Older ones are told, and released, by another rule.
  and lock.locked_at >= now() - interval '4 hours'
  and not starts_with(lock.locked_by, 'lease:')
  and not exists (select from graphile_worker.backfill_pools pool where pool.id = lock.locked_by)
  -- This is how Node's workers listen.
  and not exists (
    select from pg_stat_activity activity
    where activity.datname = current_database() and activity.query like '%LISTEN "jobs:insert"; LISTEN "worker:migrate"%'
      and activity.pid <> pg_backend_pid()
  )
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
group by lock.locked_by
order by 1
"#,
            STRAY_SECONDS,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(fail)?;
        let mut seen = Seen::fine("whoever holds something is registered, or may be a worker of Node's");
        for row in rows {
            seen = seen.problem(
                format!(
                    "{} locks are held by {}, which is not registered, and no worker of Node's listens: its row was deleted",
                    row.locks, row.worker.text
                ),
                format!(
                    "unless a worker of Node's runs under that name: `backfill unlock {}`; and do not delete rows of \
                     backfill_pools: `backfill unlock` frees with them what they hold",
                    row.worker.text
                ),
            );
        }
        Ok(seen)
    }
}

/// A length of time as people say it.
fn length(seconds: f64) -> String {
    match seconds {
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}
