//! Taking jobs.
//!
//! A transaction has the file to itself, so choosing and marking are two statements, and what is between them is plain Rust.
//!
//! For that reason none may take long, however many jobs stand in the line that cannot be taken. So a claim walks over the line in
//! *parts* of so many rows, each in a transaction of its own, and others write between them. After a second it answers what it has, and
//! the next claim goes on from there.

mod part;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill_core::Result;
use backfill_core::storage::{ClaimRequest, Claimed, Position, Reached, Start, Walk};

use crate::SqliteStorage;
use crate::file::{micros, time};
use part::claim;

/// The most jobs that one claim takes because of runs of queues.
const MAX_IN_RUNS: usize = 4_000;

/// How many rows one part of a walk looks at, whatever it takes of them: some ten milliseconds.
pub(crate) const PART: u32 = 20_000;
/// How long a walk goes on, if the next claim can go on from there.
pub(crate) const WALK: Duration = Duration::from_secs(1);

/// A walk over so many rows is a long one, if it takes longer than this.
const MANY: u32 = 1_000;
const CHEAP: Duration = Duration::from_millis(1);

/// A row's place in the line: its priority, its time, its number.
type Row = (i64, i64, i64);

/// Before every row.
const FIRST: Row = (i64::MIN, i64::MIN, i64::MIN);

/// What a walk passes by: what stands before a position in the line, unless it became ready since.
#[derive(Clone, Copy)]
struct Passed {
    priority: i64,
    /// Of that priority, what is earlier than this.
    until: i64,
    /// Of more urgent ones.
    since: i64,
}

impl Passed {
    fn by(start: &Start) -> Self {
        let since = micros(start.since);
        start.position.map_or(Self { priority: i64::MIN, until: i64::MIN, since: i64::MIN }, |(priority, time)| Self {
            priority: i64::from(priority),
            until: micros(time).min(since),
            since,
        })
    }
}

/// The position of a row; none for one that somebody gave a priority of beyond all.
fn position(row: Row) -> Option<Position> {
    i16::try_from(row.0).ok().map(|priority| (priority, time(row.1)))
}

/// What one part of a walk has taken, and how far it came.
struct Part {
    claimed: Claimed,
    /// How many of the jobs can run at once.
    side_by_side: usize,
    bytes: usize,
    rooms: HashMap<String, usize>,
    walk: Duration,
    is_long: bool,
    /// Its last row, if more are behind it and there is room for more jobs.
    reached: Option<Row>,
    /// The first that it left because its task has no room for more.
    left: Option<Row>,
    /// Jobs were chosen that the update did not change.
    left_out: bool,
}

/// A request, in a shape that can be sent to the thread that writes.
#[derive(Clone)]
struct Request {
    worker: String,
    tasks: String,
    limit: usize,
    run_length: usize,
    max_bytes: usize,
    free_slots: usize,
    /// Whether there is a job already, so that none is taken however large it is.
    has_some: bool,
    rooms: HashMap<String, usize>,
    forbidden: Option<String>,
    now: Option<i64>,
    passed: Passed,
    /// Where to begin: behind this row.
    from: Row,
    /// How many rows to look at.
    rows: u32,
}

impl SqliteStorage {
    pub(crate) async fn claim_jobs(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        let rooms: HashMap<String, usize> = request.limits.iter().cloned().collect();
        // A task without room would only fill the list of candidates.
        let tasks: Vec<String> = request.tasks.iter().filter(|task| rooms.get(*task) != Some(&0)).cloned().collect();
        if request.limit == 0 || tasks.is_empty() {
            return Ok(Claimed::default());
        }
        let forbidden = (!request.forbidden_flags.is_empty()).then(|| crate::json(request.forbidden_flags.to_vec()));
        // What is added from now on is ready later than this, whatever the worker's own clock says.
        let present = self.file.now();
        let moment = time(request.now.map_or(present, |now| micros(now).min(present)));
        let start = self.cursor.begin(request, moment, Instant::now());
        let mut wanted = Request {
            worker: request.worker.to_string(),
            tasks: crate::json(tasks),
            limit: request.limit,
            run_length: request.run_length,
            max_bytes: request.max_bytes,
            free_slots: request.free_slots,
            has_some: false,
            rooms,
            forbidden,
            now: request.now.map(micros),
            passed: Passed::by(&start),
            from: FIRST,
            rows: self.part,
        };
        let mut all = Claimed::default();
        let mut walk = Walk { took: Duration::ZERO, is_long: false, reached: Reached::End };
        let mut left = None;
        loop {
            let (clock, part) = (Arc::clone(self.file.clock()), wanted.clone());
            let part = self
                .file
                .writer
                .write("claim jobs", move |connection| Box::pin(async move { claim(&clock, connection, part).await }))
                .await;
            let part = match part {
                Ok(part) => part,
                // What was taken is held, so it has to be told. The next claim meets the error again, if it lasts.
                Err(error) if !all.jobs.is_empty() => {
                    tracing::warn!(%error, "a claim could not go on");
                    all.more = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            walk.took += part.walk;
            walk.is_long |= part.is_long;
            all.jobs.extend(part.claimed.jobs);
            all.more = part.claimed.more;
            all.for_free_slots = part.claimed.for_free_slots;
            left = left.or(part.left);
            if let Some(warning) = part.left_out.then(|| self.left_out.warning()).flatten() {
                tracing::warn!("{warning}");
            }
            let Some(row) = part.reached else { break };
            // The next one begins with all jobs of that time, so this one has to come further than that. A row that somebody gave a
            // priority of beyond all is walked over from the start.
            let place = position(row).filter(|place| Some(*place) != start.position);
            if let Some(place) = place.filter(|_| walk.took >= self.walk && start.may_break_off) {
                walk.reached = Reached::BrokenOff(place);
                break;
            }
            wanted.has_some |= part.side_by_side > 0;
            wanted.limit -= part.side_by_side.min(wanted.limit);
            wanted.free_slots = wanted.free_slots.saturating_sub(part.side_by_side);
            wanted.max_bytes = wanted.max_bytes.saturating_sub(part.bytes);
            wanted.rooms = part.rooms;
            wanted.from = row;
        }
        let left = left.and_then(position);
        walk.reached = match (walk.reached, left) {
            // It ended there because it had enough.
            (Reached::End, _) if all.jobs.len() >= request.limit || all.more => Reached::Taken,
            // What had no room may have some at the next claim.
            (Reached::End, Some(left)) => Reached::Until(left),
            (Reached::BrokenOff(place), Some(left)) => Reached::BrokenOff(place.min(left)),
            (reached, _) => reached,
        };
        self.cursor.end(&start, request, &mut all, &walk, Instant::now());
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
