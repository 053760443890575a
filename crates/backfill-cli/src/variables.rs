//! What the environment says of the database.
//!
//! A variable that is set and empty names nothing: somebody's configuration lost its value. To go on without it would mean another
//! place for the jobs, so that is an error.

use std::env;

use crate::database::HIDDEN_URL;
use crate::failure::Failure;

/// Those of PostgreSQL's own that name a database, or a part of it.
const NAMES: [&str; 5] = ["PGSERVICE", "PGHOST", "PGHOSTADDR", "PGDATABASE", "PGUSER"];
/// Those that go with these, and name none alone; and what others call their parts.
const PARTS: [&str; 13] = [
    "PGPORT",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSSLMODE",
    "PGSERVICEFILE",
    "POSTGRES_HOST",
    "POSTGRES_DB",
    "POSTGRES_DATABASE",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "DB_HOST",
    "DB_NAME",
    "DATABASE_HOST",
];

/// The value of an environment variable that says something.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The value of a variable, if it is set. One that is set and empty is an error, which tells of such a value.
pub fn set(name: &str, such_as: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) if value.trim().is_empty() => Err(empty(name, such_as)),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::Usage(format!("{name} is no UTF-8; give it {such_as}"))),
    }
}

/// Whether PostgreSQL's own variables name a database.
pub fn names_postgres() -> Result<bool, Failure> {
    if NAMES.into_iter().any(|name| variable(name).is_some()) {
        return Ok(true);
    }
    match NAMES.into_iter().find(|name| env::var_os(name).is_some()) {
        Some(name) => Err(empty(name, "the value that psql needs")),
        None => Ok(false),
    }
}

fn empty(name: &str, such_as: &str) -> Failure {
    Failure::Usage(format!(
        "{name} is set and empty, so it is unclear where the jobs are; give it {such_as}, or unset it"
    ))
}

/// What looks like a database's and is not read, with what to do: in words, or nothing.
pub fn unread() -> Option<String> {
    // The values may hold passwords, and stay here.
    let mut urls: Vec<String> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            name != "DATABASE_URL" && !name.starts_with(HIDDEN_URL) && !name.starts_with("BACKFILL_TEST_")
        })
        .filter(|(_, value)| {
            ["postgres://", "postgresql://", "jdbc:postgresql://"].iter().any(|scheme| value.starts_with(scheme))
        })
        .map(|(name, _)| name)
        .collect();
    urls.sort_unstable();
    if let [first, rest @ ..] = &urls[..] {
        let others = if rest.is_empty() { String::new() } else { format!(" (nor are {})", rest.join(", ")) };
        return Some(format!(
            "{first} holds the URL of a PostgreSQL database and is not read{others}; if the jobs are there, set DATABASE_URL to it"
        ));
    }
    let parts: Vec<&str> = PARTS.into_iter().filter(|name| variable(name).is_some()).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "{} name no database alone and are not read; if the jobs are in PostgreSQL, set DATABASE_URL, or PGHOST, PGDATABASE or PGUSER",
            parts.join(", ")
        )
    })
}
