//! What a claim is told of where to look, and what it tells of how it went.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// A place in a line: jobs are claimed by priority, then by time.
pub(in crate::postgres) type Position = (i16, DateTime<Utc>);

/// How a claim went.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Course {
    /// The server's time.
    pub moment: Option<DateTime<Utc>>,
    pub plain_end: Option<Position>,
    /// How long looking for jobs without queues took; for any jobs, if nothing else was looked for.
    pub plain_took: Duration,
    pub queue_end: Option<Position>,
    /// How long looking for jobs of queues took, if they were looked for by themselves.
    pub queue_took: Option<Duration>,
    /// The queues of which something stands before `queue_end`.
    pub seen_queues: Vec<i32>,
    /// Priorities at which jobs stand and that were not known.
    pub seen_levels: Vec<i16>,
    /// Jobs were chosen and locked, and none was changed.
    pub left_out: bool,
}

/// Where a look begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::postgres) struct Cursor {
    pub position: Position,
    /// What stands before the position and was ready at this time is passed by.
    pub since: DateTime<Utc>,
}

/// What a claim is told of its looks.
#[derive(Clone, Debug)]
pub(in crate::postgres) struct Looks {
    pub plain: Option<Cursor>,
    /// `None` for no end.
    pub plain_rows: Option<i32>,
    pub queued: Option<Cursor>,
    pub queue_rows: i32,
    /// How many jobs of queues it may take.
    pub(super) in_all: usize,
    /// A bounded look for jobs without queues sees so many rows at first.
    pub(super) first_rows: i32,
    /// The queues of which something was passed by.
    pub passed: Arc<Vec<i32>>,
    /// The priorities that are known.
    pub levels: Arc<Vec<i16>>,
    /// Queues of ours that were freed: if the next job of one is for other workers, they have to be told.
    pub freed_queues: Vec<String>,
    /// Of which state of the lines this is.
    pub(super) generation: u64,
    /// How many queues of ours were freed before.
    pub(super) freed: u64,
    /// The line of queues was not seen to be short since a look for them was cut, or dear.
    pub(super) queues_are_long: bool,
    /// This look is back where queues were taken, off the way of the pass.
    pub(super) is_aside: bool,
    /// Whose state this is of; `None` for a claim that passes nothing by.
    pub(super) set: Option<u64>,
}

impl Looks {
    /// Whether nothing is passed by and nothing is bounded: as long as that is cheap. (A pass that begins anew passes nothing by
    /// either, but to take jobs as they are would be to walk the whole line of queues that are held.)
    pub fn are_simple(&self) -> bool {
        self.set.is_some()
            && !self.queues_are_long
            && self.plain.is_none()
            && self.plain_rows.is_none()
            && self.queued.is_none()
            && self.freed_queues.is_empty()
    }
}
