//! Claims, changes of many rows at once, and news of them.

use super::{Ms, Rate, Run, Status, StepRow};

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
