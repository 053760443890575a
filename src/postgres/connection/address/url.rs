//! Which parameters a URL says.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::UNREADABLE;
use super::parameters::ONE_OPTION;
use crate::error::{Error, Result};

pub(super) struct Parsed {
    pub parameters: Vec<(String, String)>,
    /// There is a place for a user, and nothing in the place for the host.
    pub user_only: bool,
}

/// Reads `postgres://user:password@host:port/database?name=value`. The host may be an address in brackets, or several with commas
/// between.
pub(super) fn parse(url: &str) -> Result<Parsed> {
    let unreadable = || Error::InvalidClient(UNREADABLE.to_owned());
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (_, rest) = address.split_once("://").ok_or_else(unreadable)?;
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // A password may hold an @ that nobody encoded.
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let mut parameters = Vec::new();
    let mut say = |name: &str, value: &str| -> Result<()> {
        let value = percent_decode_str(value).decode_utf8().map_err(|_| unreadable())?;
        if !value.is_empty() {
            parameters.push((name.to_owned(), value.into_owned()));
        }
        Ok(())
    };
    if let Some(user) = user {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        say("user", user)?;
        say("password", password)?;
    }
    let several = hosts.contains(',');
    let (mut names, mut port) = (Vec::new(), None);
    for host in hosts.split(',') {
        let (name, its_port) = split_port(host).ok_or_else(unreadable)?;
        names.push(name);
        port = port.or(its_port.filter(|port| !port.is_empty()));
    }
    if let Some(port) = port {
        // None of what is in its place may be shown: it may be a password with a slash in it.
        port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(unreadable)?;
        say("port", port)?;
    }
    say("host", &names.join(","))?;
    say("dbname", database)?;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.strip_prefix("options[").and_then(|name| name.strip_suffix(']')) {
            Some(name) => parameters.push((ONE_OPTION.to_owned(), format!("-c {}={}", escaped(name), escaped(&value)))),
            None => parameters.push((name.into_owned(), value.into_owned())),
        }
    }
    Ok(Parsed {
        parameters,
        user_only: user.is_some() && hosts.split(':').next().is_none_or(str::is_empty) && !several,
    })
}

/// A host and its port. An address of IPv6 stands in brackets, because it has colons of its own.
fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        // Nothing but an address, and perhaps the interface that it is at.
        address.split('%').next()?.parse::<std::net::Ipv6Addr>().ok()?;
        return match port {
            "" => Some((address, None)),
            port => Some((address, Some(port.strip_prefix(':')?))),
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((name, port)) => Some((name, Some(port))),
        None => Some((host, None)),
    }
}

/// As a part of the server's command line, where a space begins another.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', ' ']) { text.replace('\\', "\\\\").replace(' ', "\\ ").into() } else { text.into() }
}
