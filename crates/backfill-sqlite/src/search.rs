//! Searching jobs.
//!
//! A **way** is a list of rows that an index gives in order. A search follows the narrowest one that has all the jobs it may want, some
//! thousand rows at a time as long as its budget lasts. Whether a job is wanted is decided by
//! [`Query::matches`](backfill_core::search::Query::matches).

use std::time::Instant;

use backfill_core::Result;
use backfill_core::job::{Job, JobState};
use backfill_core::search::{Found, Order, Page, Place, Search};
use backfill_core::storage::Number;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use sqlx::SqliteConnection;

use crate::SqliteStorage;
use crate::errors::failed;
use crate::file::{micros, time};
use crate::row::{JobRow, jobs};

const ACTION: &str = "list jobs";
/// So many rows are read before the clock is looked at again.
const WINDOW: i64 = 2_000;

/// A list of rows that an index gives.
#[derive(Clone, Copy, Debug)]
enum Way {
    All,
    Dead,
    Retrying,
    /// What workers hold.
    Held,
    /// The job with the key.
    Key,
    /// By priority, time and id, those that can be claimed.
    Line,
}

/// What of a query the statements understand.
struct Wanted {
    way: Way,
    is_descending: bool,
    least: i64,
    most: i64,
    task: Option<String>,
    queue: Option<String>,
    key: Option<String>,
    /// The states between commas, if not all of them are wanted.
    states: Option<String>,
    now: i64,
    payloads: bool,
    /// Where the way goes on.
    behind: (i64, i64, i64),
}

impl Wanted {
    fn of(search: &Search, now: i64) -> Self {
        let query = &search.query;
        let states = query.states();
        let way = match (search.order, &states[..]) {
            (Order::Claim, _) => Way::Line,
            _ if query.key().is_some() => Way::Key,
            (_, [JobState::Dead]) => Way::Dead,
            (_, [JobState::Retrying]) => Way::Retrying,
            (_, [JobState::Running]) => Way::Held,
            _ => Way::All,
        };
        let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let mut wanted = Self {
            way,
            is_descending: search.order == Order::Newest,
            least: query.ids().least.unwrap_or(i64::MIN),
            most: query.ids().most.unwrap_or(i64::MAX),
            task: query.task().map(str::to_owned),
            queue: query.queue().map(str::to_owned),
            key: query.key().map(str::to_owned),
            states: (names.len() < JobState::ALL.len()).then(|| format!(",{},", names.join(","))),
            now,
            payloads: search.payloads || query.reads_payloads(),
            behind: (i64::MIN, i64::MIN, i64::MIN),
        };
        if let Some(place) = search.after {
            wanted.go_on(place);
        }
        wanted
    }

    /// Only what is behind this place is left.
    fn go_on(&mut self, place: Place) {
        match place {
            Place::Id(id) if self.is_descending => self.most = self.most.min(id.number().saturating_sub(1)),
            Place::Id(id) => self.least = self.least.max(id.number().saturating_add(1)),
            Place::Claim { priority, run_at, id } => self.behind = (priority.0.into(), micros(run_at), id.number()),
            _ => {}
        }
    }
}

impl SqliteStorage {
    pub(crate) async fn search_jobs(&self, search: &Search) -> Result<Found> {
        search.check()?;
        let started = Instant::now();
        let now = self.file.now();
        let mut connection = self.file.read(ACTION).await?;
        let mut page = Page::new(search);
        let mut wanted = Wanted::of(search, now);
        let of = if search.budget.is_some() {
            few(&mut connection).await.map_err(failed(ACTION))?.map(Number::exact)
        } else {
            None
        };
        let (mut looked_at, mut up_to) = (0, search.after);
        while !page.is_full() {
            if looked_at > 0 && search.budget.is_some_and(|budget| started.elapsed() >= budget) {
                return Ok(page.end(looked_at, of, up_to));
            }
            // Without a budget, everything is one window, and what is not wanted is left out before it is read.
            let (filters, window) = if search.budget.is_some() { (false, WINDOW) } else { (true, i64::MAX) };
            let (mut came, mut last, mut is_cut) = (0, None, false);
            let mut rows = rows(&mut connection, &wanted, filters, window);
            while let Some(row) = rows.try_next().await.map_err(failed(ACTION))? {
                let job = Job::from(row);
                came += 1;
                looked_at += 1;
                last = Some(Place::of(&job, search.order));
                if search.query.matches(&job, time(now)) {
                    page.add(job);
                }
                // Rows may be large.
                is_cut =
                    page.is_full() || search.budget.is_some_and(|budget| came % 64 == 0 && started.elapsed() >= budget);
                if is_cut {
                    break;
                }
            }
            drop(rows);
            match last {
                Some(place) if is_cut || came == window => {
                    wanted.go_on(place);
                    up_to = Some(place);
                }
                _ => break,
            }
        }
        Ok(page.end(looked_at, of, None))
    }
}

/// How many jobs there are, if they are few enough to be counted while a person waits.
pub(crate) async fn few(connection: &mut SqliteConnection) -> sqlx::Result<Option<u64>> {
    const FEW: i64 = 200_000;
    let cap = FEW + 1;
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!: i64" from (select 1 from backfill_jobs limit ?1)"#, cap)
            .fetch_one(connection)
            .await?;
    Ok(u64::try_from(count).ok().filter(|_| count <= FEW))
}

/// The next rows of the way, in order; with `filters`, only those that may be wanted.
fn rows<'a>(
    connection: &'a mut SqliteConnection,
    wanted: &Wanted,
    filters: bool,
    limit: i64,
) -> BoxStream<'a, sqlx::Result<JobRow>> {
    let Wanted { least, most, now, payloads, .. } = *wanted;
    let (task, queue, states) =
        if filters { (wanted.task.clone(), wanted.queue.clone(), wanted.states.clone()) } else { (None, None, None) };
    // The words of the predicates are those of the indexes: only then are they used.
    macro_rules! rows {
        ($from:literal, $order:literal $(, $argument:expr)*) => {
            jobs!(
                payload: "case when ?1 then payload else '{}' end",
                "select",
                "from backfill_jobs job "
                    + $from
                    + r#"
  and id between ?2 and ?3
  and (?4 is null or task = ?4)
  and (?5 is null or queue = ?5)
  and (?6 is null or instr(?6, case
    when locked_at is not null then ',running,'
    when attempts >= max_attempts then ',dead,'
    when attempts > 0 and last_error is not null then ',retrying,'
    when run_at > ?7 then ',scheduled,'
    else ',ready,'
  end) > 0)
order by "#
                    + $order
                    + " limit ?8",
                payloads,
                least,
                most,
                task,
                queue,
                states,
                now,
                limit
                $(, $argument)*
            )
            .fetch(connection)
        };
        (both: $from:literal $(, $argument:expr)*) => {
            if wanted.is_descending {
                rows!($from, "id desc" $(, $argument)*)
            } else {
                rows!($from, "id" $(, $argument)*)
            }
        };
    }
    match wanted.way {
        Way::All => rows!(both: "where true"),
        Way::Dead => {
            rows!(both: "indexed by backfill_jobs_dead where locked_at is null and attempts >= max_attempts")
        }
        Way::Retrying => rows!(
            both: "indexed by backfill_jobs_retrying where locked_at is null and attempts > 0 and attempts < max_attempts"
        ),
        Way::Held => rows!(both: "indexed by backfill_jobs_held where locked_by is not null"),
        Way::Key => {
            let key = wanted.key.clone();
            rows!(both: "indexed by backfill_jobs_key where key is not null and key = ?9", key)
        }
        Way::Line => {
            let (priority, run_at, id) = wanted.behind;
            rows!(
                "indexed by backfill_jobs_line where locked_at is null and attempts < max_attempts
  and (priority, run_at, id) > (?9, ?10, ?11)",
                "priority, run_at, id",
                priority,
                run_at,
                id
            )
        }
    }
}
