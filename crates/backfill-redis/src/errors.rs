//! What the driver said: which kind of failure it is, and in which words people read it.

use std::fmt;

use backfill_core::error::{Error, FailureKind};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What servers say when they wrote nothing, and may write later: full memory, a snapshot that failed, too few replicas, a slot in motion, a
/// server that has become a replica.
const PASSING: [&str; 5] = ["OOM", "MISCONF", "NOREPLICAS", "TRYAGAIN", "READONLY"];
/// What they say when they cannot be asked now.
const AWAY: [&str; 5] = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED"];

/// What kind of failure this is.
pub(crate) fn kind(error: &RedisError) -> FailureKind {
    match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::MasterNameNotFoundBySentinel => {
            FailureKind::Unreachable
        }
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Client
        | ErrorKind::Server(ServerErrorKind::NoPerm) => FailureKind::Refused,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => FailureKind::Invalid,
        _ => match error.code() {
            Some(code) if PASSING.contains(&code) => FailureKind::Conflict,
            Some(code) if AWAY.contains(&code) => FailureKind::Unavailable,
            // A script that failed may have written before it did.
            Some("ERR" | "WRONGTYPE") => FailureKind::Internal,
            Some(_) => FailureKind::Refused,
            None => FailureKind::Unknown,
        },
    }
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
