//! The crate's one error type.

use std::sync::Arc;

use backfill::error::FailureKind;

use crate::store::Status;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate's own calls. What a workflow or a step fails with is a [`Failure`](crate::Failure), which may
/// hold one of these.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage has failed.
    #[error("{action}: {source}")]
    Storage {
        /// What was to be done.
        action: &'static str,
        /// What kind of failure it was.
        kind: FailureKind,
        /// What the driver said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The queue of jobs has failed.
    #[error(transparent)]
    Jobs(#[from] Arc<backfill::Error>),

    /// The tables are not there, or not as this program needs them.
    #[error("{problem}. {remedy}")]
    NotReady {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },

    /// Something that was given is outside what is allowed. Nothing was written.
    #[error("{what} {value:?} {problem}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// Its value, shortened when long.
        value: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A value could not be written or read as what it should be.
    #[error("{what} cannot be read: {problem}")]
    Decode {
        /// Which value.
        what: String,
        /// What is wrong with it.
        problem: String,
    },

    /// There is no such workflow.
    #[error("there is no workflow with the id {id:?}")]
    NoWorkflow {
        /// The id.
        id: String,
    },

    /// The id belongs to a workflow of another name. Nothing was started.
    #[error("the id {id:?} belongs to a workflow {recorded:?}, not {found:?}; give this one another id")]
    OtherWorkflow {
        /// The id.
        id: String,
        /// The name that is recorded.
        recorded: String,
        /// The name that was given.
        found: String,
    },

    /// No workflow of this name is registered in this process.
    #[error(
        "no workflow {name:?} is registered; register it with the engine's builder, or start it by a queue for others to run"
    )]
    NotRegistered {
        /// The name.
        name: String,
    },

    /// Two things of one name were registered.
    #[error("{what} {name:?} is registered twice; give one of them another name")]
    RegisteredTwice {
        /// What they are.
        what: &'static str,
        /// Their name.
        name: String,
    },

    /// Another workflow in the queue has the deduplication id. Nothing was started.
    #[error("the workflow {holder:?} in the queue {queue:?} has the deduplication id {deduplication:?} until it ends")]
    Duplicate {
        /// The queue.
        queue: String,
        /// The deduplication id.
        deduplication: String,
        /// That workflow's id.
        holder: String,
    },

    /// The workflow was cancelled, or its time was up.
    #[error("the workflow {id:?} was cancelled")]
    Cancelled {
        /// Its id.
        id: String,
    },

    /// The workflow was begun too often without an end.
    #[error("the workflow {id:?} was begun too often without an end; `resume` begins it anew")]
    Exhausted {
        /// Its id.
        id: String,
    },

    /// The workflow's code does something else than what is recorded of its earlier run. No effect was run.
    #[error(
        "the workflow {run:?} is not deterministic: its step {step} is recorded as {recorded:?}, and is {found:?} now. \
         Order the steps as they were, or guard the change with `patch`"
    )]
    UnexpectedStep {
        /// The workflow.
        run: String,
        /// The step's number.
        step: i32,
        /// The name that is recorded.
        recorded: String,
        /// The name that the code has now.
        found: String,
    },

    /// Another result of the same step is recorded: somebody else runs this workflow.
    #[error("the step {step} ({name:?}) of the workflow {run:?} was recorded by another execution")]
    StepConflict {
        /// The workflow.
        run: String,
        /// The step's number.
        step: i32,
        /// Its name.
        name: String,
    },

    /// Two receive from one topic of one workflow at once.
    #[error("the workflow {run:?} receives from the topic {topic:?} already; receive one message after the other")]
    ReceiveConflict {
        /// The workflow.
        run: String,
        /// The topic.
        topic: String,
    },

    /// A value was written to a stream that was closed.
    #[error("the stream {key:?} of the workflow {run:?} is closed")]
    StreamClosed {
        /// The workflow.
        run: String,
        /// The stream.
        key: String,
    },

    /// What a workflow alone may do was done inside a step.
    #[error(
        "{what} inside the step {step:?}: a step is recorded as a whole; do it in the workflow, before or after the step"
    )]
    InsideStep {
        /// What was done.
        what: &'static str,
        /// The step.
        step: String,
    },

    /// A step took longer than it may.
    #[error("the step {step:?} took longer than {limit:?}")]
    StepTimeout {
        /// The step.
        step: String,
        /// How long it may take.
        limit: std::time::Duration,
    },

    /// The storage has no such thing.
    #[error("{storage} has no {what}")]
    Unsupported {
        /// The storage.
        storage: &'static str,
        /// What it lacks.
        what: &'static str,
    },

    /// The engine is shutting down; what was asked for is not done.
    #[error("the engine is shutting down")]
    Closed,
}

impl Error {
    pub(crate) fn invalid(what: &'static str, value: &str, problem: impl Into<String>) -> Self {
        let mut short: String = value.chars().take(100).collect();
        if short.len() < value.len() {
            short.push('…');
        }
        Self::Invalid { what, value: short, problem: problem.into() }
    }

    pub(crate) fn decode(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Decode { what: what.into(), problem: format!("{problem}") }
    }

    /// Whether the storage could not be asked.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Storage { kind, .. } if kind.is_away())
    }

    /// Whether the same call may succeed later, by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage { kind, .. } => kind.is_transient(),
            Self::Jobs(error) => error.is_transient(),
            _ => false,
        }
    }

    /// What a workflow's end means to those who wait for it, if it is no answer.
    pub(crate) fn of_status(id: &str, status: Status) -> Option<Self> {
        match status {
            Status::Cancelled => Some(Self::Cancelled { id: id.to_owned() }),
            Status::Exhausted => Some(Self::Exhausted { id: id.to_owned() }),
            _ => None,
        }
    }

    /// The name it is recorded under, when a workflow fails with it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Storage { .. } => "Storage",
            Self::Jobs(_) => "Jobs",
            Self::NotReady { .. } => "NotReady",
            Self::Invalid { .. } => "Invalid",
            Self::Decode { .. } => "Decode",
            Self::NoWorkflow { .. } => "NoWorkflow",
            Self::OtherWorkflow { .. } => "OtherWorkflow",
            Self::NotRegistered { .. } => "NotRegistered",
            Self::RegisteredTwice { .. } => "RegisteredTwice",
            Self::Duplicate { .. } => "Duplicate",
            Self::Cancelled { .. } => "Cancelled",
            Self::Exhausted { .. } => "Exhausted",
            Self::UnexpectedStep { .. } => "UnexpectedStep",
            Self::StepConflict { .. } => "StepConflict",
            Self::ReceiveConflict { .. } => "ReceiveConflict",
            Self::StreamClosed { .. } => "StreamClosed",
            Self::InsideStep { .. } => "InsideStep",
            Self::StepTimeout { .. } => "StepTimeout",
            Self::Unsupported { .. } => "Unsupported",
            Self::Closed => "Closed",
        }
    }
}

impl From<backfill::Error> for Error {
    fn from(error: backfill::Error) -> Self {
        Self::Jobs(Arc::new(error))
    }
}
