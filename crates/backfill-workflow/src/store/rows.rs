//! The rows of the tables, as storages read and write them.

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

/// A step's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    /// Its number in the workflow, from 0.
    pub number: i32,
    /// Its name.
    pub name: String,
    /// What it answered.
    pub output: Option<String>,
    /// What it failed with.
    pub error: Option<String>,
    /// The format of both.
    pub format: Option<String>,
    /// The workflow that it started, or whose result it has.
    pub child: Option<String>,
    /// When it began.
    pub started_at: Option<Ms>,
    /// When it ended.
    pub completed_at: Option<Ms>,
}

impl StepRow {
    /// Whether both say the same of the same step. Times are not compared: they differ if a step ran twice.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.number == other.number
            && self.name == other.name
            && self.output == other.output
            && self.error == other.error
            && self.child == other.child
    }
}

/// A step that is to be recorded, with all that is written with it: both or neither.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The workflow.
    pub run: String,
    /// The token of the execution. A row that has another one is not written to.
    pub owner: String,
    /// The step.
    pub step: StepRow,
    /// What goes with it.
    pub effect: Option<Effect>,
}

/// What is written in the transaction of a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// A message to a workflow.
    Send(NewMessage),
    /// The oldest message of a topic is consumed, and becomes the step's output. If there is none, nothing is written.
    Receive {
        /// The topic.
        topic: String,
    },
    /// An event's value.
    Event {
        /// Its name.
        key: String,
        /// The value.
        value: Encoded,
    },
    /// A value at the end of a stream.
    Append {
        /// The stream.
        key: String,
        /// The value.
        value: Encoded,
    },
    /// A workflow that this one starts.
    Child(Box<NewRun>),
    /// Jobs for the queue of jobs, in the same database.
    #[cfg(feature = "postgres")]
    Jobs(backfill::BackfillClient, Vec<backfill::job::NewJob>),
}

/// A message to a workflow.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The message's id: a message whose id is there is not stored again.
    pub id: String,
    /// The workflow.
    pub destination: String,
    /// The topic.
    pub topic: String,
    /// What it says.
    pub body: Encoded,
}

/// What became of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Checkpointed {
    /// It is recorded.
    Written,
    /// It is recorded, and consumed this message.
    Received(Encoded),
    /// It is recorded, and this became of the workflow that it starts.
    Child(Created),
    /// There is no message. Nothing was written.
    NoMessage,
    /// The workflow that a message is for does not exist. Nothing was written.
    NoDestination,
    /// The stream is closed. Nothing was written.
    StreamClosed,
    /// The step was recorded before, like this. Nothing was written.
    Recorded(StepRow),
    /// The execution may not write: the workflow is somebody else's, has ended, or is gone. Nothing was written.
    Refused(Option<Existing>),
}

/// How a workflow ends.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The workflow.
    pub run: String,
    /// The token of the execution.
    pub owner: String,
    /// [`Status::Success`], [`Status::Error`] or [`Status::Exhausted`].
    pub status: Status,
    /// What it answered.
    pub output: Option<String>,
    /// What it failed with.
    pub error: Option<String>,
}

/// A claim for work.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The queue.
    pub queue: &'a str,
    /// A part of it alone.
    pub partition: Option<&'a str>,
    /// How many at most.
    pub limit: i64,
    /// The workflows that this process runs.
    pub names: &'a [String],
    /// Who claims.
    pub executor: &'a str,
    /// The version of this process.
    pub version: &'a str,
    /// The application that it belongs to.
    pub application: Option<&'a str>,
    /// How many of the queue may run at once, in all processes.
    pub concurrency: Option<i64>,
    /// How many of the part may run at once, in all processes.
    pub partition_concurrency: Option<i64>,
    /// How many of the queue may start in a period.
    pub rate: Option<Rate>,
    /// How many of the part may start in a period.
    pub partition_rate: Option<Rate>,
}

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub limit: i64,
    /// In how long, in milliseconds.
    pub period: Ms,
}

/// A claimed workflow, with its history.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its row.
    pub run: Run,
    /// The steps that are recorded.
    pub steps: Vec<StepRow>,
}

/// A change of many rows at once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Transition {
    /// To CANCELLED, whatever has not ended.
    Cancel {
        /// Which.
        ids: Vec<String>,
    },
    /// To CANCELLED, whatever has not ended and was stored before.
    CancelBefore(Ms),
    /// To CANCELLED, whatever has not ended and is beyond its deadline.
    Expire,
    /// To ENQUEUED with a new count of attempts, whatever has neither answered nor failed.
    Resume {
        /// Which.
        ids: Vec<String>,
        /// Where to.
        queue: String,
    },
    /// To CANCELLED, executions whose time is up.
    CancelHeld {
        /// Which.
        held: Vec<Held>,
    },
    /// To ENQUEUED, what executors were running whose lease lapsed. They are known by the leases they had.
    RecoverLapsed {
        /// Not of this one, which asks.
        except: String,
        /// Only of those that have said that they end.
        retired: bool,
    },
    /// To ENQUEUED, what this executor should be running and is not, because an answer was lost.
    Reconcile {
        /// The executor, which asks.
        executor: String,
        /// The tokens of what it runs.
        owners: Vec<String>,
        /// What was begun before this moment.
        before: Ms,
    },
    /// To ENQUEUED, what these executors were running.
    Recover {
        /// Which executors.
        executors: Vec<String>,
        /// Of this version alone.
        version: Option<String>,
    },
    /// To ENQUEUED, executions that their process gives back.
    Return {
        /// Which.
        held: Vec<Held>,
    },
    /// From DELAYED to ENQUEUED, what is due.
    Release,
    /// When it goes to its queue, of one that is DELAYED.
    Delay {
        /// Which.
        id: String,
        /// When.
        until: Ms,
    },
}

/// An execution that a process believes to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The workflow.
    pub run: String,
    /// The token.
    pub owner: String,
}

/// A row that a transition has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The workflow.
    pub id: String,
    /// The token of the execution that had it.
    pub owner: Option<String>,
    /// Its queue.
    pub queue: Option<String>,
}

/// A workflow that begins like another one.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The workflow.
    pub source: String,
    /// The new one's id.
    pub id: String,
    /// The number of the first step that runs anew. What was recorded below it is copied.
    pub from: i32,
    /// The version it belongs to. `None` is the source's.
    pub version: Option<String>,
    /// Its queue.
    pub queue: String,
    /// The part of the queue.
    pub partition: Option<String>,
}

/// A queue's settings. They are in the database, for all processes, and may be changed while they run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// How many run at once, in all processes.
    pub concurrency: Option<i64>,
    /// How many run at once in each process.
    pub worker_concurrency: Option<i64>,
    /// How many start in a period, in all processes.
    pub rate: Option<Rate>,
    /// Whether each workflow names a part of the queue.
    pub partitioned: bool,
    /// How many of each part run at once, in all processes.
    pub partition_concurrency: Option<i64>,
    /// How many of each part run at once in each process.
    pub partition_worker_concurrency: Option<i64>,
    /// How many of each part start in a period, in all processes.
    pub partition_rate: Option<Rate>,
    /// How often a process looks, besides being told.
    pub polling: Ms,
}

/// A schedule's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The workflow that it starts.
    pub workflow: String,
    /// The class of the workflow, in languages that have them.
    pub class: Option<String>,
    /// The cron expression: seconds, minutes, hours, day, month, day of week.
    pub cron: String,
    /// Whether it starts nothing for now.
    pub paused: bool,
    /// What each workflow is told, in the portable format.
    pub context: String,
    /// The moment for which it started one last, as RFC 3339.
    pub last_fired_at: Option<String>,
    /// Whether what was missed is made up for.
    pub catch_up: bool,
    /// The time zone, by its IANA name. `None` is UTC.
    pub time_zone: Option<String>,
    /// The queue of what it starts.
    pub queue: Option<String>,
    /// The application that it belongs to.
    pub application: Option<String>,
}

/// A version of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The application whose version it is.
    pub application: Option<String>,
    /// The latest version is the one with the greatest.
    pub timestamp: Ms,
    /// When it was seen first.
    pub created_at: Ms,
}

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

/// What old rows are deleted by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expired {
    /// Those that ended before.
    pub completed_before: Option<Ms>,
    /// All but so many of those that ended last.
    pub keep_newest: Option<i64>,
    /// How many at most by this call.
    pub batch: i64,
}

/// News from the storage: something may have changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// A queue has work.
    Queue(String),
    /// A workflow has ended.
    Finished(String),
    /// A workflow was cancelled, resumed or deleted by somebody.
    Steered(String),
    /// A message came: `workflow::topic`.
    Message(String),
    /// An event was set: `workflow::key`.
    Event(String),
    /// A stream has grown: `workflow::key`.
    Stream(String),
    /// News may have been missed.
    Anything,
}

/// What a beat of an executor's heart answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Those of its executions that are no longer its own, with what has become of them (`None`: deleted).
    pub lost: Vec<(Held, Option<Status>)>,
}
