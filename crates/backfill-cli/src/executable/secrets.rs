//! Which variables of the worker's environment hold a way to its jobs that is secret.
//!
//! A task needs its payload, and not the password of the database, with which it could read every other payload. So programs get
//! the environment without these, unless they are meant to have them, as from Node's worker.

use std::ffi::{OsStr, OsString};

use crate::database::{HIDDEN_URL, has_password};

/// What libpq reads a secret from: the password itself, files that hold it, and the key of a certificate.
const NAMES: [&str; 5] = ["PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD"];

/// The names of the variables that programs do not get. What was put away by this program itself they never get.
pub fn withheld(passed_on: bool) -> Vec<OsString> {
    let secret = |(name, value): &(OsString, OsString)| is_ours(name) || !passed_on && is_secret(name, value);
    std::env::vars_os().filter(secret).map(|(name, _)| name).collect()
}

/// What was put away by this program itself.
pub fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(HIDDEN_URL)
}

fn is_secret(name: &OsStr, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    // Under whatever name: DATABASE_URL, POSTGRES_URL, the one of another program's.
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| value.starts_with(scheme));
    name.to_str().is_some_and(|name| NAMES.contains(&name)) || is_url && has_password(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_by_its_name_or_its_value() {
        let secret = |name: &str, value: &str| is_secret(OsStr::new(name), OsStr::new(value));
        assert!(secret("PGPASSWORD", "x") && secret("PGPASSFILE", "/home/u/.pgpass"));
        assert!(secret("DATABASE_URL", "postgres://u:p@h/d") && secret("OTHER", "postgresql://h/d?user=u&password=p"));
        assert!(!secret("DATABASE_URL", "postgres://u@h/d") && !secret("DATABASE_URL", "sqlite://jobs.db"));
        assert!(!secret("PGHOST", "h") && !secret("HOME", "/home/u"));
    }
}
