//! Taking jobs.
//!
//! A statement chooses, locks and marks jobs. What makes it safe beside any number of other claimers, ours or
//! Node's:
//!
//! - Candidate jobs are locked with `for update skip locked`: two claimers never consider the same row.
//! - A serial queue is guarded by its *queue row*: it is locked the same way, must still be free when the lock is
//!   held, and is marked in the same statement as the job. Whoever does not get the row leaves the queue's jobs
//!   alone. At most one job per queue is kept, whatever the batch size.
//! - Nobody waits: every lock is taken or skipped, so claimers cannot deadlock.
//!
//! Only the queue rows of the candidates are locked. (Node's fetch locks every free queue's row, so that two
//! fetches at once see no queues at all and one goes away empty.)
//!
//! There are two such statements, which begin alike:
//!
//! | file | what it takes |
//! | --- | --- |
//! | `plain` | all candidates or none: all if each may be taken as it is, which is nearly always so |
//! | `careful` | what may be taken of the candidates: one job of a serial queue, so many of a task, so many bytes, … |
//! | `answer` | reads what either answers |
//!
//! A single job is claimed by the plain one in three quarters of the other's time, most of which is spent on making that
//! statement's many parts ready. [`Plainness`] says which to try.

mod answer;
mod careful;
mod plain;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::PgConnection;

use super::PostgresStorage;
use crate::error::Result;
use crate::storage::{ClaimRequest, Claimed, Place};

/// How both statements begin: `claim!("the rest", arguments…)`. It is a macro because the checked macros take literals only.
///
/// The first arguments are the pool, the tasks, the limit, the forbidden flags, the time, the frontier's two columns, and the
/// most bytes; the rest can use the relations `served` (the tasks), `candidate` (jobs that are ready, locked), and `walked`.
macro_rules! claim {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::storage::postgres::claim::answer::Row,
            r#"
-- Only a registered pool may claim: one that was taken for dead must not hold anything that nobody would rescue. The
-- lock keeps a rescuer (who marks the row as dead) out until we commit, and does not disturb the sign of life (which does not
-- touch the key).
with registered as materialized (
  select pool.id
  from graphile_worker.backfill_pools pool
  where pool.id = $1
    and pool.seen_at > 'epoch'
    -- The answer is sent before the transaction ends. Where nobody takes it (a process that is stopped, a machine that is
    -- gone), the server's system gives the connection up after these milliseconds, and with it all locks; it would wait for a
    -- quarter of an hour, or for ever. For this transaction only, so nothing stays behind in a pooler.
    and set_config('tcp_user_timeout', '10000', true) is not null
  for key share
),
served as materialized (
  -- The moment from which the walk is timed: whoever was waited for above is not part of it.
  select task.id, task.identifier, clock_timestamp() as begun
  from graphile_worker._private_tasks task
  where task.identifier = any ($2)
    and exists (select from registered)
),
-- The walk over jobs_main_index. The queue's state is asked row by row (a scalar subquery cannot be turned into
-- a hash of all queues), so the cost does not grow with the number of queues.
candidate as materialized (
  select job.id, job.job_queue_id, job.task_id, job.priority, job.run_at, job.payload,
    job.attempts + 1 >= job.max_attempts as is_last
  from graphile_worker._private_jobs job
  where job.is_available = true
    and job.run_at <= coalesce($5::timestamptz, now())
    -- The frontier: both columns of the index at once, so that the walk begins there.
    and (job.priority, job.run_at) >= ($6::smallint, coalesce($7::timestamptz, '-infinity'))
    and job.task_id = any (array(select served.id from served))
    and (
      job.job_queue_id is null
      or (
        select queue.is_available
        from graphile_worker._private_job_queues queue
        where queue.id = job.job_queue_id
      )
    )
    and ($4::text[] is null or job.flags is null or not job.flags ?| $4::text[])
  order by job.priority, job.run_at
  -- A limit that the planner cannot see counts as a tenth of everything, so the walk in the index's order always looks
  -- better than sorting, whether or not the table has statistics.
  limit (select $3::bigint)
  for update of job skip locked
),
walked as materialized (
  select
    count(*) as candidates,
    -- Counting makes the walk end.
    clock_timestamp() - (select min(served.begun) from served) as took,
    -- Whether nothing stands in a serial queue, has its last attempt before it, or is too much in all.
    case
      when count(*) = 0 then true
      when not bool_and(candidate.job_queue_id is null and not candidate.is_last) then false
      -- What is stored may be compressed, but never to a three-hundredth. To unpack it is no part of the walk.
      when sum(pg_column_size(candidate.payload)) <= $8::bigint / 300 then true
      else (select sum(octet_length(candidate.payload::text)) from candidate) <= $8::bigint
    end as is_plain
  from candidate
),
"#
            + $rest
            $(, $argument)*
        )
    };
}
use claim;

impl PostgresStorage {
    /// Takes jobs from this place of the line on, and tells how long it walked to find them.
    pub(super) async fn claim_jobs(
        &self,
        conn: &mut PgConnection,
        request: &ClaimRequest<'_>,
        place: Option<Place>,
    ) -> Result<(Claimed, Duration)> {
        let place = place.map_or((i16::MIN, None), |place| (place.0, Some(place.1)));
        let mut walked = Duration::ZERO;
        if request.limits.is_empty() && self.plainness.is_likely() {
            let (claimed, walk) = self.claim_plain(conn, request, place).await?;
            if let Some(claimed) = claimed {
                if !claimed.jobs.is_empty() {
                    self.plainness.was_right();
                }
                return Ok((claimed, walk));
            }
            self.plainness.was_wrong();
            walked = walk;
        }
        let (claimed, walk) = self.claim_carefully(conn, request, place).await?;
        self.plainness.saw(&claimed);
        Ok((claimed, walked + walk))
    }
}

/// Whether the jobs at the head of the line can be taken as they are.
///
/// To be wrong costs a walk, and the locks of what was found. So after each time it was wrong, twice as many careful claims in
/// a row (that of the same call is the first) have to take plain jobs only until it is believed again. Claims that find nothing
/// prove nothing.
#[derive(Debug, Default)]
pub(super) struct Plainness {
    /// So many claims in a row have yet to show plain jobs only.
    unsure_for: AtomicU32,
    /// How many had to, the last time.
    last_unsure_for: AtomicU32,
}

/// The most claims for which plainness is doubted.
const MAX_UNSURE: u32 = 64;

impl Plainness {
    fn is_likely(&self) -> bool {
        self.unsure_for.load(Ordering::Relaxed) == 0
    }

    fn was_right(&self) {
        let doubt = self.last_unsure_for.load(Ordering::Relaxed);
        self.last_unsure_for.store(doubt.saturating_sub(1), Ordering::Relaxed);
    }

    fn was_wrong(&self) {
        let doubt = (self.last_unsure_for.load(Ordering::Relaxed) * 2).clamp(1, MAX_UNSURE);
        self.last_unsure_for.store(doubt, Ordering::Relaxed);
        self.unsure_for.store(doubt, Ordering::Relaxed);
    }

    /// What a careful claim took. What it left for its bytes, or for a queue that is held, is not known here; then the next plain
    /// claim is wrong.
    fn saw(&self, claimed: &Claimed) {
        if claimed.jobs.is_empty() && !claimed.for_free_slots {
            return;
        }
        let is_plain = !claimed.for_free_slots
            && claimed.jobs.iter().all(|job| job.queue.is_none() && job.attempts < job.max_attempts);
        let unsure_for = self.unsure_for.load(Ordering::Relaxed);
        let unsure_for =
            if is_plain { unsure_for.saturating_sub(1) } else { self.last_unsure_for.load(Ordering::Relaxed).max(1) };
        self.unsure_for.store(unsure_for, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::job::{Job, Payload};

    /// A claim that took one job.
    fn took(change: impl FnOnce(&mut Job)) -> Claimed {
        let mut job = Job::new(1, "t", Payload::empty(), DateTime::UNIX_EPOCH);
        job.attempts = 1;
        change(&mut job);
        Claimed { jobs: vec![job], ..Claimed::default() }
    }

    #[test]
    fn plainness_is_doubted_for_longer_each_time_it_was_wrong() {
        let plainness = Plainness::default();
        let plain = took(|_| {});
        for doubted in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(plainness.is_likely());
            plainness.was_wrong();
            for _ in 0..doubted {
                assert!(!plainness.is_likely());
                plainness.saw(&Claimed::default());
                assert!(!plainness.is_likely(), "nothing proves nothing");
                plainness.saw(&plain);
            }
        }
        assert!(plainness.is_likely());
        for _ in 0..64 {
            plainness.was_right();
        }
        plainness.was_wrong();
        plainness.saw(&plain);
        assert!(plainness.is_likely(), "what was wrong long ago is forgotten");
    }

    #[test]
    fn a_job_that_is_not_plain_begins_the_doubt_anew() {
        let others = [
            took(|job| job.queue = Some("q".to_owned())),
            took(|job| job.max_attempts = 1),
            Claimed { for_free_slots: true, ..Claimed::default() },
        ];
        for other in others {
            let plainness = Plainness::default();
            plainness.was_wrong();
            plainness.was_wrong();
            plainness.saw(&took(|_| {}));
            plainness.saw(&other);
            plainness.saw(&took(|_| {}));
            assert!(!plainness.is_likely(), "{other:?}");
            plainness.saw(&took(|_| {}));
            assert!(plainness.is_likely(), "{other:?}");
        }
    }
}
