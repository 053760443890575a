//! What a health check says.

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What was looked at, such as `privileges`.
    #[serde(rename = "check")]
    pub what: &'static str,
    /// What was seen.
    #[serde(flatten)]
    pub status: CheckStatus,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Fine {
        /// In short.
        detail: String,
    },
    /// Something is wrong.
    Found {
        /// What.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// It could not be looked at.
    Skipped {
        /// Why.
        why: String,
    },
}

impl Check {
    /// What was seen of this.
    #[must_use]
    pub fn new(what: &'static str, status: CheckStatus) -> Self {
        Self { what, status }
    }
}
