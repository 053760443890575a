//! What is looked at: messages, events, streams; and which workflows are meant.

use serde::{Deserialize, Serialize};

use super::{Encoded, Ms, Run, Status, StepRow};

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    /// Its id.
    pub id: String,
    /// The topic.
    pub topic: Option<String>,
    /// What it says.
    pub body: Encoded,
    /// When it was sent.
    pub created_at: Ms,
    /// Whether a workflow has received it.
    pub consumed: bool,
    /// The step that has.
    pub consumed_by: Option<i32>,
}

/// An event's value, as a step has set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// The step.
    pub step: i32,
    /// The event's name.
    pub key: String,
    /// The value.
    pub value: Encoded,
}

/// A value of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The stream.
    pub key: String,
    /// Its place, from 0.
    pub offset: i32,
    /// The value.
    pub value: Encoded,
    /// The step that wrote it.
    pub step: i32,
}

/// A workflow with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Its row.
    pub run: Run,
    /// Its steps.
    pub steps: Vec<StepRow>,
    /// What was sent to it.
    pub messages: Vec<MessageRow>,
    /// Its events, as they were set one after the other.
    pub events: Vec<EventRow>,
    /// Its streams.
    pub streams: Vec<StreamRow>,
}

/// Which workflows are meant: `Filter { statuses: vec![Status::Error], ..Filter::default() }`. Fields that are empty mean all; lists mean any of
/// their members.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct Filter {
    /// Their ids.
    pub ids: Vec<String>,
    /// How their ids begin.
    pub id_prefixes: Vec<String>,
    /// Their names.
    pub names: Vec<String>,
    /// What has become of them.
    pub statuses: Vec<Status>,
    /// Their queues.
    pub queues: Vec<String>,
    /// Those in a queue alone.
    pub queued_only: bool,
    /// Their versions.
    pub versions: Vec<String>,
    /// Who runs them.
    pub executors: Vec<String>,
    /// Who asked for them.
    pub users: Vec<String>,
    /// What they are forks of.
    pub forked_from: Vec<String>,
    /// Who started them.
    pub parents: Vec<String>,
    /// Whether another workflow started them.
    pub has_parent: Option<bool>,
    /// Whether others are forks of them.
    pub was_forked_from: Option<bool>,
    /// The schedules that started them.
    pub schedules: Vec<String>,
    /// Stored at this moment or later.
    pub created_from: Option<Ms>,
    /// Stored at this moment or earlier.
    pub created_until: Option<Ms>,
    /// Ended at this moment or later.
    pub completed_from: Option<Ms>,
    /// Ended at this moment or earlier.
    pub completed_until: Option<Ms>,
    /// Begun at this moment or later.
    pub started_from: Option<Ms>,
    /// Begun at this moment or earlier.
    pub started_until: Option<Ms>,
    /// How many at most. `None` is all of them.
    pub limit: Option<i64>,
    /// How many are left out at the beginning.
    pub offset: i64,
    /// Newest first.
    pub newest_first: bool,
    /// Whether inputs are read.
    pub load_input: bool,
    /// Whether outputs and errors are read.
    pub load_output: bool,
}

impl Filter {
    /// These workflows, with all their values.
    #[must_use]
    pub fn of_ids<S: Into<String>>(ids: impl IntoIterator<Item = S>) -> Self {
        Self { ids: ids.into_iter().map(Into::into).collect(), load_input: true, load_output: true, ..Self::default() }
    }

    /// Whether a row is meant.
    #[must_use]
    pub fn matches(&self, run: &Run) -> bool {
        fn any(list: &[String], value: Option<&str>) -> bool {
            list.is_empty() || value.is_some_and(|value| list.iter().any(|one| one == value))
        }
        fn within(value: Option<Ms>, from: Option<Ms>, until: Option<Ms>) -> bool {
            from.is_none_or(|from| value.is_some_and(|value| value >= from))
                && until.is_none_or(|until| value.is_some_and(|value| value <= until))
        }
        any(&self.ids, Some(&run.id))
            && (self.id_prefixes.is_empty() || self.id_prefixes.iter().any(|prefix| run.id.starts_with(prefix)))
            && any(&self.names, Some(&run.name))
            && (self.statuses.is_empty() || self.statuses.contains(&run.status))
            && any(&self.queues, run.queue.as_deref())
            && (!self.queued_only || run.queue.is_some())
            && any(&self.versions, run.version.as_deref())
            && any(&self.executors, run.executor.as_deref())
            && any(&self.users, run.user.as_deref())
            && any(&self.forked_from, run.forked_from.as_deref())
            && any(&self.parents, run.parent.as_deref())
            && self.has_parent.is_none_or(|has| run.parent.is_some() == has)
            && self.was_forked_from.is_none_or(|was| run.was_forked_from == was)
            && any(&self.schedules, run.schedule.as_deref())
            && within(Some(run.created_at), self.created_from, self.created_until)
            && within(run.completed_at, self.completed_from, self.completed_until)
            && within(run.started_at, self.started_from, self.started_until)
    }
}
