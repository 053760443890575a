//! Steps, what is written with them, and the end.

use serde::{Deserialize, Serialize};

use super::{Created, Encoded, Existing, Ms, NewRun, Status};

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
