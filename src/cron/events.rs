//! What a scheduler tells.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::job::Job;

/// What a scheduler tells about itself.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "cron", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CronEvent {
    /// It reads what is known of its entries.
    Starting,
    /// It waits for due moments, from this one on.
    Started {
        /// When it started.
        at: DateTime<Utc>,
    },
    /// It catches an entry up.
    Backfilling {
        /// The entry.
        identifier: String,
        /// From where.
        since: DateTime<Utc>,
    },
    /// It is about to ask for the jobs of these entries.
    Due {
        /// The moment.
        at: DateTime<Utc>,
        /// The entries' identifiers.
        identifiers: Vec<String>,
    },
    /// A job was added.
    Added {
        /// The moment.
        at: DateTime<Utc>,
        /// The entry.
        identifier: String,
        /// The job.
        job: Arc<Job>,
        /// Whether the moment was missed and caught up.
        backfilled: bool,
    },
    /// Another worker had added the job already.
    Taken {
        /// The moment.
        at: DateTime<Utc>,
        /// The entry.
        identifier: String,
    },
    /// Moments passed that are not caught up.
    Missed {
        /// The entry.
        identifier: String,
        /// The first of them.
        from: DateTime<Utc>,
        /// The next one that is not missed, if there is one.
        until: Option<DateTime<Utc>>,
    },
    /// It woke up later than it should have: the process was paused, or its clock jumped.
    Late {
        /// When something was due.
        expected: DateTime<Utc>,
        /// When it noticed.
        now: DateTime<Utc>,
    },
    /// The clock was set back so far that the scheduler starts anew.
    SetBack {
        /// What it showed.
        was: DateTime<Utc>,
        /// What it shows.
        now: DateTime<Utc>,
    },
    /// The storage refused this entry's job for what is in it. The others are not affected.
    Refused {
        /// The moment.
        at: DateTime<Utc>,
        /// The entry.
        identifier: String,
        /// Why.
        error: String,
    },
    /// The storage cannot be reached; it is tried again.
    Unavailable {
        /// Why.
        error: String,
    },
}
