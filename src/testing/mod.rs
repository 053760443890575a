//! The test kit: for the tests of programs that add jobs, and of tasks. It needs the feature `testing`, which belongs in
//! `[dev-dependencies]` alone.
//!
//! ```toml
//! [dev-dependencies]
//! backfill = { version = "4.0.0-alpha.1", features = ["testing"] }
//! ```
//!
//! A [`TestQueue`] is a queue of the test's own: in memory, in an SQLite file, or in a PostgreSQL schema. One test can run on each of them
//! ([`on_each_storage!`]).
//!
//! | to test | there is |
//! | --- | --- |
//! | added jobs | [`jobs`](TestQueue::jobs), [`during`](TestQueue::during), [`within_tx`](TestQueue::within_tx), [`wait_for`](TestQueue::wait_for): [`Jobs`], asserted by [`job`] and [`job_named`] |
//! | one task alone | [`perform`](TestQueue::perform), [`context`](TestQueue::context) |
//! | running jobs | [`drain`](TestQueue::drain), with a [`Report`]; [`inline`](TestQueue::inline) |
//! | time | [`advance`](TestQueue::advance), [`cron`](TestQueue::cron) |
//! | a storage that fails | [`fail_next_adds`](TestQueue::fail_next_adds), [`lose_answers`](TestQueue::lose_answers), [`slow`](TestQueue::slow), [`away`](TestQueue::away), [`Faults`] |
//! | a worker | [`EventRecorder`] |
//!
//! - An **assertion** that fails lists the jobs that are there, and names the **nearest** one: the job of the same task that differs in the fewest
//!   fields, with those fields.
//! - To **perform** a task is to run it without storing a job. To **drain** the queue is to let a worker run what is in it.
//! - Time that **passes** makes everything stored older. No clock is moved.
//!
//! A queue that cannot be set up or read panics, as a failed assertion does.

mod advance;
mod cron;
mod drain;
mod each_storage;
mod failure;
mod faults;
mod faulty;
mod inline;
mod jobs;
mod json;
mod matcher;
mod perform;
mod place;
mod queue;
mod recorder;
mod report;
mod snapshot;
mod span;
mod wait;

pub use advance::Advance;
pub use cron::{CronSpan, IntoCrontab};
pub use drain::Drain;
pub use faults::Faults;
pub use faulty::FaultyStorage;
pub use jobs::{Found, Jobs};
pub use matcher::{JobMatcher, job, job_named};
pub use perform::{Perform, Performed};
pub use queue::TestQueue;
pub use recorder::EventRecorder;
pub use report::Report;
pub use span::{IntoDuration, Span, within};

#[doc(inline)]
pub use crate::__on_each_storage as on_each_storage;
