//! The crate's one error type.

mod crontab;
mod database;

pub use crontab::CrontabProblem;

use std::fmt;
use std::sync::Arc;

use database::Code;

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

    /// The schema, or a table of it, is not there.
    #[error(
        "the schema {schema:?} has no job queue in it, or not all of it; if migrating at start is switched off, run \
         client.migrate() in a deployment step, or switch it on"
    )]
    SchemaMissing {
        /// The schema.
        schema: String,
    },

    /// The schema is older than this version needs, and migrating is switched off.
    #[error(
        "the schema {schema:?} is at revision {revision}, this version needs {needed}, and migrating at start is \
         switched off; run client.migrate() in a deployment step, or switch migrating on"
    )]
    SchemaOutdated {
        /// The schema.
        schema: String,
        /// The revision found.
        revision: i32,
        /// The revision needed.
        needed: i32,
    },

    /// The schema is Node's alone: our own objects (`backfill_*`) are missing or older than needed, and migrating is
    /// switched off.
    #[error(
        "the schema {schema:?} lacks objects of backfill's own (backfill_*), and migrating at start is switched off; run \
         client.migrate() in a deployment step, or switch migrating on"
    )]
    OwnObjectsMissing {
        /// The schema.
        schema: String,
    },

    /// The schema is from before revision 10, which this version cannot migrate.
    #[error(
        "the schema {schema:?} is at revision {revision}, and only revision 10 or later can be migrated; run \
         `npx graphile-worker@0.13.0 --schema-only` against it once (that brings it to revision 10), then try again"
    )]
    SchemaTooOld {
        /// The schema.
        schema: String,
        /// The revision found.
        revision: i32,
    },

    /// The schema has a breaking revision that this version does not know.
    #[error(
        "the schema {schema:?} is at revision {revision}, which includes the breaking revision {breaking}, but this \
         version knows revisions up to {supported} only; it is unsafe to go on: upgrade backfill in this program"
    )]
    SchemaTooNew {
        /// The schema.
        schema: String,
        /// The revision found.
        revision: i32,
        /// The highest breaking one.
        breaking: i32,
        /// The highest revision this version knows.
        supported: i32,
    },

    /// The ledger of revisions says that an object exists which does not.
    #[error(
        "the schema {schema:?} says that it is at revision {revision}, but {missing} is missing; restore it from a \
         backup or, if no job in it matters, drop the schema and let it be created anew"
    )]
    SchemaIncomplete {
        /// The schema.
        schema: String,
        /// The revision its ledger names.
        revision: i32,
        /// What is missing.
        missing: String,
    },

    /// A migration rewrites the jobs table, and jobs are running.
    #[error(
        "{jobs} jobs or queues of the schema {schema:?} are locked, and revision 11 rewrites their tables; stop all \
         workers, wait for their jobs to end (or unlock them), then migrate again"
    )]
    LockedJobs {
        /// The schema.
        schema: String,
        /// How many.
        jobs: i64,
    },

    /// A storage that is no schema of PostgreSQL's is not there, or nobody has migrated it.
    #[error(
        "{storage} has no job queue in it; if migrating at start is switched off, run client.migrate() once, or switch it on"
    )]
    StorageMissing {
        /// The storage.
        storage: String,
    },

    /// A storage that is no schema of PostgreSQL's is older than this version needs, and migrating is switched off.
    #[error(
        "{storage} has version {version}, this version of backfill needs {needed}, and migrating at start is switched off; \
         run client.migrate() once, or switch migrating on"
    )]
    StorageOutdated {
        /// The storage.
        storage: String,
        /// The version found.
        version: i32,
        /// The version needed.
        needed: i32,
    },

    /// A storage that is no schema of PostgreSQL's was made by a newer version of this crate.
    #[error(
        "{storage} has version {version}, and this version of backfill knows versions up to {supported} only; upgrade backfill \
         in this program"
    )]
    StorageTooNew {
        /// The storage.
        storage: String,
        /// The version found.
        version: i32,
        /// The highest version that is known.
        supported: i32,
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

    /// The server is older than PostgreSQL 12.
    #[error("PostgreSQL 12 or later is needed, and the server says {version}; upgrade the server")]
    PostgresTooOld {
        /// What the server calls itself.
        version: String,
    },

    /// The server lets nobody in as this role, or has no such database.
    #[error("could not log in as the role {role:?}: {}; {remedy}", plainly(.source))]
    LoginRefused {
        /// The role that was tried.
        role: String,
        /// Why that one, if nobody has named it, and what to do.
        remedy: String,
        /// What PostgreSQL said.
        source: Arc<sqlx::Error>,
    },

    /// An encrypted connection was asked for (`sslmode`), and cannot be had as it was asked for.
    #[error("the connection cannot be encrypted as was asked for: {}; {remedy}", plainly(.source))]
    EncryptionRefused {
        /// What to do.
        remedy: &'static str,
        /// What the driver said.
        source: Arc<sqlx::Error>,
    },

    /// The role may not do what is needed.
    #[error(
        "the database role lacks a privilege ({}); as the schema's owner or a superuser run: {grant}", plainly(.source)
    )]
    MissingPrivilege {
        /// The statement that gives it.
        grant: String,
        /// What PostgreSQL said.
        source: Arc<sqlx::Error>,
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
    #[error("could not {action}, because the database may only be read: {why} ({})", plainly(.source))]
    ReadOnly {
        /// What was being done.
        action: &'static str,
        /// Why it may only be read, and what to do about it.
        why: String,
        /// What the driver said.
        source: Arc<sqlx::Error>,
    },

    /// The function that tells a worker which flags are forbidden failed. Nothing is claimed until it answers.
    #[error("the function that tells the forbidden flags failed: {0}; no jobs are claimed until it answers")]
    ForbiddenFlags(String),

    /// A migration needs tables for a moment by itself, and others have kept them locked, as a dump does while it runs, or a
    /// transaction that was left open. Nothing was changed.
    #[error(
        "the schema {schema:?} could not be migrated within {} s, because its tables are locked by {holders}; nothing was \
         changed: wait until those sessions have ended, or end them by pg_terminate_backend(pid), and try again",
        .waited.as_secs()
    )]
    SchemaLocked {
        /// The schema.
        schema: String,
        /// For how long it was tried.
        waited: std::time::Duration,
        /// The sessions that hold locks: their process ids and applications.
        holders: String,
    },

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

    /// A worker ended before all its results were written. The jobs stay locked until others notice that it is gone (15 to
    /// 20 seconds, unless set otherwise), and then run again.
    #[error("{jobs} results could not be written before the worker had to end; their jobs will run again")]
    Unsettled {
        /// How many.
        jobs: usize,
    },

    /// A database call failed.
    #[error("could not {action}: {}", plainly(.source))]
    Database {
        /// What was being done.
        action: &'static str,
        /// What the driver said. (Shared: one statement may serve several callers.)
        source: Arc<sqlx::Error>,
    },

    /// The storage behind this client cannot do that.
    #[error("{what} needs PostgreSQL; this client stores its jobs in {storage}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The storage.
        storage: String,
    },

    /// A custom storage failed.
    #[error("the storage failed: {0}")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),

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

/// What the server said, without the line of its own source code that the driver adds.
fn plainly(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(told) => match database::code(error) {
            Code::SqlState(code) => format!("{} (SQLSTATE {code})", told.message()),
            // The kind stands in the lowest byte.
            Code::Sqlite(code) if matches!(code & 0xff, 5 | 6) => format!(
                "{} (SQLite's code {code}): another program has held the file for seconds; end its transaction, or the program",
                told.message()
            ),
            // The file, or the directory that it is in.
            Code::Sqlite(code) if code & 0xff == 8 => format!(
                "{} (SQLite's code {code}): this user may only read it; make the file, and the directory that it is in, writable",
                told.message()
            ),
            Code::Sqlite(code) => format!("{} (SQLite's code {code})", told.message()),
            Code::Unknown => told.message().to_owned(),
        },
        // With what it is about, and without the driver's words for the kind.
        sqlx::Error::Tls(told) => format!("TLS: {told}"),
        sqlx::Error::Io(told) => told.to_string(),
        other => other.to_string(),
    }
}

fn problems(count: usize) -> String {
    if count == 1 { "a problem".to_owned() } else { format!("{count} problems") }
}

fn list(problems: &[CrontabProblem]) -> String {
    problems.iter().fold(String::new(), |text, problem| text + "\n  " + &problem.to_string())
}

impl Error {
    /// Whether the call was ended for taking too long; a smaller one may not be.
    #[must_use]
    pub fn took_too_long(&self) -> bool {
        matches!(self, Self::Database { source, .. } if database::took_too_long(source))
    }

    /// Whether the storage answered that it did not do it. Any other error of a call that changes something leaves open whether
    /// it was done: the answer may be what was lost.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Database { source, .. } => database::is_refusal(source),
            Self::ForbiddenFlags(_)
            | Self::MissingPrivilege { .. }
            | Self::HiddenRows { .. }
            | Self::ReadOnly { .. }
            | Self::SchemaMissing { .. }
            | Self::StorageGone { .. }
            | Self::LeftOut { .. } => true,
            _ => false,
        }
    }

    /// Whether the storage was not there to be asked: the network, a server that is starting or stopping, or one with no connection
    /// to spare.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Database { source, .. } if database::is_away(source))
    }

    /// Whether the storage itself was taken away, so that nothing more can be asked of it through this client.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::StorageGone { .. })
    }

    /// Whether a database is there and answered: it said no to what was asked for, for whatever reason.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Database { source, .. } => database::is_answer(source),
            Self::MissingPrivilege { .. } | Self::SchemaMissing { .. } => true,
            _ => false,
        }
    }

    /// Whether the same call may succeed later, as after a lost connection: what is known to pass. `false` means that the data
    /// itself, or the settings, have to change first, as where a trigger refuses a row, by whatever code.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => database::is_transient(source),
            Self::Storage(_)
            | Self::ForbiddenFlags(_)
            | Self::MissingPrivilege { .. }
            | Self::HiddenRows { .. }
            | Self::ReadOnly { .. }
            | Self::SchemaMissing { .. } => true,
            _ => false,
        }
    }
}
