//! What a job is doing, as people ask for it.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// What a job is doing. Done jobs are deleted, so there is no state for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// Waits for a free worker (or for its serial queue).
    Ready,
    /// Its time has not come.
    Scheduled,
    /// A worker holds it.
    Running,
    /// An attempt failed, and attempts are left: waits for the next, or is due for it.
    Retrying,
    /// No attempts left: a dead letter. Stays until somebody reschedules or removes it.
    Dead,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Scheduled, Self::Running, Self::Retrying, Self::Dead];

    /// The state's name, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Error::InvalidJob {
            what: "job state",
            value: text.to_owned(),
            problem: "must be ready, scheduled, running, retrying or dead".to_owned(),
        })
    }
}
