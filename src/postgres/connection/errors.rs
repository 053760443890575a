//! Which database errors mean what.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::Database;
use super::failure::{driver, failed, source};
use super::schema::quote;
use crate::error::{Error, FailureKind, Source, Unready};

/// SQLSTATE: the role may not do that.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// SQLSTATE: a table does not exist.
pub(in crate::postgres) const UNDEFINED_TABLE: &str = "42P01";
/// SQLSTATE: a schema does not exist.
const INVALID_SCHEMA_NAME: &str = "3F000";
/// SQLSTATE: whether the statement was done is not known.
const STATEMENT_COMPLETION_UNKNOWN: &str = "40003";
/// SQLSTATE: the server, or the transaction, may only be read.
const READ_ONLY_SQL_TRANSACTION: &str = "25006";

impl Database {
    /// Names what was being done, and recognises what has a remedy of its own.
    pub(in crate::postgres) fn error(&self, action: &'static str, error: sqlx::Error) -> Error {
        match code(&error).as_deref() {
            Some(INSUFFICIENT_PRIVILEGE) => self.missing_privilege(source(error)),
            Some(UNDEFINED_TABLE | INVALID_SCHEMA_NAME) => self.unready(Unready::Missing),
            Some(READ_ONLY_SQL_TRANSACTION) => {
                // After a failover this server may be the old one. Whatever the address means now is asked next time.
                self.connections.renew();
                let why =
                    "the server is a standby, or default_transaction_read_only is on; ask it with `backfill doctor`"
                        .to_owned();
                Error::ReadOnly { action, why, source: source(error) }
            }
            _ => {
                if is_lost(&error) {
                    // Whatever ended this connection has ended those beside it, as a rule.
                    self.health.lost_one();
                }
                failed(action, error)
            }
        }
    }

    /// The schema is not ready.
    pub(in crate::postgres) fn unready(&self, reason: Unready) -> Error {
        Error::not_ready(format!("the schema {:?}", self.schema.name()), reason)
    }

    /// The same with a remedy for this case.
    pub(in crate::postgres) fn not_ready(&self, reason: Unready, remedy: &str) -> Error {
        let storage = format!("the schema {:?}", self.schema.name());
        Error::NotReady { storage, reason, remedy: remedy.to_owned() }
    }

    /// All that somebody who works with the schema needs: what is missing of it says the server when it is asked
    /// ([`explained`](Self::explained)), which cannot be done amid the caller's own transaction.
    fn missing_privilege(&self, source: Source) -> Error {
        let schema = self.schema.quoted();
        let options = self.pool.connect_options();
        let role = quote(options.get_username());
        let grant = format!(
            "grant usage on schema {schema} to {role}; \
             grant select, insert, update, delete on all tables in schema {schema} to {role}; \
             grant execute on all functions in schema {schema} to {role}; \
             alter role {role} bypassrls;"
        );
        Error::MissingPrivilege { grant, source }
    }
}

/// The SQLSTATE of a database's error.
pub(in crate::postgres) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Whether a statement waited for somebody's lock for too long: lock_not_available.
pub(in crate::postgres) fn is_locked(error: &Error) -> bool {
    driver(error).and_then(code).as_deref() == Some("55P03")
}

/// Whether nothing was stored. An error that the server itself has found (it names the routine) and that leaves the connection open
/// has rolled the statement back, whatever its code; poolers name no routine.
pub(in crate::postgres) fn is_rolled_back(error: &Error) -> bool {
    if error.is_refusal() {
        return true;
    }
    let told = driver(error).and_then(sqlx::Error::as_database_error);
    let told = told.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    told.is_some_and(|told| {
        told.severity() == PgSeverity::Error && told.routine().is_some() && told.code() != STATEMENT_COMPLETION_UNKNOWN
    })
}

/// Whether a connection was lost.
fn is_lost(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || matches!(code(error).as_deref(), Some("57P01" | "57P02"))
}

/// An error for another one whom it concerns.
pub(in crate::postgres) fn for_another(error: &Error) -> Error {
    match error {
        Error::Storage { action, kind, source } => {
            Error::Storage { action, kind: *kind, source: Source::clone(source) }
        }
        Error::MissingPrivilege { grant, source } => {
            Error::MissingPrivilege { grant: grant.clone(), source: Source::clone(source) }
        }
        Error::ReadOnly { action, why, source } => {
            Error::ReadOnly { action, why: why.clone(), source: Source::clone(source) }
        }
        Error::NotReady { storage, reason, remedy } => {
            Error::NotReady { storage: storage.clone(), reason: reason.clone(), remedy: remedy.clone() }
        }
        Error::LeftOut { task, jobs, of } => Error::LeftOut { task: task.clone(), jobs: *jobs, of: *of },
        Error::Internal(text) => Error::Internal(text.clone()),
        other => Error::storage("store a job", FailureKind::Unknown, other.to_string()),
    }
}

/// Whether a transaction met another under a strict isolation.
pub(in crate::postgres) fn is_serialization_failure(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("40001")
}

/// Whether a transaction failed only because of another at the same time: serialization_failure, deadlock_detected.
pub(in crate::postgres) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                sources(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }

    /// Whether this code decides something by the words of a message: what a message is asked right after it was got, or under the
    /// name that it was given.
    fn decides_by_words(code: &str) -> bool {
        const ASKS: [&str; 6] = [".contains(", ".starts_with(", ".ends_with(", ".find(", ".eq_ignore", ".matches("];
        let code: String = code.split_whitespace().collect();
        let gets = code.match_indices("message()").chain(code.match_indices("error.to_string()"));
        let asked = gets.map(|(place, got)| &code[place + got.len()..]).any(|rest| {
            let rest = rest.trim_start_matches(".to_lowercase()").trim_start_matches(".to_owned()");
            ASKS.iter().any(|ask| rest.starts_with(ask)) || rest.starts_with("==")
        });
        asked || ASKS.iter().any(|ask| code.contains(&format!("message{ask}")))
    }

    #[test]
    fn nothing_is_decided_by_the_words_of_a_server_which_speaks_any_language() {
        assert!(decides_by_words("e.message().contains(\"for schema\")"));
        assert!(decides_by_words("let message = e.message();\n if message\n .starts_with(\"must\") {}"));
        let mut files = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for room in ["src", "crates/backfill-core/src", "crates/backfill-sqlite/src", "crates/backfill-cli/src"] {
            sources(&root.join(room), &mut files);
        }
        assert!(files.len() > 50);
        for file in files {
            let text = fs::read_to_string(&file).expect("text");
            // What tests say of messages is theirs.
            if file.components().any(|room| room.as_os_str() == "contract") {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!decides_by_words(code), "{}", file.display());
        }
    }
}
