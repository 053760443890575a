//! What a line holds.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// How many jobs of a line there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Depth {
    /// The line.
    pub line: String,
    /// Those that could be taken now, whatever happened to them before.
    pub ready: u64,
    /// Those whose time has not come.
    pub delayed: u64,
    /// Those that somebody holds.
    pub held: u64,
    /// Whether these are all: counting ends at a cap, and then there may be more.
    pub exact: bool,
}

impl Depth {
    /// So many, counted up to `cap`.
    #[must_use]
    pub fn new(line: impl Into<String>, [ready, delayed, held]: [u64; 3], cap: u32) -> Self {
        let cap = u64::from(cap);
        let exact = [ready, delayed, held].into_iter().all(|count| count <= cap);
        Self { line: line.into(), ready: ready.min(cap), delayed: delayed.min(cap), held: held.min(cap), exact }
    }
}

/// What to delete of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purge {
    /// What could be taken now.
    Ready,
    /// What could have been taken at this time already.
    ReadyBefore(DateTime<Utc>),
    /// Everything, also what is held, delayed or dead.
    All,
}
