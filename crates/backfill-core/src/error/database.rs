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

/// Whether the same call may succeed later. Everything may, but what the data itself makes impossible, or what a user's trigger
/// makes of it. PostgreSQL: class 21 and 22 (cardinality, data exception), 23, 27 and 44 (constraint, triggered change, check
/// option), 38 and 39 (external routine), 54 (limit exceeded), P0 (raised in PL/pgSQL). SQLite: 18 (too big), 19 (constraint), 20
/// (mismatch), 26 (not a database). And values that cannot be encoded.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
        return false;
    }
    match code(error) {
        Code::SqlState(code) => {
            !matches!(code.get(..2), Some("21" | "22" | "23" | "27" | "38" | "39" | "44" | "54" | "P0"))
        }
        Code::Sqlite(code) => !matches!(code & 0xff, 18 | 19 | 20 | 26),
        Code::Unknown => true,
    }
}

/// Whether a statement was ended by a timeout of the role or the database (or by an administrator).
pub(super) fn took_too_long(error: &sqlx::Error) -> bool {
    matches!(code(error), Code::SqlState(code) if code == "57014")
}

/// Whether the server was not there to be asked: the network, a server that is starting or stopping, or one with no connection
/// to spare. (Class 08 is what poolers answer.)
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match code(error) {
        Code::SqlState(code) => matches!(&*code, "57P01" | "57P02" | "57P03" | "53300") || code.starts_with("08"),
        _ => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut),
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
