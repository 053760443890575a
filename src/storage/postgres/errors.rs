//! Which database errors mean what.

use std::sync::Arc;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::PostgresStorage;
use crate::error::Error;

/// SQLSTATE: the role may not do that.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// SQLSTATE: a table does not exist.
pub(super) const UNDEFINED_TABLE: &str = "42P01";
/// SQLSTATE: a schema does not exist.
const INVALID_SCHEMA_NAME: &str = "3F000";
/// SQLSTATE: whether the statement was done is not known.
const STATEMENT_COMPLETION_UNKNOWN: &str = "40003";
/// SQLSTATE: the server, or the transaction, may only be read.
const READ_ONLY_SQL_TRANSACTION: &str = "25006";

impl PostgresStorage {
    /// Names what was being done, and recognises what has a remedy of its own.
    pub(super) fn error(&self, action: &'static str, source: sqlx::Error) -> Error {
        match code(&source).as_deref() {
            Some(INSUFFICIENT_PRIVILEGE) => self.missing_privilege(source.into()),
            Some(UNDEFINED_TABLE | INVALID_SCHEMA_NAME) => {
                Error::SchemaMissing { schema: self.schema.name().to_owned() }
            }
            Some(READ_ONLY_SQL_TRANSACTION) => {
                // After a failover this server may be the old one. Whatever the address means now is asked next time.
                self.connections.renew();
                Error::Database { action, source: source.into() }
            }
            _ => {
                if is_lost(&source) {
                    // Whatever ended this connection has ended those beside it, as a rule.
                    self.trust.shake();
                }
                Error::Database { action, source: source.into() }
            }
        }
    }

    /// The statement that gives what PostgreSQL said is missing.
    pub(super) fn missing_privilege(&self, source: Arc<sqlx::Error>) -> Error {
        let schema = self.schema.quoted();
        let message = source.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
        let options = self.pool.connect_options();
        let role = quote(options.get_username());
        let grant = if message.contains("for database") {
            let database = quote(options.get_database().unwrap_or(options.get_username()));
            format!("grant create on database {database} to {role};")
        } else if message.contains("must be owner") {
            format!(
                "grant \"OWNER\" to {role}; -- OWNER: the role that owns the schema {schema}; or migrate as that role"
            )
        } else if message.contains("row-level security") {
            format!(
                "alter role {role} bypassrls; -- and reconnect; or make it a member of the role that owns the schema {schema}"
            )
        } else if message.contains("for schema") {
            format!("grant usage, create on schema {schema} to {role};")
        } else {
            format!(
                "grant usage on schema {schema} to {role}; \
                 grant select, insert, update, delete on all tables in schema {schema} to {role}; \
                 grant execute on all functions in schema {schema} to {role}; \
                 alter role {role} bypassrls;"
            )
        };
        Error::MissingPrivilege { grant, source }
    }
}

/// The SQLSTATE of a database's error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Whether a statement waited for somebody's lock for too long: lock_not_available.
pub(super) fn is_locked(error: &Error) -> bool {
    matches!(error, Error::Database { source, .. } if code(source).as_deref() == Some("55P03"))
}

/// Whether nothing was stored. An error that the server itself has found (it names the routine) and that leaves the connection open
/// has rolled the statement back, whatever its code; poolers name no routine.
pub(super) fn is_rolled_back(error: &Error) -> bool {
    if error.is_refusal() {
        return true;
    }
    let Error::Database { source, .. } = error else { return false };
    let told = source.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    told.is_some_and(|told| {
        told.severity() == PgSeverity::Error && told.routine().is_some() && told.code() != STATEMENT_COMPLETION_UNKNOWN
    })
}

/// Whether a connection was lost.
fn is_lost(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || matches!(code(error).as_deref(), Some("57P01" | "57P02"))
}

/// An error for another one whom it concerns.
pub(super) fn for_another(error: &Error) -> Error {
    match error {
        Error::Database { action, source } => Error::Database { action, source: Arc::clone(source) },
        Error::MissingPrivilege { grant, source } => {
            Error::MissingPrivilege { grant: grant.clone(), source: Arc::clone(source) }
        }
        Error::SchemaMissing { schema } => Error::SchemaMissing { schema: schema.clone() },
        Error::LeftOut { task, jobs, of } => Error::LeftOut { task: task.clone(), jobs: *jobs, of: *of },
        Error::Internal(text) => Error::Internal(text.clone()),
        other => Error::Storage(other.to_string().into()),
    }
}

/// Whether a transaction met another under a strict isolation.
pub(super) fn is_serialization_failure(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("40001")
}

/// Whether a transaction failed only because of another at the same time: serialization_failure, deadlock_detected.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
