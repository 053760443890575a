//! A workflow's row: as it stands, and as it is made.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A moment, or a length of time, in milliseconds; moments are counted from 1970, by the storage's clock.
pub type Ms = i64;

/// What has become of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Status {
    /// An executor runs it, or ran it until it died.
    Pending,
    /// It waits in its queue.
    Enqueued,
    /// It goes to its queue later.
    Delayed,
    /// It has answered.
    Success,
    /// It has failed.
    Error,
    /// Somebody has cancelled it, or its time was up.
    Cancelled,
    /// It was begun too often without an end. It waits for somebody to resume it.
    #[serde(rename = "MAX_RECOVERY_ATTEMPTS_EXCEEDED")]
    Exhausted,
}

impl Status {
    /// All of them, in the order of a workflow's life.
    pub const ALL: [Self; 7] =
        [Self::Enqueued, Self::Delayed, Self::Pending, Self::Success, Self::Error, Self::Cancelled, Self::Exhausted];

    /// As it stands in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Enqueued => "ENQUEUED",
            Self::Delayed => "DELAYED",
            Self::Success => "SUCCESS",
            Self::Error => "ERROR",
            Self::Cancelled => "CANCELLED",
            Self::Exhausted => "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
        }
    }

    /// Reads the table's word.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing runs, or will run, unless somebody resumes it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Error | Self::Cancelled | Self::Exhausted)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A value as it is stored: text, and the name of the format it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// The text.
    pub text: String,
    /// The format's name. `None` is the default of whoever wrote it.
    pub format: Option<String>,
}

/// A workflow's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Run {
    /// Its id.
    pub id: String,
    /// What has become of it.
    pub status: Status,
    /// The workflow's name.
    pub name: String,
    /// What it was given. `None` where it was not asked for.
    pub input: Option<String>,
    /// What it answered.
    pub output: Option<String>,
    /// What it failed with.
    pub error: Option<String>,
    /// The format of these three.
    pub format: Option<String>,
    /// The process that runs it, or ran it.
    pub executor: Option<String>,
    /// The token of the execution that may write.
    pub owner: Option<String>,
    /// The token of whoever stored it.
    pub creator: Option<String>,
    /// The version of the program that it belongs to.
    pub version: Option<String>,
    /// The application that it belongs to.
    pub application: Option<String>,
    /// The queue it is in, or came from.
    pub queue: Option<String>,
    /// The part of the queue.
    pub partition: Option<String>,
    /// Lower runs first.
    pub priority: i32,
    /// What must be unique in the queue until the end.
    pub deduplication: Option<String>,
    /// How often it was begun.
    pub attempts: i64,
    /// The workflow that started it.
    pub parent: Option<String>,
    /// The schedule that started it.
    pub schedule: Option<String>,
    /// How long it may run, from its start.
    pub timeout: Option<Ms>,
    /// Until when it may run.
    pub deadline: Option<Ms>,
    /// When it goes to its queue.
    pub delay_until: Option<Ms>,
    /// When it was stored.
    pub created_at: Ms,
    /// When the row was written last.
    pub updated_at: Ms,
    /// When it was begun last.
    pub started_at: Option<Ms>,
    /// When it ended.
    pub completed_at: Option<Ms>,
    /// The workflow of which it is a fork.
    pub forked_from: Option<String>,
    /// Whether others are forks of it.
    pub was_forked_from: bool,
    /// Whether its start counted against a rate limit.
    pub rate_limited: bool,
    /// Whether further calls with its key move it.
    pub debounced: bool,
    /// How far those may move it.
    pub debounce_deadline: Option<Ms>,
    /// Who asked for it.
    pub user: Option<String>,
    /// The role in which they asked.
    pub role: Option<String>,
    /// Their roles, as a JSON array.
    pub roles: Option<String>,
    /// The class of the workflow, in languages that have them.
    pub class: Option<String>,
    /// The name of the instance, in languages that have them.
    pub config: Option<String>,
    /// Whatever the caller said of it.
    pub attributes: Option<Value>,
}

/// A new workflow's row.
#[derive(Clone, Debug, Default)]
pub struct NewRun {
    /// Its id.
    pub id: String,
    /// The workflow's name.
    pub name: String,
    /// What it is given, in the portable format.
    pub input: String,
    /// The token of this call: it tells a repeated call from another one.
    pub creator: String,
    /// Who begins it at once. `None` leaves it to its queue.
    pub start: Option<Execution>,
    /// The queue. Always there if nobody begins it at once.
    pub queue: Option<String>,
    /// How long it waits before it goes to its queue.
    pub delay: Option<Ms>,
    /// As [`Run::partition`].
    pub partition: Option<String>,
    /// As [`Run::priority`].
    pub priority: i32,
    /// As [`Run::deduplication`].
    pub deduplication: Option<String>,
    /// As [`Run::version`].
    pub version: Option<String>,
    /// As [`Run::application`].
    pub application: Option<String>,
    /// As [`Run::parent`].
    pub parent: Option<String>,
    /// As [`Run::schedule`].
    pub schedule: Option<String>,
    /// As [`Run::timeout`].
    pub timeout: Option<Ms>,
    /// As [`Run::deadline`].
    pub deadline: Option<Ms>,
    /// Whether further calls with its deduplication id move it, and for how long at most.
    pub debounce: Option<Debounce>,
    /// As [`Run::user`].
    pub user: Option<String>,
    /// As [`Run::role`].
    pub role: Option<String>,
    /// As [`Run::roles`].
    pub roles: Option<String>,
    /// As [`Run::class`].
    pub class: Option<String>,
    /// As [`Run::config`].
    pub config: Option<String>,
    /// As [`Run::attributes`].
    pub attributes: Option<Value>,
}

impl NewRun {
    /// The status it is stored with.
    #[must_use]
    pub fn status(&self) -> Status {
        match (&self.start, self.delay) {
            (Some(_), _) => Status::Pending,
            (None, Some(_)) => Status::Delayed,
            (None, None) => Status::Enqueued,
        }
    }
}

/// That calls with the same key move a waiting workflow instead of starting another one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debounce {
    /// How long after the first call it goes to its queue at the latest.
    pub at_most: Option<Ms>,
}

/// Who runs a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The process.
    pub executor: String,
    /// The token of this execution.
    pub owner: String,
}

/// What became of a new row.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Created {
    /// It is stored, now or by an earlier try of this call. Its deadline, if it has one.
    New {
        /// Until when it may run.
        deadline: Option<Ms>,
    },
    /// The id was there.
    Exists(Existing),
    /// Another workflow in the queue has the deduplication id. Nothing was stored.
    Duplicate {
        /// That workflow's id.
        holder: String,
    },
    /// A waiting workflow with the same key was moved, and given this input. Nothing was stored.
    Moved {
        /// That workflow's id.
        id: String,
    },
}

impl Created {
    /// Whether a step that starts this workflow is recorded with it.
    #[must_use]
    pub fn is_kept(&self, name: &str) -> bool {
        match self {
            Self::New { .. } | Self::Moved { .. } => true,
            Self::Exists(existing) => existing.name == name,
            Self::Duplicate { .. } => false,
        }
    }
}

/// What is known of a row that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Existing {
    /// What has become of it.
    pub status: Status,
    /// The workflow's name.
    pub name: String,
    /// The token of the execution that may write.
    pub owner: Option<String>,
}
