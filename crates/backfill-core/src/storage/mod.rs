//! The seam between jobs and where they are kept.
//!
//! A storage is cut by **capability**: one trait for each kind of caller. [`Storage`] is what everybody needs, and it hands out the
//! others. [`memory`] is the smallest correct implementation. `contract` (feature `contract`) has the cases that each must
//! pass, cut in the same way.
//!
//! | trait | for whom | what |
//! | --- | --- | --- |
//! | [`Storage`] | everybody | name, capabilities, migration, clock, adding jobs |
//! | [`Consumer`] | workers | registering, heartbeats, claiming, settling, releasing, rescuing, wakeups |
//! | [`Schedules`] | the crontab's scheduler | one job per entry and moment |
//! | [`Admin`] | people, by client and binary | removing, completing, discarding, rescheduling, unlocking, cleaning up |
//! | [`Inspect`] | people, pages, checks | jobs, counts, queues, tasks, workers |
//! | [`Transfer`] | `backfill move` | reserving jobs here, importing them there |
//! | [`Messages`](messages::Messages) | doors, and programs that need a durable queue | lines, leases, units, documents, events |
//! | [`Doctor`] | `backfill doctor` | what is wrong, and its remedy |
//!
//! No method that does anything has a default: a wrapper decides about each. The verbs take and give lists: a single job is a list of one, and no
//! second path exists.
//!
//! - To **claim** is to take ready jobs for one worker: each is locked by the worker's id and its attempt is
//!   counted.
//! - To **settle** is to say how claimed jobs ended. A settlement names its claim ([`ClaimRef`]); one whose
//!   claim somebody else has meanwhile broken (the *fence*) changes nothing.
//! - A **wakeup** tells a worker that a claim may find something.
//! - A new job may be **handed off** to a worker that [offers](Offer) to take it: then it is stored as claimed.

mod capabilities;
mod check;
mod chooser;
mod claim;
#[cfg(feature = "contract")]
pub mod contract;
mod cron;
mod cursor;
mod handoff;
mod heartbeat;
mod inspect;
mod left_out;
mod manage;
pub mod memory;
pub mod messages;
mod outcome;
mod settle;
mod status;
mod tally;
mod traits;
mod wakeup;

pub use capabilities::Capabilities;
pub use check::{Check, CheckStatus};
pub use chooser::{Choice, Chooser};
pub use claim::{ClaimRequest, ClaimToken, Claimed, ClaimedJob, WorkerId};
pub use cron::{DueJob, KnownCrontab};
pub use cursor::{Cursor, Position, Reached, Start, Walk};
pub use handoff::{Handoff, Offer};
pub use heartbeat::{Registered, Registration, Rescued, Watch};
pub use inspect::{QueueInfo, QueueList, TaskInfo, WorkerInfo};
pub use left_out::LeftOut;
pub use manage::{Cleaned, Cleanup, Counts, JobFilter, Migrated, Reschedule, check_whole, reserved_at};
pub use outcome::{Change, INTERRUPTED, MAX_ERROR_BYTES, Outcome, clean_error};
pub use settle::{ClaimRef, Settled, Settlement, Then};
pub use status::WorkerStatus;
pub use tally::{Effort, Number, Precision, Tally};
pub use traits::{Admin, Consumer, Doctor, Inspect, Offers, Schedules, Storage, Transfer};
pub use wakeup::Wakeup;

pub use crate::job::NewJob;
