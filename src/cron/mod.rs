//! What should be added when: crontab text, schedules, and the scheduler that adds what is due.
//!
//! - A **crontab** is a text with one entry per line: five time fields, a task, options, a payload. Entries may also be
//!   made in code ([`CronEntry::new`]).
//! - A **schedule** says when an entry is due.
//! - An entry's **identifier** names it in the database, so that every worker knows when it was last due. It is the task's
//!   name unless the option `id` says otherwise.
//! - **Backfill** (the option `fill`) is how far back missed moments are caught up.
//! - The **scheduler** is the part of a worker that adds due jobs. Any number of workers, in either language, may run the
//!   same crontab: for each identifier and moment one of them adds the job.
//!
//! # The text
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
//! The payload is a JSON5 object on the same line. Times are UTC. There are no trailing comments, names of months or days,
//! or seconds.
//!
//! # The extended dialect
//!
//! Node's parser refuses what follows, so it has to be asked for: by the option `dialect=extended` for one line, or by
//! a comment `# dialect: extended` for the lines after it (until `# dialect: graphile`).
//!
//! ```text
//! # dialect: extended
//! 0 9 * * MON-FRI       greet   ?tz=Europe/Berlin
//! */10 * * * * *        probe
//! 10-50/20 * * JAN *    tidy
//! @daily                report  ?id=nightly
//! ```
//!
//! Names may be in either case, of six fields the first is seconds, `a/n` means from `a` on, and the short forms are `@yearly`,
//! `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` and `@hourly`. With `tz`, which needs the feature
//! `time-zones`, the fields are read in that zone of the IANA database: the machine's, or an embedded one that is newer (`zone_data`
//! tells which). When its clocks change, a schedule with a restricted
//! hour is due once a day: at the moment the clocks have gone forward if its time was skipped, the first time if it comes
//! twice. One with an unrestricted hour follows the elapsed time.
//!
//! # What is caught up
//!
//! | missed because | what happens |
//! | --- | --- |
//! | the entry was never seen before | nothing is caught up: it is due from now on |
//! | no worker ran | within `fill`, when one starts; `_cron.backfilled` is true |
//! | the storage was away | within `fill` (and within a minute in any case), when it is back. Node loses these |
//! | the process was paused, or its clock jumped forward | all of it, as with Node, but within `fill` or an hour |
//! | the clock was set back | nothing is due again; if by more than an hour, the scheduler starts anew |
//!
//! A job's payload has, beside the entry's own keys, `_cron: {"ts": "2026-11-21T06:43:00.000Z", "backfilled": false}`, and
//! its `run_at` is that moment.

mod crontab;
mod entry;
mod events;
mod field;
mod hints;
mod nested;
mod options;
mod pattern;
mod problem;
mod schedule;
mod scheduler;
mod zone;
#[cfg(feature = "time-zones")]
mod zone_data;

pub use crontab::Crontab;
pub use entry::CronEntry;
pub use events::CronEvent;
#[cfg(feature = "testing")]
pub(crate) use options::time_phrase;
pub use problem::CrontabProblem;
pub use schedule::Schedule;
pub(crate) use scheduler::Scheduler;
#[cfg(feature = "time-zones")]
pub use zone_data::{ZoneData, zone_data};

/// Which texts are understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// What Node's graphile-worker understands, no more and no less.
    #[default]
    Graphile,
    /// A superset: names, steps of ranges, short forms, seconds, time zones.
    Extended,
}
