//! What a database URL means, and what the environment says beside it.
//!
//! The driver reads both, but passes over what it does not understand, or says only that it does not. Here are the settings that
//! Node's driver knows beside those of PostgreSQL's own library, so that a fleet's URL means to us what it means to Node, and no
//! wish for an encrypted connection goes unheard.

use std::env;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::error::{Error, Result};
use crate::nearest::did_you_mean;

const UNREADABLE: &str = "the database URL cannot be read; it looks like postgres://user:password@host:5432/database, with special \
                          characters in the password percent-encoded and a port from 1 to 65535";

/// Node's: an encrypted connection to whomever.
const NO_VERIFY: &str = "no-verify";
const MODES: [&str; 7] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full", NO_VERIFY];

/// What this URL means; without one, what the variables `PG*` say.
///
/// `sslmode=no-verify`, as Node's driver has it, is `require`: encrypted, and no certificate is looked at. `ssl=true` is
/// `verify-full`, and `ssl=false` is `disable`, also as Node has them. A user without a host is one at `localhost`, unless `host`
/// names another, or the directory of a socket.
///
/// # Errors
/// [`Error::InvalidClient`] when it cannot be read, for an unknown `sslmode` or `PGSSLMODE`, or a `PGPORT` that is none. The
/// message repeats nothing of the URL that could be secret.
pub fn address(url: Option<&str>) -> Result<PgConnectOptions> {
    let port = variable("PGPORT");
    if let Some(port) = port.filter(|port| port.parse::<u16>().is_err()) {
        return Err(Error::InvalidClient(format!("PGPORT is {port:?}, and must be a number from 1 to 65535")));
    }
    let from_environment = variable("PGSSLMODE").map(|mode| known("PGSSLMODE", mode)).transpose()?;
    let (options, chosen) = match url {
        None => (PgConnectOptions::new(), None),
        Some(url) => {
            let (url, chosen) = read(url)?;
            (url.parse().map_err(|_| Error::InvalidClient(UNREADABLE.to_owned()))?, chosen)
        }
    };
    // The driver has read the variable too, but for Node's word.
    let no_verify = chosen.or(from_environment).is_some_and(|mode| mode == NO_VERIFY);
    Ok(if no_verify { options.ssl_mode(PgSslMode::Require) } else { options })
}

/// The URL as the driver understands it, and which `sslmode` it chooses.
fn read(url: &str) -> Result<(String, Option<String>)> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut from_ssl) = (None, None);
    let mut kept = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*name, &*value) {
            ("sslmode" | "ssl-mode", value) => mode = Some(known("sslmode", value.to_owned())?),
            ("ssl", "true" | "1") => from_ssl = Some("verify-full"),
            ("ssl", "false" | "0") => from_ssl = Some("disable"),
            ("ssl", NO_VERIFY) => from_ssl = Some(NO_VERIFY),
            ("ssl", value) => {
                return Err(Error::InvalidClient(format!(
                    "ssl is {value:?} in the database URL, and must be true or false"
                )));
            }
            (name, value) => {
                kept.append_pair(name, value);
            }
        }
    }
    let mode = mode.or(from_ssl.map(str::to_owned));
    if let Some(mode) = mode.as_deref().filter(|mode| *mode != NO_VERIFY) {
        kept.append_pair("sslmode", mode);
    }
    let query = kept.finish();
    let address = match address.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            // A password may hold an @ that nobody encoded.
            match authority.rsplit_once('@') {
                Some((user, host)) if host.is_empty() || host.starts_with(':') => {
                    format!("{scheme}://{user}@localhost{host}{path}")
                }
                _ => address.to_owned(),
            }
        }
        None => address.to_owned(),
    };
    Ok((if query.is_empty() { address } else { format!("{address}?{query}") }, mode))
}

/// A mode that somebody knows.
fn known(what: &str, mode: String) -> Result<String> {
    if MODES.contains(&mode.as_str()) {
        return Ok(mode);
    }
    let meant = did_you_mean(&mode, MODES);
    Err(Error::InvalidClient(format!("{what} is {mode:?}, and must be one of {}{meant}", MODES.join(", "))))
}

/// The value of an environment variable that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> String {
        format!("{:?}", address(Some(url)).unwrap().get_ssl_mode())
    }

    fn refused(url: &str) -> String {
        address(Some(url)).unwrap_err().to_string()
    }

    #[test]
    fn nodes_ways_to_ask_for_encryption_are_heard() {
        assert_eq!(mode("postgres://u@h/d?sslmode=no-verify"), "Require");
        assert_eq!(mode("postgres://u@h/d?ssl=true"), "VerifyFull");
        assert_eq!(mode("postgres://u@h/d?ssl=1&sslmode=require"), "Require", "the mode is more exact");
        assert_eq!(mode("postgres://u@h/d?ssl=no-verify&application_name=x"), "Require");
        assert_eq!(mode("postgres://u@h/d?ssl=0"), "Disable");
        assert_eq!(mode("postgres://u@h/d?sslmode=verify-ca"), "VerifyCa");
    }

    #[test]
    fn what_is_not_understood_is_told_without_a_secret() {
        let unknown = refused("postgres://u:sekret@h/d?sslmode=verify_full");
        assert!(unknown.contains("sslmode is \"verify_full\"") && unknown.contains("did you mean \"verify-full\"?"));
        assert!(refused("postgres://u:sekret@h/d?ssl=maybe").contains("must be true or false"));
        for wrong in ["postgres://u:sekret@h:99999/d", "postgres://u:sekret@[h/d", "postgres://u:sekret@h:port/d"] {
            let told = refused(wrong);
            assert!(told.contains("cannot be read") && !told.contains("sekret"), "{told}");
        }
    }

    #[test]
    fn a_user_without_a_host_is_one_at_localhost_or_at_a_socket() {
        let options = address(Some("postgres://u:p@/d?host=/run/pg")).unwrap();
        assert_eq!(options.get_socket().map(|path| path.display().to_string()), Some("/run/pg".to_owned()));
        assert_eq!((options.get_username(), options.get_database()), ("u", Some("d")));
        let options = address(Some("postgres://u:p@:5433/d")).unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("localhost", 5433));
        let other = address(Some("postgres://u:a%40b@h:1/d?options=-c%20search_path%3Dx")).unwrap();
        assert_eq!((other.get_host(), other.get_options()), ("h", Some("-c search_path=x")));
    }
}
