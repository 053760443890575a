//! What the driver said: which kind of failure it is, and in which words people read it.
//!
//! PostgreSQL's codes are SQLSTATEs, of five characters (<https://www.postgresql.org/docs/current/errcodes-appendix.html>); the first two
//! are the class.

use std::fmt;
use std::sync::Arc;

use super::errors::code;
use crate::error::{Error, FailureKind, Source};

/// The classes of SQLSTATE whose cause passes by itself, and that say that nothing was done: state of the transaction (25: a server that
/// may only be read, a limit for idle transactions), login (28), no such database (3D: not yet), rollback (40), state of an object (55:
/// locks), an old snapshot (72), and the server's configuration (F0).
const CONFLICTS: [&str; 7] = ["25", "28", "3D", "40", "55", "72", "F0"];
/// Single codes of other classes: a cached plan that no longer fits its table, and prepared statements that a pooler has mixed up.
const CONFLICTING_CODES: [&str; 3] = ["0A000", "26000", "42P05"];
/// Classes of trouble that is the server's own, or a pooler's: resources (53), operators (57), the system (58), and internal errors (XX),
/// by which poolers answer too. A connection that is ended may have done it before.
const INTERNAL: [&str; 4] = ["53", "57", "58", "XX"];
/// A server that is stopping, has stopped or is starting, and one with no connection to spare. (Class 08 is what poolers answer.)
const UNAVAILABLE: [&str; 4] = ["57P01", "57P02", "57P03", "53300"];
/// A statement was ended by a timeout of the role or the database, or by an administrator.
const CANCELED: &str = "57014";
/// Whether the statement was done is not known.
const COMPLETION_UNKNOWN: &str = "40003";

/// What kind of failure this is, of the driver of PostgreSQL.
#[must_use]
pub fn kind(error: &sqlx::Error) -> FailureKind {
    let Some(code) = code(error) else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => FailureKind::Invalid,
            // Waiting does not mend what is wrong with certificates and encryption: those are refused.
            sqlx::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => FailureKind::Unreachable,
            sqlx::Error::PoolTimedOut => FailureKind::Unreachable,
            _ => FailureKind::Unknown,
        };
    };
    let class = code.get(..2).unwrap_or_default();
    match &*code {
        CANCELED => FailureKind::TimedOut,
        COMPLETION_UNKNOWN => FailureKind::Internal,
        code if UNAVAILABLE.contains(&code) || class == "08" => FailureKind::Unavailable,
        code if CONFLICTING_CODES.contains(&code) || CONFLICTS.contains(&class) => FailureKind::Conflict,
        _ if INTERNAL.contains(&class) => FailureKind::Internal,
        // Any other answer says no to what was asked for, as a constraint does, or a user's trigger, which may say so by any code.
        _ => FailureKind::Refused,
    }
}

/// What the driver said, as people read it.
#[derive(Debug)]
pub(in crate::postgres) struct DriverError(sqlx::Error);

impl fmt::Display for DriverError {
    /// Without the line of its own source code that the driver adds, and its words for the kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(told) => match told.code() {
                Some(code) => write!(f, "{} (SQLSTATE {code})", told.message()),
                None => f.write_str(told.message()),
            },
            sqlx::Error::Tls(told) => write!(f, "TLS: {told}"),
            sqlx::Error::Io(told) => told.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The same as the source of an error.
pub(in crate::postgres) fn source(error: sqlx::Error) -> Source {
    Arc::new(DriverError(error))
}

/// A call that failed.
pub(in crate::postgres) fn failed(action: &'static str, error: sqlx::Error) -> Error {
    Error::Storage { action, kind: kind(&error), source: source(error) }
}

/// What the driver said of a call that failed.
pub(in crate::postgres) fn driver(error: &Error) -> Option<&sqlx::Error> {
    if matches!(error, Error::Storage { .. }) { error.cause() } else { None }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::error::DatabaseError;

    use super::*;

    /// An error with this code, as a driver gives it.
    #[derive(Debug)]
    struct Told(&'static str);

    impl fmt::Display for Told {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Told {}

    impl DatabaseError for Told {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(self.0))
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    fn told(code: &'static str) -> Error {
        failed("try", sqlx::Error::Database(Box::new(Told(code))))
    }

    #[test]
    fn only_what_is_known_to_pass_is_transient() {
        for code in [
            "08006", "25006", "28000", "3D000", "40001", "40003", "53300", "55P03", "57P01", "57014", "58000", "XX000",
            "0A000",
        ] {
            assert!(told(code).is_transient(), "{code}");
        }
        for code in ["AB001", "P0001", "22021", "23503", "ZZ999", "45000", "42703", "HV000", "0A001"] {
            assert!(!told(code).is_transient() && told(code).is_refusal() && told(code).is_answer(), "{code}");
        }
        assert!(failed("try", sqlx::Error::PoolTimedOut).is_transient());
    }

    #[test]
    fn whether_a_statement_was_done_is_left_open_where_the_server_was_in_trouble() {
        for code in ["40001", "40P01", "55P03", "57014", "28000", "25006", "72000"] {
            assert!(told(code).is_refusal(), "{code}");
        }
        for code in ["08006", "40003", "53100", "53300", "57P01", "57P05", "58030", "XX000"] {
            assert!(!told(code).is_refusal(), "{code}");
        }
        assert!(told("57014").took_too_long() && told("57P03").is_away() && told("53300").is_away());
        assert!(!told("53100").is_away() && told("53100").is_answer());
        // Whoever says so is there, such as a trigger that says anything.
        assert!(told("57P01").is_answer() && told("08006").is_answer());
        assert!(!failed("try", sqlx::Error::PoolTimedOut).is_answer());
    }

    #[test]
    fn the_drivers_own_error_is_found_among_the_causes() {
        let error = told("23505");
        assert_eq!(error.to_string(), "could not try: 23505 (SQLSTATE 23505)");
        assert_eq!(error.cause::<sqlx::Error>().and_then(code).as_deref(), Some("23505"));
        assert!(error.cause::<std::io::Error>().is_none());
        let lost = failed("try", std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
        assert!(lost.is_away() && lost.cause::<std::io::Error>().is_some());
    }
}
