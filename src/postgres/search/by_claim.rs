//! The order in which workers claim: by priority, time and id, of the jobs that can be claimed.
//!
//! Graphile's `jobs_main_index` gives them by priority and time. So each priority is a way of its own, which also begins and ends where the
//! times do that are wanted: the ready jobs among millions of scheduled ones, or the other way round, are read without the others.

use chrono::{DateTime, Utc};

use super::filter::{Filter, page};
use super::pace::Pace;
use super::{Walked, fill};
use crate::error::Result;
use crate::job::{JobId, JobState, Priority};
use crate::postgres::PostgresStorage;
use crate::postgres::connection::isolation::Work;
use crate::postgres::connection::row::{EARLIEST, Timestamp};
use crate::search::{Page, Place, Search};

/// Where a job stands among those of its priority.
type Standing = (DateTime<Utc>, i64);

/// Behind every job of its priority.
const LAST: Standing = (DateTime::<Utc>::MAX_UTC, i64::MAX);

/// The jobs of a priority behind one standing, up to another.
#[derive(Clone, Copy, Debug)]
struct Between {
    priority: i16,
    behind: Standing,
    up_to: Standing,
}

impl PostgresStorage {
    pub(super) async fn walk_by_claim(
        &self,
        search: &Search,
        filter: &Filter<'_>,
        page: &mut Page<'_>,
        mut pace: Pace,
    ) -> Result<Walked> {
        let fail = |e| self.database.error("list jobs", e);
        let after = match search.after {
            Some(Place::Claim { priority, run_at, id }) => Some((priority.0, (run_at, id.number()))),
            _ => None,
        };
        let (first, last) = times(filter);
        let mut walked = Walked { looked_at: 0, up_to: search.after };
        for priority in self.priorities(filter, after.map(|(priority, _)| priority)).await? {
            let behind = after.filter(|(of, _)| *of == priority).map_or(first, |(_, standing)| standing.max(first));
            let mut left = Between { priority, behind, up_to: last };
            loop {
                // A priority without such jobs is no progress yet.
                let Some(window) = pace.window(walked.looked_at == 0) else { return Ok(walked) };
                let mut work = self.database.work().await?;
                let (count, end) = if pace.is_bounded() {
                    window_of(self, &mut work, left, window).await.map_err(fail)?
                } else {
                    (0, None)
                };
                let is_last = count < window;
                let mut part = Between { up_to: end.filter(|_| !is_last).unwrap_or(left.up_to), ..left };
                loop {
                    let limit = i64::from(page.room()).max(64);
                    let Between { priority, behind, up_to } = part;
                    // The first comparisons say to the index where to begin and end.
                    let rows = page!(
                        filter,
                        limit,
                        "job.is_available = true and job.priority = $27 and job.run_at >= $28 and job.run_at <= $30 \
                         and (job.run_at, job.id) > ($28, $29) and (job.run_at, job.id) <= ($30, $31)",
                        "job.priority, job.run_at, job.id";
                        priority,
                        behind.0,
                        behind.1,
                        up_to.0,
                        up_to.1
                    )
                    .fetch(self.database.schema.on(&mut *work));
                    let (came, reached) = fill(rows, page, filter).await.map_err(fail)?;
                    let reached = reached.and_then(standing_of);
                    if page.is_full() {
                        if pace.is_bounded() {
                            let passed = Between { up_to: reached.unwrap_or(part.behind), ..left };
                            let (count, _) = window_of(self, &mut work, passed, i64::MAX).await.map_err(fail)?;
                            walked.looked_at += u64::try_from(count).unwrap_or_default();
                        }
                        self.database.done(work).await?;
                        return Ok(walked);
                    }
                    match reached {
                        Some(standing) if came >= limit => part.behind = standing,
                        _ => break,
                    }
                }
                self.database.done(work).await?;
                walked.looked_at += u64::try_from(count).unwrap_or_default();
                // Behind the last job of a priority, the next one begins.
                let end = end.filter(|_| !is_last).unwrap_or(LAST);
                walked.up_to =
                    Some(Place::Claim { priority: Priority(priority), run_at: end.0, id: JobId::from_number(end.1) });
                if is_last {
                    break;
                }
                left.behind = end;
            }
        }
        walked.up_to = None;
        Ok(walked)
    }

    /// The priorities that are wanted and that jobs have, from this one on. A step for each, not for each job.
    async fn priorities(&self, filter: &Filter<'_>, from: Option<i16>) -> Result<Vec<i16>> {
        let limit = |bound: Option<i64>, other: i16| bound.map_or(other, clamp);
        let least = limit(filter.priority.least, i16::MIN).max(from.unwrap_or(i16::MIN));
        let most = limit(filter.priority.most, i16::MAX);
        sqlx::query_scalar!(
            r#"
with recursive known (priority) as (
  (
    select job.priority
    from graphile_worker._private_jobs job
    where job.is_available = true and job.priority >= $1
    order by job.priority
    limit 1
  )
  union all
  select (
    select job.priority
    from graphile_worker._private_jobs job
    where job.is_available = true and job.priority > known.priority
    order by job.priority
    limit 1
  )
  from known
  where known.priority is not null
)
select known.priority as "priority!" from known where known.priority <= $2
"#,
            least,
            most,
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for priorities", e))
    }
}

fn clamp(bound: i64) -> i16 {
    i16::try_from(bound).unwrap_or(if bound < 0 { i16::MIN } else { i16::MAX })
}

fn standing_of(place: Place) -> Option<Standing> {
    match place {
        Place::Claim { run_at, id, .. } => Some((run_at, id.number())),
        Place::Id(_) | _ => None,
    }
}

/// Behind which standing, and up to which one, jobs may be wanted.
fn times(filter: &Filter<'_>) -> (Standing, Standing) {
    let (mut first, mut last) = (filter.due.after, filter.due.before);
    match filter.only_state() {
        Some(JobState::Ready) => last = Some(last.map_or(filter.now, |last| last.min(filter.now))),
        Some(JobState::Scheduled) => first = Some(first.map_or(filter.now, |first| first.max(filter.now))),
        _ => {}
    }
    ((first.unwrap_or(EARLIEST), i64::MIN), (last.unwrap_or(LAST.0), i64::MAX))
}

/// How many rows the next window has, and where the last one stands.
async fn window_of(
    storage: &PostgresStorage,
    work: &mut Work,
    left: Between,
    window: i64,
) -> sqlx::Result<(i64, Option<Standing>)> {
    let Between { priority, behind, up_to } = left;
    let last = sqlx::query!(
        r#"
select way.place as "count!", way.run_at as "run_at!: Timestamp", way.id
from (
  select row_number() over (order by job.run_at, job.id) as place, job.run_at, job.id
  from graphile_worker._private_jobs job
  where job.is_available = true and job.priority = $1 and job.run_at >= $2 and job.run_at <= $4
    and (job.run_at, job.id) > ($2, $3) and (job.run_at, job.id) <= ($4, $5)
  order by job.run_at, job.id
  limit $6
) as way
order by way.place desc
limit 1
"#,
        priority,
        behind.0,
        behind.1,
        up_to.0,
        up_to.1,
        window,
    )
    .fetch_optional(storage.database.schema.on(&mut **work))
    .await?;
    Ok(last.map_or((0, None), |last| (last.count, Some((last.run_at.0, last.id)))))
}
