//! Searching jobs among any number of rows.
//!
//! A **way** is a list of rows that an index gives in order: all jobs by id, the dead ones by id, those that can be claimed by time, and so
//! on. A search follows the narrowest way that has all the jobs it may want. Who has a budget of time gets it in **windows**: so many rows of
//! the way, read in a statement of their own, as many as the time that is left allows at the pace just measured. So no page takes
//! long, no snapshot outlives one, and each says how far it came.
//!
//! The statements leave out what the server can tell cheaply (see `filter`). Whether a job is wanted is decided by
//! [`Query::matches`](crate::search::Query::matches), as on every storage.
//!
//! | file | what it does |
//! | --- | --- |
//! | `filter` | what of a query the statements understand |
//! | `by_id` | ways that are ordered by id |
//! | `by_claim` | the order in which workers claim |
//! | `pace` | how large the next window is |

mod by_claim;
mod by_id;
mod filter;
mod pace;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::PostgresStorage;
use super::connection::row::JobRow;
use crate::error::Result;
use crate::job::Job;
use crate::search::{Found, Order, Page, Place, Search, Test};
use crate::storage::{Number, Storage};
use filter::{Filter, Names};
use pace::Pace;

/// Up to where, and how many rows were looked at on the way there.
struct Walked {
    looked_at: u64,
    /// `None` if that was the end of the way.
    up_to: Option<Place>,
}

impl PostgresStorage {
    pub(super) async fn search_jobs(&self, search: &Search) -> Result<Found> {
        search.check()?;
        let mut page = Page::new(search);
        if page.is_full() {
            return Ok(page.end(0, None, None));
        }
        let now = self.time_for(search).await?;
        let Some(filter) = Filter::of(search, &self.names_for(search).await?, now) else {
            // There is no such name.
            return Ok(page.end(0, None, None));
        };
        let of = if search.budget.is_some() { self.size().await?.rows.map(Number::estimated) } else { None };
        let pace = Pace::new(search.budget);
        let walked = match search.order {
            Order::Claim => self.walk_by_claim(search, &filter, &mut page, pace).await?,
            Order::Newest | Order::Oldest => self.walk_by_id(search, &filter, &mut page, pace).await?,
            order => return Err(crate::Error::invalid_search(order.as_str(), "is no order that PostgreSQL knows")),
        };
        Ok(page.end(walked.looked_at, of, walked.up_to))
    }

    /// The time by the server's clock, if the search is about times.
    async fn time_for(&self, search: &Search) -> Result<DateTime<Utc>> {
        let is_about_times = |test: &Test| matches!(test, Test::State(_) | Test::Created(_) | Test::Due(_));
        if search.query.terms().iter().any(|term| is_about_times(&term.test)) {
            return self.now().await;
        }
        Ok(DateTime::<Utc>::UNIX_EPOCH)
    }

    /// The ids of the names that the search is about.
    async fn names_for(&self, search: &Search) -> Result<Names> {
        let mut names = Names::default();
        let is_of_tasks = |test: &Test| matches!(test, Test::Task(_) | Test::Name(_));
        if search.query.terms().iter().any(|term| is_of_tasks(&term.test)) {
            names.tasks = self.task_ids().await?;
        }
        if let Some(queue) = search.query.queue() {
            names.queue = sqlx::query_scalar!(
                "select queue.id from graphile_worker._private_job_queues queue where queue.queue_name = $1",
                queue
            )
            .fetch_optional(self.database.schema.on(&self.database.db()))
            .await
            .map_err(|e| self.database.error("look for a queue", e))?;
        }
        Ok(names)
    }
}

/// Fills the page with those of these rows that are wanted. Returns how many rows came, and where the last one stands.
async fn fill(
    rows: BoxStream<'_, sqlx::Result<JobRow>>,
    page: &mut Page<'_>,
    filter: &Filter<'_>,
) -> sqlx::Result<(i64, Option<Place>)> {
    let (mut came, mut last) = (0, None);
    let mut rows = rows;
    while let Some(row) = rows.try_next().await? {
        let job = Job::from(row);
        came += 1;
        last = Some(Place::of(&job, filter.search.order));
        if filter.search.query.matches(&job, filter.now) {
            page.add(job);
            if page.is_full() {
                break;
            }
        }
    }
    Ok((came, last))
}
