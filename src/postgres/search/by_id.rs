//! Ways that are ordered by id, in either direction.

use futures::stream::BoxStream;

use super::filter::{Filter, page};
use super::pace::Pace;
use super::{Walked, fill};
use crate::error::Result;
use crate::job::JobState;
use crate::postgres::connection::isolation::Work;
use crate::postgres::connection::row::JobRow;
use crate::postgres::{ListIndex, PostgresStorage};
use crate::search::{Order, Page, Place, Search};

/// A list of rows that an index gives by id.
#[derive(Clone, Debug)]
enum Way {
    /// All, by the primary key.
    All,
    /// By [`ListIndex::Dead`].
    Dead,
    /// By [`ListIndex::Retrying`].
    Retrying,
    /// By [`ListIndex::Running`].
    Running,
    /// By [`ListIndex::Task`].
    Task(i32),
    /// By [`ListIndex::Queue`].
    Queue(i32),
    /// One job.
    Key(String),
}

/// The rows of a way between two ids, and their direction.
#[derive(Clone, Copy, Debug)]
struct Between {
    least: i64,
    most: i64,
    is_descending: bool,
}

impl Between {
    /// What is left of it behind this id.
    fn behind(self, id: i64) -> Self {
        if self.is_descending {
            Self { most: id.saturating_sub(1), ..self }
        } else {
            Self { least: id.saturating_add(1), ..self }
        }
    }

    /// The part of it that ends with this id.
    fn up_to(self, id: i64) -> Self {
        if self.is_descending { Self { least: id, ..self } } else { Self { most: id, ..self } }
    }
}

impl PostgresStorage {
    pub(super) async fn walk_by_id(
        &self,
        search: &Search,
        filter: &Filter<'_>,
        page: &mut Page<'_>,
        mut pace: Pace,
    ) -> Result<Walked> {
        let fail = |e| self.database.error("list jobs", e);
        let is_descending = search.order == Order::Newest;
        let after = if let Some(Place::Id(id)) = search.after { Some(id) } else { None };
        let (least, most) = filter.bounds(is_descending, after);
        let mut left = Between { least, most, is_descending };
        let way = self.way(filter).await?;
        let (mut looked_at, mut up_to) = (0, after);
        let mut is_first = true;
        while left.least <= left.most {
            let Some(window) = pace.window(is_first) else {
                return Ok(Walked { looked_at, up_to: up_to.map(Place::Id) });
            };
            is_first = false;
            let mut work = self.database.work().await?;
            // Where the window ends, by the index alone.
            let (count, last) = if pace.is_bounded() {
                count(self, &mut work, &way, left, window).await.map_err(fail)?
            } else {
                (0, None)
            };
            let is_last = count < window;
            let mut part = if is_last { left } else { left.up_to(last.unwrap_or(left.most)) };
            loop {
                // More than fit, where the statement lets through what is not wanted.
                let limit = i64::from(page.room()).max(64);
                let rows = rows(self, &mut work, &way, part, filter, limit);
                let (came, reached) = fill(rows, page, filter).await.map_err(fail)?;
                if page.is_full() {
                    let passed = if let Some(Place::Id(id)) = reached { part.up_to(id.number()) } else { part };
                    if pace.is_bounded() {
                        looked_at += as_count(count_all(self, &mut work, &way, passed).await.map_err(fail)?);
                    }
                    self.database.done(work).await?;
                    return Ok(Walked { looked_at, up_to: None });
                }
                match reached {
                    Some(Place::Id(id)) if came >= limit => part = part.behind(id.number()),
                    _ => break,
                }
            }
            self.database.done(work).await?;
            looked_at += as_count(count);
            match last.filter(|_| !is_last) {
                Some(last) => {
                    up_to = Some(last.into());
                    left = left.behind(last);
                }
                None => break,
            }
        }
        Ok(Walked { looked_at, up_to: None })
    }

    /// The narrowest way that has all the jobs that may be wanted.
    async fn way(&self, filter: &Filter<'_>) -> Result<Way> {
        if let Some(key) = filter.search.query.key() {
            return Ok(Way::Key(key.to_owned()));
        }
        let state = filter.only_state();
        let task = filter.tasks.as_deref().and_then(|tasks| if let [task] = tasks { Some(*task) } else { None });
        if state.is_none() && task.is_none() && filter.queue.is_none() {
            return Ok(Way::All);
        }
        let indexes = self.indexes().await?;
        let has = |index: ListIndex| indexes.contains(&index);
        Ok(match (state, filter.queue, task) {
            (_, Some(queue), _) if has(ListIndex::Queue) => Way::Queue(queue),
            (Some(JobState::Dead), ..) if has(ListIndex::Dead) => Way::Dead,
            (Some(JobState::Retrying), ..) if has(ListIndex::Retrying) => Way::Retrying,
            (Some(JobState::Running), ..) if has(ListIndex::Running) => Way::Running,
            (_, _, Some(task)) if has(ListIndex::Task) => Way::Task(task),
            _ => Way::All,
        })
    }
}

fn as_count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or_default()
}

// The predicates are those of the indexes, word for word: only then does the planner use them.

/// The jobs of this part of a way that may be wanted, in order.
fn rows<'a>(
    storage: &'a PostgresStorage,
    work: &'a mut Work,
    way: &Way,
    part: Between,
    filter: &Filter<'_>,
    limit: i64,
) -> BoxStream<'a, sqlx::Result<JobRow>> {
    let connection = storage.database.schema.on(&mut **work);
    let Between { least, most, is_descending } = part;
    macro_rules! rows {
        ($predicate:literal $(, $argument:expr)?) => {
            if is_descending {
                page!(filter, limit, $predicate, "job.id desc"; least, most $(, $argument)?).fetch(connection)
            } else {
                page!(filter, limit, $predicate, "job.id"; least, most $(, $argument)?).fetch(connection)
            }
        };
    }
    match way {
        Way::All => rows!("job.id between $27 and $28"),
        Way::Dead => {
            rows!("job.id between $27 and $28 and job.locked_at is null and job.attempts >= job.max_attempts")
        }
        Way::Retrying => rows!(
            "job.id between $27 and $28 and job.locked_at is null and job.attempts > 0 and job.attempts < job.max_attempts"
        ),
        Way::Running => rows!("job.id between $27 and $28 and job.locked_at is not null"),
        Way::Task(task) => rows!("job.id between $27 and $28 and job.task_id = $29", *task),
        Way::Queue(queue) => rows!("job.id between $27 and $28 and job.job_queue_id = $29", *queue),
        Way::Key(key) => rows!("job.id between $27 and $28 and job.key = $29", key),
    }
}

/// How many rows the next window of a way has, and the id of the last one.
async fn count(
    storage: &PostgresStorage,
    work: &mut Work,
    way: &Way,
    part: Between,
    window: i64,
) -> sqlx::Result<(i64, Option<i64>)> {
    let connection = storage.database.schema.on(&mut **work);
    let Between { least, most, is_descending } = part;
    macro_rules! count {
        ($predicate:literal $(, $argument:expr)?) => {
            if is_descending {
                let row = sqlx::query!(
                    r#"
select count(*) as "count!", min(way.id) as last
from (select job.id from graphile_worker._private_jobs job where "#
                        + $predicate
                        + " order by job.id desc limit $3) as way",
                    least,
                    most,
                    window
                    $(, $argument)?
                );
                row.fetch_one(connection).await.map(|row| (row.count, row.last))
            } else {
                let row = sqlx::query!(
                    r#"
select count(*) as "count!", max(way.id) as last
from (select job.id from graphile_worker._private_jobs job where "#
                        + $predicate
                        + " order by job.id limit $3) as way",
                    least,
                    most,
                    window
                    $(, $argument)?
                );
                row.fetch_one(connection).await.map(|row| (row.count, row.last))
            }
        };
    }
    match way {
        Way::All => count!("job.id between $1 and $2"),
        Way::Dead => {
            count!("job.id between $1 and $2 and job.locked_at is null and job.attempts >= job.max_attempts")
        }
        Way::Retrying => count!(
            "job.id between $1 and $2 and job.locked_at is null and job.attempts > 0 and job.attempts < job.max_attempts"
        ),
        Way::Running => count!("job.id between $1 and $2 and job.locked_at is not null"),
        Way::Task(task) => count!("job.id between $1 and $2 and job.task_id = $4", *task),
        Way::Queue(queue) => count!("job.id between $1 and $2 and job.job_queue_id = $4", *queue),
        Way::Key(key) => count!("job.id between $1 and $2 and job.key = $4", key),
    }
}

/// How many rows this part of a way has, which is not longer than a window.
async fn count_all(storage: &PostgresStorage, work: &mut Work, way: &Way, part: Between) -> sqlx::Result<i64> {
    count(storage, work, way, part, i64::MAX).await.map(|(count, _)| count)
}
