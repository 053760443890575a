//! What the scheduler of crontabs asks for.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::job::NewJob;
use crate::json;

/// A crontab entry that some worker has run, of either language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KnownCrontab {
    /// The entry's identifier.
    pub identifier: String,
    /// When it was first seen. Moments before that are never caught up.
    #[serde(serialize_with = "json::time")]
    pub known_since: DateTime<Utc>,
    /// The last moment for which a job was added.
    #[serde(serialize_with = "json::optional_time")]
    pub last_execution: Option<DateTime<Utc>>,
}

impl KnownCrontab {
    /// A record.
    #[must_use]
    pub fn new(identifier: String, known_since: DateTime<Utc>, last_execution: Option<DateTime<Utc>>) -> Self {
        Self { identifier, known_since, last_execution }
    }
}

/// A job that a crontab entry wants to have added at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct DueJob {
    /// The entry's identifier.
    pub identifier: String,
    /// The job.
    pub job: NewJob,
}
