//! Why a storage is not ready to be used.

use std::fmt;
use std::time::Duration;

/// Why a storage is not ready to be used, or could not be made so. Revisions count a storage's migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unready {
    /// There is no job queue in it, or not all of it.
    Missing,
    /// It is older than this version needs, and migrating at start is switched off.
    Outdated {
        /// The revision found.
        found: i32,
        /// The revision needed.
        needed: i32,
    },
    /// A schema is Node's alone: our own objects (`backfill_*`) are missing or older than needed, and migrating at start is switched
    /// off.
    OwnObjectsMissing,
    /// Messages are wanted, and what they need (`backfill_documents` and its like) is not there, and migrating at start is switched off.
    MessagesMissing,
    /// It is older than what can be migrated.
    TooOld {
        /// The revision found.
        found: i32,
        /// The oldest that can be migrated.
        oldest: i32,
    },
    /// It was made by a newer version, in a way that this one does not know.
    TooNew {
        /// The revision found.
        found: i32,
        /// The highest revision that is marked as breaking, where revisions are marked.
        breaking: Option<i32>,
        /// The highest revision that is known.
        supported: i32,
    },
    /// Its ledger of revisions says that something exists which does not.
    Incomplete {
        /// The revision its ledger names.
        found: i32,
        /// What is missing.
        missing: String,
    },
    /// A migration rewrites the tables of jobs, and jobs are running.
    JobsRunning {
        /// How many jobs and queues are locked.
        jobs: i64,
    },
    /// A migration needs tables for a moment by itself, and others have kept them locked, as a dump does while it runs, or a
    /// transaction that was left open.
    Locked {
        /// For how long it was tried.
        waited: Duration,
        /// The sessions that hold locks: their process ids and applications.
        holders: String,
    },
    /// The server is too old.
    ServerTooOld {
        /// What the server calls its version.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
}

impl Unready {
    /// What to do, if the storage does not know better.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Missing => {
                "if migrating at start is switched off, run client.migrate() in a deployment step, or switch it on"
            }
            Self::Outdated { .. } | Self::OwnObjectsMissing | Self::MessagesMissing => {
                "run client.migrate() in a deployment step, or switch migrating on"
            }
            Self::TooOld { .. } => "migrate it by an older version of backfill first",
            Self::TooNew { .. } => "it is unsafe to go on: upgrade backfill in this program",
            Self::Incomplete { .. } => {
                "restore it from a backup or, if no job in it matters, delete it and let it be created anew"
            }
            Self::JobsRunning { .. } => {
                "stop all workers, wait for their jobs to end (or unlock them), then migrate again"
            }
            Self::Locked { .. } => {
                "nothing was changed: wait until those sessions have ended, or end them, and try again"
            }
            Self::ServerTooOld { .. } => "upgrade the server",
        }
    }
}

impl fmt::Display for Unready {
    /// As the rest of a sentence that begins with the storage's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("has no job queue in it, or not all of it"),
            Self::Outdated { found, needed } => write!(
                f,
                "is at revision {found}, this version of backfill needs {needed}, and migrating at start is switched off"
            ),
            Self::OwnObjectsMissing => {
                f.write_str("lacks objects of backfill's own (backfill_*), and migrating at start is switched off")
            }
            Self::MessagesMissing => f.write_str(
                "has no place for messages (backfill_documents and what belongs to it), and migrating at start is switched off",
            ),
            Self::TooOld { found, oldest } => {
                write!(f, "is at revision {found}, and only revision {oldest} or later can be migrated")
            }
            Self::TooNew { found, breaking: Some(breaking), supported } => write!(
                f,
                "is at revision {found}, which includes the breaking revision {breaking}, but this version of backfill knows \
                 revisions up to {supported} only"
            ),
            Self::TooNew { found, breaking: None, supported } => {
                write!(f, "is at revision {found}, and this version of backfill knows revisions up to {supported} only")
            }
            Self::Incomplete { found, missing } => {
                write!(f, "says that it is at revision {found}, but {missing} is missing")
            }
            Self::JobsRunning { jobs } => {
                write!(f, "has {jobs} locked jobs or queues, and the migration rewrites their tables")
            }
            Self::Locked { waited, holders } => write!(
                f,
                "could not be migrated within {} s, because its tables are locked by {holders}",
                waited.as_secs()
            ),
            Self::ServerTooOld { found, needed } => write!(f, "is {found}, and {needed} or later is needed"),
        }
    }
}
