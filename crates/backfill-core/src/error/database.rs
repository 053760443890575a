//! Which errors of databases pass by themselves.
//!
//! PostgreSQL's codes are SQLSTATEs, of five characters. SQLite's are numbers of at most four digits, whose lowest byte is the
//! kind (<https://sqlite.org/rescode.html>).

use std::borrow::Cow;

use sqlx::error::DatabaseError;

/// What a database calls one of its errors.
pub(super) enum Code<'a> {
    SqlState(Cow<'a, str>),
    Sqlite(i32),
    Unknown,
}

pub(super) fn code(error: &sqlx::Error) -> Code<'_> {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) if code.len() == 5 => Code::SqlState(code),
        Some(code) => code.parse().map_or(Code::Unknown, Code::Sqlite),
        None => Code::Unknown,
    }
}

/// The classes of SQLSTATE whose cause passes by itself: connection (08), state of the transaction (25: a server that may only be
/// read, a limit for idle transactions), login (28), no such database (3D: not yet), rollback (40), resources (53), state of an
/// object (55: locks), operators (57), the server's system (58), an old snapshot (72), its configuration (F0), and internal errors
/// (XX), by which poolers answer too.
const PASSING: [&str; 12] = ["08", "25", "28", "3D", "40", "53", "55", "57", "58", "72", "F0", "XX"];
/// Single codes of other classes: a cached plan that no longer fits its table, and prepared statements that a pooler has mixed up.
const PASSING_CODES: [&str; 3] = ["0A000", "26000", "42P05"];
/// Kinds of SQLite's errors: permission, busy, locked, memory, read only, interrupted, I/O, full, cannot open, protocol, and a schema
/// that has changed.
const PASSING_KINDS: [i32; 11] = [3, 5, 6, 7, 8, 9, 10, 13, 14, 15, 17];

/// Whether the same call may succeed later, by itself: what never reached the database, and what is known to pass. Any other answer
/// says no to what was asked for, as a constraint does, or a user's trigger, which may say so by any code.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
        return false;
    }
    match code(error) {
        Code::SqlState(code) => {
            code.get(..2).is_some_and(|class| PASSING.contains(&class)) || PASSING_CODES.contains(&&*code)
        }
        Code::Sqlite(code) => PASSING_KINDS.contains(&(code & 0xff)),
        Code::Unknown => true,
    }
}

/// Whether the database answered, and said no: it is there.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_))
}

/// Whether a statement was ended by a timeout of the role or the database (or by an administrator).
pub(super) fn took_too_long(error: &sqlx::Error) -> bool {
    matches!(code(error), Code::SqlState(code) if code == "57014")
}

/// Whether the server was not there to be asked: the network, a server that is starting or stopping, or one with no connection
/// to spare. (Class 08 is what poolers answer.) Waiting does not mend what is wrong with certificates and encryption: those are
/// refused.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match code(error) {
        Code::SqlState(code) => matches!(&*code, "57P01" | "57P02" | "57P03" | "53300") || code.starts_with("08"),
        _ => match error {
            sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
            other => matches!(other, sqlx::Error::PoolTimedOut),
        },
    }
}

/// Whether a database refused a statement, so that nothing was done. A connection that is ended may have done it before (class 57,
/// but for 57014, a statement that was cancelled), poolers answer for servers that they lost (08, 58, XX), and 40003 says itself that
/// it does not know. Of SQLite's errors only those of a file that somebody else holds are sure.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    match code(error) {
        Code::SqlState(code) => match code.get(..2) {
            Some("08" | "53" | "58" | "XX") => false,
            Some("57") => code == "57014",
            _ => code != "40003",
        },
        Code::Sqlite(code) => matches!(code & 0xff, 5 | 6),
        Code::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with this code, as a driver gives it.
    #[derive(Debug)]
    struct Told(&'static str);

    impl std::fmt::Display for Told {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

    fn told(code: &'static str) -> sqlx::Error {
        sqlx::Error::Database(Box::new(Told(code)))
    }

    #[test]
    fn only_what_is_known_to_pass_is_transient() {
        for code in ["08006", "25006", "28000", "3D000", "40001", "53300", "55P03", "57P01", "57014", "58000", "XX000"]
        {
            assert!(is_transient(&told(code)), "{code}");
        }
        for code in ["AB001", "P0001", "22021", "23503", "ZZ999", "45000", "42703", "HV000", "0A001"] {
            assert!(!is_transient(&told(code)), "{code}");
        }
        for code in ["5", "517", "10", "13"] {
            assert!(is_transient(&told(code)), "{code}");
        }
        for code in ["1", "11", "19", "1811"] {
            assert!(!is_transient(&told(code)), "{code}");
        }
        assert!(is_transient(&sqlx::Error::PoolTimedOut));
    }
}
