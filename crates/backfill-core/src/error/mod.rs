//! The crate's one error type.

mod crontab;
mod failure;
mod unready;

pub use crontab::CrontabProblem;
pub use failure::{FailureKind, Source};
pub use unready::Unready;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::job::JobId;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate's own calls.
///
/// Messages say what was wrong, with the value, and what to do. No message holds a password or a payload. `Debug` shows the same
/// sentence as `Display`, because that is what a `main` prints that answers a `Result`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something about a job is outside what the schema allows. Nothing was sent.
    #[error("{what} {value:?} {problem}")]
    InvalidJob {
        /// Which part of the job.
        what: &'static str,
        /// Its value, shortened when long.
        value: String,
        /// What is wrong with it, with the limit.
        problem: String,
    },

    /// Something about a message, a document or an event is outside what storages keep. Nothing was sent.
    #[error("{what} {value:?} {problem}")]
    InvalidMessage {
        /// Which part.
        what: &'static str,
        /// Its value, shortened when long.
        value: String,
        /// What is wrong with it, with the limit.
        problem: String,
    },

    /// A message's id was given before in its namespace. Nothing was stored.
    #[error(
        "a message with the id {id:?} was added before; ids are given once, for as long as the end of a message is remembered"
    )]
    MessageExists {
        /// The id.
        id: String,
    },

    /// A job is no longer this worker's, so it was not completed in the transaction: it was declared dead, or an administrator has broken
    /// its claim. Somebody else may be doing the job.
    #[error(
        "the claim of job {id} does not stand any more, so it was not completed; roll the transaction back: somebody else may be doing          the same"
    )]
    ClaimLost {
        /// The job.
        id: JobId,
    },

    /// A job was completed in a transaction before; nothing more can follow it.
    #[error("the job was completed in a transaction already; say what is to follow it before that")]
    CompletedAlready,

    /// A claim of a message does not stand any more. Nothing was changed.
    #[error(
        "the claim of message {id:?} of the queue {queue:?} does not stand any more: the message has ended, was given back, or somebody          else has claimed it since; renew leases in time, or ask for longer ones"
    )]
    LeaseLost {
        /// The message's id.
        id: String,
        /// Its queue.
        queue: String,
    },

    /// A payload is larger than the client's cap. Nothing was sent.
    #[error(
        "the payload for task {task:?} has {bytes} bytes, more than the cap of {limit}; store the data elsewhere \
         and enqueue a reference, or raise the cap with BackfillClientBuilder::max_payload_bytes"
    )]
    PayloadTooLarge {
        /// The task's name.
        task: String,
        /// The payload's size.
        bytes: usize,
        /// The cap in force.
        limit: usize,
    },

    /// A payload could not be written as JSON. Nothing was sent.
    #[error("the payload for task {task:?} could not be serialised to JSON: {source}")]
    PayloadNotSerializable {
        /// The task's name.
        task: String,
        /// What the serialiser said.
        source: serde_json::Error,
    },

    /// Two jobs of one batch have the same key, so which one should win is unclear. Nothing was sent.
    #[error("two jobs of one batch have the key {key:?}; keep one of them, or add them in separate calls")]
    DuplicateKey {
        /// The key.
        key: String,
    },

    /// A trigger on the table of jobs left rows out: it returned null, or, in SQLite, raised `ignore`. Nothing was stored.
    #[error(
        "a trigger on the jobs table left {jobs} of {of} jobs out (one of task {task:?}), so nothing was stored; change the trigger, \
         or let it raise an exception that says why"
    )]
    LeftOut {
        /// The task of one of them, as far as it is known.
        task: String,
        /// How many.
        jobs: usize,
        /// Of how many that one call stores.
        of: usize,
    },

    /// A search that cannot be understood, or is longer than it may be. Nothing was looked at.
    #[error("the search {term:?} {problem}")]
    InvalidSearch {
        /// The term of it, shortened when long.
        term: String,
        /// What is wrong with it, and how it is written.
        problem: String,
    },

    /// A schema name that PostgreSQL cannot have.
    #[error("the schema name {name:?} {problem}")]
    InvalidSchemaName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A crontab has problems: all of them, each with line, column and the offending text.
    #[error("the crontab has {}:{}", problems(.0.len()), list(.0))]
    InvalidCrontab(Vec<CrontabProblem>),

    /// The client was given settings that do not go together.
    #[error("the client cannot be built: {0}")]
    InvalidClient(String),

    /// The worker was given settings that do not go together.
    #[error("the worker cannot be built: {0}")]
    InvalidWorker(String),

    /// The storage is not ready to be used, or could not be made so. Nothing was changed.
    #[error("{storage} {reason}; {remedy}")]
    NotReady {
        /// The storage, such as `the schema "graphile_worker"`.
        storage: String,
        /// Why.
        reason: Unready,
        /// What to do.
        remedy: String,
    },

    /// What the storage is in was taken away while this program had it open: a file that was removed, or replaced by another. Nothing
    /// was done. It stays so for this client and its workers, unless the file comes back.
    #[error(
        "{storage} {how} while this program had it open, so nothing is read or written any more; end all programs that have it open, \
         see to it that the right file is there, and start them again"
    )]
    StorageGone {
        /// What is gone.
        storage: String,
        /// What became of it.
        how: &'static str,
    },

    /// The server lets nobody in as this role, or has no such database.
    #[error("could not log in as the role {role:?}: {}; {remedy}", .source)]
    LoginRefused {
        /// The role that was tried.
        role: String,
        /// Why that one, if nobody has named it, and what to do.
        remedy: String,
        /// What PostgreSQL said.
        source: Source,
    },

    /// An encrypted connection was asked for (`sslmode`), and cannot be had as it was asked for.
    #[error("the connection cannot be encrypted as was asked for: {}; {remedy}", .source)]
    EncryptionRefused {
        /// What to do.
        remedy: &'static str,
        /// What the driver said.
        source: Source,
    },

    /// The role may not do what is needed.
    #[error(
        "the database role lacks a privilege ({}); as the schema's owner or a superuser run: {grant}", .source
    )]
    MissingPrivilege {
        /// The statement that gives it.
        grant: String,
        /// What PostgreSQL said.
        source: Source,
    },

    /// Row security hides jobs from the database role: whatever is asked would be answered as if there were none.
    #[error(
        "row security hides every row of the table {table} from the role {role:?}, so no job would ever be found; as the schema's \
         owner or a superuser run: {remedy}"
    )]
    HiddenRows {
        /// The table.
        table: String,
        /// The role.
        role: String,
        /// What opens it.
        remedy: String,
    },

    /// The storage may only be read: a standby, or a role or database whose transactions are read-only by default.
    #[error("could not {action}, because the database may only be read: {why} ({})", .source)]
    ReadOnly {
        /// What was being done.
        action: &'static str,
        /// Why it may only be read, and what to do about it.
        why: String,
        /// What the driver said.
        source: Source,
    },

    /// The function that tells a worker which flags are forbidden failed. Nothing is claimed until it answers.
    #[error("the function that tells the forbidden flags failed: {0}; no jobs are claimed until it answers")]
    ForbiddenFlags(String),

    /// While the worker ran, somebody migrated its storage to a breaking revision. The worker has stopped
    /// cleanly.
    #[error(
        "the storage ({storage}) was migrated to the breaking revision {revision} while this worker ran, which knows \
         revisions up to {supported} only; the worker stopped cleanly: upgrade backfill in this program"
    )]
    BreakingMigration {
        /// The storage's name.
        storage: String,
        /// The breaking revision.
        revision: i32,
        /// The highest revision this version knows.
        supported: i32,
    },

    /// The run of a move sends no heartbeats any more, by the other storage's account; another run may have taken over. Nothing
    /// was stored.
    #[error(
        "the run {run} of this move was declared dead, and another may have taken over; nothing more was stored; run it again"
    )]
    MoveTakenOver {
        /// Its identity.
        run: String,
    },

    /// Another run of the same move sends heartbeats.
    #[error("another run of the move {id} is under way; wait until it has ended")]
    MoveUnderWay {
        /// The move.
        id: String,
    },

    /// Jobs were to be moved to where they are.
    #[error("the jobs would be moved to the place where they are; name another one")]
    SamePlace,

    /// A worker ended before all its results were written. The jobs stay locked until others notice that it is gone (15 to
    /// 20 seconds, unless set otherwise), and then run again.
    #[error("{jobs} results could not be written before the worker had to end; their jobs will run again")]
    Unsettled {
        /// How many.
        jobs: usize,
    },

    /// The storage behind this client cannot do that.
    #[error("{what} cannot be used, because this client stores its jobs in {storage}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The storage.
        storage: String,
    },

    /// A call to the storage failed.
    #[error("could not {action}: {source}")]
    Storage {
        /// What was being done.
        action: &'static str,
        /// What kind of failure it was.
        kind: FailureKind,
        /// What the storage's driver said. [`Error::cause`] finds the driver's own error in it.
        source: Source,
    },

    /// A promise that this crate gives itself was broken; please report it.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

/// For people: `main` prints it, and so does `unwrap`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn problems(count: usize) -> String {
    if count == 1 { "a problem".to_owned() } else { format!("{count} problems") }
}

fn list(problems: &[CrontabProblem]) -> String {
    problems.iter().fold(String::new(), |text, problem| text + "\n  " + &problem.to_string())
}

impl Error {
    /// A call to a storage failed, for authors of storages.
    pub fn storage(
        action: &'static str,
        kind: FailureKind,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Storage { action, kind, source: Arc::from(source.into()) }
    }

    /// Something about a message cannot be.
    #[must_use]
    pub fn invalid_message(what: &'static str, value: &str, problem: &str) -> Self {
        Self::InvalidMessage { what, value: crate::job::limits::shorten(value), problem: problem.to_owned() }
    }

    /// A search that cannot be understood.
    #[must_use]
    pub fn invalid_search(term: &str, problem: &str) -> Self {
        Self::InvalidSearch { term: crate::job::limits::shorten(term), problem: problem.to_owned() }
    }

    /// A storage is not ready, and what to do about it is what the reason suggests.
    pub fn not_ready(storage: impl Into<String>, reason: Unready) -> Self {
        let remedy = reason.remedy().to_owned();
        Self::NotReady { storage: storage.into(), reason, remedy }
    }

    /// Whether there is no job queue where one was looked for, or not all of it.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NotReady { reason: Unready::Missing, .. })
    }

    /// The first error of this type among the causes, such as the driver's own (`sqlx::Error` for PostgreSQL and SQLite).
    #[must_use]
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        let mut next: Option<&(dyn StdError + 'static)> = match self {
            Self::Storage { source, .. }
            | Self::LoginRefused { source, .. }
            | Self::EncryptionRefused { source, .. }
            | Self::MissingPrivilege { source, .. }
            | Self::ReadOnly { source, .. } => Some(&**source),
            other => other.source(),
        };
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    fn failure(&self) -> Option<FailureKind> {
        if let Self::Storage { kind, .. } = self { Some(*kind) } else { None }
    }

    /// Whether the call was ended for taking too long; a smaller one may not be.
    #[must_use]
    pub fn took_too_long(&self) -> bool {
        self.failure() == Some(FailureKind::TimedOut)
    }

    /// Whether the storage answered that it did not do it. Any other error of a call that changes something leaves open whether
    /// it was done: the answer may be what was lost.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Storage { kind, .. } => kind.is_refusal(),
            Self::ForbiddenFlags(_)
            | Self::MissingPrivilege { .. }
            | Self::HiddenRows { .. }
            | Self::ReadOnly { .. }
            | Self::StorageGone { .. }
            | Self::LeaseLost { .. }
            | Self::MessageExists { .. }
            | Self::LeftOut { .. } => true,
            _ => self.is_missing(),
        }
    }

    /// Whether the storage was not there to be asked: the network, a server that is starting or stopping, or one with no connection
    /// to spare.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.failure().is_some_and(FailureKind::is_away)
    }

    /// Whether the storage itself was taken away, so that nothing more can be asked of it through this client.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::StorageGone { .. })
    }

    /// Whether the storage is there and answered: it said no to what was asked for, for whatever reason.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Storage { kind, .. } => kind.is_answer(),
            Self::MissingPrivilege { .. } => true,
            _ => self.is_missing(),
        }
    }

    /// Whether the same call may succeed later, as after a lost connection: what is known to pass. `false` means that the data
    /// itself, or the settings, have to change first, as where a trigger refuses a row, by whatever code.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage { kind, .. } => kind.is_transient(),
            Self::ForbiddenFlags(_)
            | Self::MissingPrivilege { .. }
            | Self::HiddenRows { .. }
            | Self::ReadOnly { .. } => true,
            _ => self.is_missing(),
        }
    }
}
