//! What the driver said: which kind of failure it is, and in which words people read it.
//!
//! SQLite's codes are numbers of at most four digits, whose lowest byte is the kind (<https://sqlite.org/rescode.html>).

use std::fmt;
use std::sync::Arc;

use backfill_core::error::{Error, FailureKind};
use sqlx::error::DatabaseError;

/// Somebody else holds the file, or a table: nothing was done.
const HELD: [i32; 2] = [5, 6];
/// The file, or the directory that it is in, may only be read.
const READ_ONLY: i32 = 8;
/// Permission, memory, read only, interrupted, I/O, full, cannot open, protocol, and a schema that has changed.
const PASSING: [i32; 9] = [3, 7, 8, 9, 10, 13, 14, 15, 17];

fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error().and_then(DatabaseError::code)?.parse().ok()
}

/// What kind of failure this is, of the driver of SQLite.
#[must_use]
pub fn kind(error: &sqlx::Error) -> FailureKind {
    match (code(error), error) {
        (Some(code), _) => kind_of(code),
        (None, sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
            FailureKind::Invalid
        }
        (None, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => FailureKind::Unreachable,
        (None, _) => FailureKind::Unknown,
    }
}

fn kind_of(code: i32) -> FailureKind {
    match code & 0xff {
        code if HELD.contains(&code) => FailureKind::Conflict,
        code if PASSING.contains(&code) => FailureKind::Internal,
        _ => FailureKind::Refused,
    }
}

/// What the driver said, as people read it. (Shared: one transaction may serve several callers.)
#[derive(Debug)]
struct DriverError(Arc<sqlx::Error>);

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(told) = self.0.as_database_error() else { return self.0.fmt(f) };
        let Some(code) = code(&self.0) else { return f.write_str(told.message()) };
        write!(f, "{} (SQLite's code {code})", told.message())?;
        match code & 0xff {
            held if HELD.contains(&held) => {
                f.write_str(": another program has held the file for seconds; end its transaction, or the program")
            }
            READ_ONLY => {
                f.write_str(": this user may only read it; make the file, and the directory that it is in, writable")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

pub(crate) fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| explained(action, source.into())
}

/// An error of a statement, or one of our own that came the same way.
pub(crate) fn explained(action: &'static str, source: Arc<sqlx::Error>) -> Error {
    if let sqlx::Error::AnyDriverError(inner) = &*source {
        match inner.downcast_ref() {
            Some(Error::LeftOut { task, jobs, of }) => {
                return Error::LeftOut { task: task.clone(), jobs: *jobs, of: *of };
            }
            Some(Error::StorageGone { storage, how }) => {
                return Error::StorageGone { storage: storage.clone(), how };
            }
            _ => {}
        }
    }
    Error::storage(action, kind(&source), DriverError(source))
}

/// A trigger of the user's has left rows out.
pub(crate) fn left_out(task: &str, jobs: usize, of: usize) -> sqlx::Error {
    sqlx::Error::AnyDriverError(Box::new(Error::LeftOut { task: task.to_owned(), jobs, of }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_pass_is_transient_and_only_a_file_that_is_held_is_sure_to_be_unchanged() {
        for code in [5, 517, 6] {
            assert!(kind_of(code).is_transient() && kind_of(code).is_refusal(), "{code}");
        }
        for code in [3, 7, 8, 9, 10, 266, 13, 14, 15, 17] {
            assert!(kind_of(code).is_transient() && !kind_of(code).is_refusal(), "{code}");
        }
        for code in [1, 11, 19, 1811] {
            assert!(!kind_of(code).is_transient(), "{code}");
        }
    }
}
