//! Taking jobs.
//!
//! The SQL function `backfill_claim` chooses, locks and marks jobs (`sql/schema/own/006_claim.sql` says how, and why it is safe beside
//! any number of other claimers). It is a function, so that one exchange takes jobs under planner settings of its own (ADR 14).
//!
//! Where its looks begin, and how far they go, is in `state/cursor.rs`. `answer` reads what the function answers.
//!
//! Where all jobs at the head of the line may be taken as they are, as nearly always, the function takes them by one look instead of two.
//! [`Plainness`](super::state::Plainness) says whether to try that.

mod answer;

use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::PostgresStorage;
use super::state::{Course, Cursors, Looks};
use crate::error::Result;
use crate::storage::{ClaimRequest, Claimed};
use answer::{Reader, claimed_rows};

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
        let call = self.database.slow_calls.begin();
        let mut telling = Telling(Some((&self.cursors, &looks.freed_queues)));
        let claimed = self.database.retrying(|| async {
            let mut work = self.database.work_in_time().await?;
            let claimed = self.call_claim(&mut work, request, (want, run_length, in_all), &looks, try_plain).await?;
            self.database.done(work).await?;
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
        .fetch(self.database.schema.on(conn));
        let mut reader = Reader::new(request);
        while let Some(row) = rows.try_next().await.map_err(|e| self.database.error("claim jobs", e))? {
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
