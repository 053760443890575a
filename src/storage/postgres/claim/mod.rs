//! Taking jobs.
//!
//! The SQL function `backfill_claim` chooses, locks and marks jobs (`sql/schema/own/006_claim.sql` says how, and why it is safe beside
//! any number of other claimers). It is a function, so that one exchange takes jobs under planner settings of its own (ADR 14).
//!
//! | file | what it does |
//! | --- | --- |
//! | `cursor` | where the looks of a claim begin, and how far they go |
//! | `answer` | reads what the function answers |
//!
//! Where all jobs at the head of the line may be taken as they are, as nearly always, the function takes them by one look instead of two.
//! [`Plainness`] says whether to try that.

mod answer;
mod cursor;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::PostgresStorage;
use crate::error::Result;
use crate::storage::{ClaimRequest, Claimed};
use answer::{Course, Reader, claimed_rows};
pub(super) use cursor::Cursors;
use cursor::Looks;

/// The most jobs that one claim takes because of runs of queues: what a worker does in some 50 ms of the fastest.
const MAX_IN_RUNS: i32 = 8_000;

impl PostgresStorage {
    /// Takes jobs, beginning where the cursors say.
    pub(super) async fn claim_jobs(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        let want = i32::try_from(request.limit).unwrap_or(i32::MAX);
        let run_length = i32::try_from(request.run_length).unwrap_or(i32::MAX);
        let in_all = want.saturating_mul(run_length).min(MAX_IN_RUNS.max(want));
        let looks = self.cursors.begin(request, in_all, Instant::now());
        let try_plain = looks.are_simple() && request.limits.is_empty() && self.plainness.is_likely();
        let call = self.slow_calls.begin();
        let mut telling = Telling(Some((&self.cursors, &looks.freed_queues)));
        let claimed = self.retrying(|| async {
            let mut work = self.work_in_time().await?;
            let claimed = self.call_claim(&mut work, request, (want, run_length, in_all), &looks, try_plain).await?;
            self.done(work).await?;
            Ok(claimed)
        });
        let claimed = call.answered(claimed.await);
        let (mut claimed, course) = claimed?;
        telling.0 = None;
        if course.queue_took.is_some() {
            if try_plain {
                self.plainness.was_wrong();
            }
            self.plainness.saw(&claimed);
        } else if !claimed.jobs.is_empty() {
            self.plainness.was_right();
        }
        self.cursors.end(&looks, request, &mut claimed, &course, Instant::now());
        if course.left_out {
            // The next claim would choose the same ones.
            claimed.more = false;
            if let Some(warning) = self.left_out.warning() {
                tracing::warn!("{warning}");
            }
        }
        Ok(claimed)
    }

    async fn call_claim(
        &self,
        conn: &mut PgConnection,
        request: &ClaimRequest<'_>,
        (want, run_length, in_all): (i32, i32, i32),
        looks: &Looks,
        try_plain: bool,
    ) -> Result<(Claimed, Course)> {
        let (limited, rooms): (Vec<String>, Vec<i32>) =
            request.limits.iter().map(|(task, room)| (task.clone(), i32::try_from(*room).unwrap_or(i32::MAX))).unzip();
        let forbidden = (!request.forbidden_flags.is_empty()).then_some(request.forbidden_flags);
        let mut rows = claimed_rows!(
            r#"
from graphile_worker.backfill_claim(
  worker => $1, task_names => $2, want => $3, run_length => $4, want_in_all => $5, byte_limit => $6, slots => $7,
  limited => $8, rooms => $9, forbidden => $10, ready_by => $11, try_plain => $12,
  plain_priority => $13, plain_time => $14, plain_since => $15, plain_rows => $16,
  queue_priority => $17, queue_time => $18, queue_since => $19, queue_rows => $20, passed => $21, levels => $22,
  freed => $23
)
"#,
            request.worker.as_str(),
            request.tasks,
            want,
            run_length,
            in_all,
            i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
            i32::try_from(request.free_slots).unwrap_or(i32::MAX),
            &limited,
            &rooms,
            forbidden as Option<&[String]>,
            request.now as Option<DateTime<Utc>>,
            try_plain,
            looks.plain.map(|cursor| cursor.position.0) as Option<i16>,
            looks.plain.map(|cursor| cursor.position.1) as Option<DateTime<Utc>>,
            looks.plain.map(|cursor| cursor.since) as Option<DateTime<Utc>>,
            looks.plain_rows as Option<i32>,
            looks.queued.map(|cursor| cursor.position.0) as Option<i16>,
            looks.queued.map(|cursor| cursor.position.1) as Option<DateTime<Utc>>,
            looks.queued.map(|cursor| cursor.since) as Option<DateTime<Utc>>,
            looks.queue_rows,
            &looks.passed[..],
            &looks.levels[..],
            &looks.freed_queues[..],
        )
        .fetch(self.schema.on(conn));
        let mut reader = Reader::new(request);
        while let Some(row) = rows.try_next().await.map_err(|e| self.error("claim jobs", e))? {
            reader.take(row);
        }
        Ok(reader.end())
    }
}

/// A claim under way that tells others of freed queues. If it fails, or is dropped, nobody was told.
struct Telling<'a>(Option<(&'a Cursors, &'a [String])>);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if let Some((cursors, queues)) = self.0 {
            cursors.nobody_was_told(queues);
        }
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
    use crate::storage::{ClaimToken, ClaimedJob};

    /// A claim that took one job.
    fn took(change: impl FnOnce(&mut Job)) -> Claimed {
        let mut job = Job::new(1, "t", Payload::empty(), DateTime::UNIX_EPOCH);
        job.attempts = 1;
        change(&mut job);
        Claimed::jobs(vec![ClaimedJob::new(job, ClaimToken::from_number(1))])
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
            Claimed::default().for_free_slots(true),
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
