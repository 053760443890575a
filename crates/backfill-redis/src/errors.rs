//! What the driver said: which kind of failure it is, and in which words people read it.

use std::fmt;

use backfill_core::error::{Error, FailureKind};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What servers say when they wrote nothing, and may write later: full memory, a snapshot that failed, too few replicas, a slot in motion, a
/// server that has become a replica, a login that it does not know.
const PASSING: [&str; 7] = ["OOM", "MISCONF", "NOREPLICAS", "TRYAGAIN", "READONLY", "NOAUTH", "WRONGPASS"];
/// What they say when they cannot be asked now.
const AWAY: [&str; 8] = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "MOVED", "ASK", "CROSSSLOT"];

/// What kind of failure this is.
pub(crate) fn kind(error: &RedisError) -> FailureKind {
    match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::MasterNameNotFoundBySentinel => {
            FailureKind::Unreachable
        }
        // Whoever changes passwords and rights changes them back; a result that cannot be written meanwhile must not be given up.
        ErrorKind::AuthenticationFailed => FailureKind::Conflict,
        ErrorKind::InvalidClientConfig | ErrorKind::Client => FailureKind::Refused,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => FailureKind::Invalid,
        _ => match error.code() {
            Some("NOPERM") if !is_in_script(error) => FailureKind::Conflict,
            Some(code) if PASSING.contains(&code) => FailureKind::Conflict,
            Some(code) if AWAY.contains(&code) => FailureKind::Unavailable,
            // A script that failed may have written before it did.
            Some(_) => FailureKind::Internal,
            None => FailureKind::Unknown,
        },
    }
}

/// A right that is missing within a script may be missed after it has written.
fn is_in_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("script"))
}

/// Whether the next call needs another connection: this one is broken, or leads to the wrong server.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    let leads_elsewhere = [
        ErrorKind::Server(ServerErrorKind::ReadOnly),
        ErrorKind::Server(ServerErrorKind::Moved),
        ErrorKind::Server(ServerErrorKind::MasterDown),
        ErrorKind::Server(ServerErrorKind::ClusterDown),
    ];
    error.is_unrecoverable_error() || error.is_io_error() || leads_elsewhere.contains(&error.kind())
}

/// What the driver said, as people read it.
#[derive(Debug)]
struct DriverError(RedisError);

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        if self.0.kind() == ErrorKind::AuthenticationFailed {
            return f.write_str(": check user and password in the URL, redis://user:password@host");
        }
        let remedy = match self.0.code() {
            Some("NOAUTH") => "the server wants to know who asks; use redis://user:password@host",
            Some("OOM") => "the server's memory is full; give it more (maxmemory), or let workers finish jobs",
            Some("MISCONF") => "the server cannot write to its disk; look at its log",
            Some("NOREPLICAS") => {
                "fewer replicas are connected than the server was told to ask for (min-replicas-to-write)"
            }
            Some("READONLY") => "the server is a replica; ask the sentinels for the master (redis+sentinel://)",
            Some("NOPERM") => "the ACL user lacks a command; `backfill doctor` names those that are needed",
            Some("MOVED" | "ASK" | "CROSSSLOT") => "the server is in a cluster; use redis+cluster://",
            _ => return Ok(()),
        };
        write!(f, ": {remedy}")
    }
}

impl std::error::Error for DriverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

pub(crate) fn failed(action: &'static str) -> impl Fn(RedisError) -> Error {
    move |error| Error::storage(action, kind(&error), DriverError(error))
}

/// The server answered something that no script of ours does.
pub(crate) fn odd(action: &'static str) -> Error {
    Error::storage(
        action,
        FailureKind::Invalid,
        "the server's answer cannot be read; is another program using these keys?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(answer: &str) -> FailureKind {
        let (code, detail) = answer.split_once(' ').unwrap_or((answer, ""));
        kind(&redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
    }

    #[test]
    fn nothing_that_a_server_says_makes_a_result_be_given_up() {
        for answer in [
            "OOM x",
            "MISCONF x",
            "NOAUTH x",
            "WRONGPASS x",
            "READONLY x",
            "MOVED 1 h:1",
            "ASK 1 h:1",
            "ERR x",
            "LOADING x",
            "NEW x",
        ] {
            assert!(said(answer).is_transient(), "{answer}");
        }
        let login = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
        assert!(kind(&login).is_transient());
    }

    #[test]
    fn what_was_refused_before_it_began_is_a_refusal() {
        for answer in ["OOM x", "MISCONF x", "NOREPLICAS x", "READONLY x"] {
            assert!(said(answer).is_refusal(), "{answer}");
        }
        // A script that failed may have written before.
        for answer in ["ERR x", "NOPERM ACL failure in script: User app has no permissions to run the 'xadd' command"] {
            assert!(!said(answer).is_refusal(), "{answer}");
        }
        assert!(said("NOPERM User app has no permissions to run the 'evalsha' command").is_refusal());
    }
}
