//! Who logs in where nobody says it.

use std::env;

use crate::error::{Error, Result};

/// The operating system's user, who runs this process: as for PostgreSQL's own programs.
pub(super) fn of_the_system() -> Result<String> {
    whoami::username().map_err(|error| {
        Error::InvalidClient(format!(
            "neither the database URL nor PGUSER names a role to log in as, and the operating system has no name for the user of this \
             process ({error}); write postgres://ROLE@host/database"
        ))
    })
}

/// Why this role may be the one that was tried, for somebody who has not named it: a part of a sentence, or nothing.
pub(in crate::postgres) fn why(role: &str) -> Option<&'static str> {
    match env::var("PGUSER").ok().filter(|user| !user.is_empty()) {
        Some(user) => (user == role).then_some("PGUSER names it"),
        None => whoami::username()
            .is_ok_and(|user| user == role)
            .then_some("it is the operating system's user, and neither the database URL nor PGUSER names another"),
    }
}
