//! What should be added when: crontab text, and the schedules in it.
//!
//! - A **crontab** is a text with one entry per line: five time fields, a task, options, a payload.
//! - A **schedule** is the time fields of an entry: the minutes at which it is due, in UTC.
//! - An entry's **identifier** names it in the database, so that every worker knows when it last ran. It is the task's name
//!   unless the option `id` says otherwise.
//! - **Backfill** (the option `fill`) is how far back missed minutes are caught up.
//!
//! The dialect is Graphile's, so one file serves workers of both languages:
//!
//! ```text
//! # minute hour day-of-month month day-of-week task ?options {payload}
//! 0 4 * * *      send_report   ?fill=1d&max=3            {to: "ada@example.com"}
//! */15 8-18 * * 1-5  sync      ?id=sync_office_hours&queue=sync&jobKey=sync&priority=-5
//! ```
//!
//! | option | what it is | default |
//! | --- | --- | --- |
//! | `id` | the identifier: letters, digits, `_`, `-` | the task's name |
//! | `fill` | how far back: `4w3d2h1m30s`, or parts of that | none |
//! | `max` | `max_attempts`, 1 to 32767 | 25 |
//! | `queue` | serial queue: letters, digits, `-`, `_`, `:` | none |
//! | `jobKey`, `jobKeyMode` | key, and `replace` or `preserve_run_at` | none, `replace` |
//! | `priority` | smaller runs sooner, any `i16` | 0 |
//!
//! The payload is a JSON5 object on the same line. There are no trailing comments, names of months or days, or seconds.
//!
//! What this crate does not have yet is the scheduler that adds the due jobs.

mod crontab;
mod field;
mod schedule;

pub use crontab::{CronEntry, Crontab, CrontabProblem};
pub use schedule::Schedule;
