//! What ends the program early.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ColorChoice;

use crate::output::visible;
use crate::screen::{Screen, Style};

/// Exit status of something that did not work.
pub const FAILED: u8 = 1;
/// Exit status of a usage error.
pub const USAGE: u8 = 2;
/// Exit status of `messages send` when the id was given before.
pub const EXISTS: u8 = 3;
/// Exit status of `messages ack` and its like when a claim does not stand any more.
pub const LOST: u8 = 4;
/// Exit status when a breaking migration arrived while a worker ran: Graphile's.
pub const BREAKING: u8 = 57;

/// Why the program ends early.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for did not work.
    Failed(String),
    /// There is no job queue where it was looked for; perhaps one elsewhere was meant.
    NoQueue { storage: String, elsewhere: String },
    /// What was asked for was told already; only the status is left to say so.
    Told,
    /// A usage error.
    Usage(String),
    /// Somebody migrated the schema beyond what this version knows, while a worker ran.
    Breaking(String),
    /// Nobody reads the output any more.
    ClosedPipe,
    /// A message with that id was added before.
    Exists(String),
    /// A claim of a message does not stand any more, which was told.
    Lost,
    /// A signal has ended it; with the exit status that says so.
    Ended(u8),
}

impl Failure {
    /// Tells people, or machines, and answers the exit status.
    pub fn report(self, json: bool, color: ColorChoice) -> ExitCode {
        let (message, status) = match self {
            Self::Failed(message) => (message, FAILED),
            Self::NoQueue { storage, elsewhere } => (
                format!(
                    "{storage} has no job queue in it, or not all of it{elsewhere}; run `backfill migrate`, or add a job, to create it"
                ),
                FAILED,
            ),
            Self::Usage(message) => (message, USAGE),
            Self::Breaking(message) => (message, BREAKING),
            Self::Exists(message) => (message, EXISTS),
            Self::Lost => return ExitCode::from(LOST),
            Self::Told => return ExitCode::from(FAILED),
            Self::ClosedPipe => return ExitCode::SUCCESS,
            Self::Ended(status) => return ExitCode::from(status),
        };
        let text = if json {
            serde_json::json!({ "error": message }).to_string()
        } else {
            format!("{} {}", Screen::err(color).paint(Style::Bad, "error:"), visible(&message))
        };
        // If even this cannot be written, the status has to do.
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::from(status)
    }
}

impl From<backfill::Error> for Failure {
    fn from(error: backfill::Error) -> Self {
        use backfill::Error;
        use backfill::error::{FailureKind, Unready};
        let message = match &error {
            // The library's messages speak of its own settings.
            Error::NotReady { storage, reason: Unready::Missing, .. } => {
                return Self::NoQueue { storage: storage.clone(), elsewhere: String::new() };
            }
            Error::NotReady { storage, reason: Unready::Outdated { found, needed }, .. } => {
                format!("{storage} is at revision {found}, and this version needs {needed}; run `backfill migrate`")
            }
            Error::NotReady { storage, reason: Unready::OwnObjectsMissing, .. } => {
                format!("{storage} lacks objects of backfill's own (backfill_*); run `backfill migrate`")
            }
            Error::NotReady { storage, reason: Unready::MessagesMissing, .. } => {
                format!("{storage} has no place for messages; run `backfill migrate --messages`")
            }
            Error::Storage { kind: FailureKind::Unreachable, source, .. } => {
                format!("the database cannot be reached ({source}); check its address and that it runs")
            }
            _ => error.to_string(),
        };
        match error {
            Error::BreakingMigration { .. } => Self::Breaking(message),
            Error::MessageExists { .. } => Self::Exists(message),
            Error::InvalidJob { .. }
            | Error::InvalidMessage { .. }
            | Error::InvalidSearch { .. }
            | Error::PayloadTooLarge { .. }
            | Error::InvalidSchemaName { .. }
            | Error::InvalidWorker(_)
            | Error::InvalidClient(_) => Self::Usage(message),
            _ => Self::Failed(message),
        }
    }
}

impl From<backfill_workflow::Error> for Failure {
    fn from(error: backfill_workflow::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ClosedPipe } else { Self::Failed(error.to_string()) }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(io::ErrorKind::BrokenPipe) => Self::ClosedPipe,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// A failure with this text.
pub fn failed(message: impl fmt::Display) -> Failure {
    Failure::Failed(message.to_string())
}
