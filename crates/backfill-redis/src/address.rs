//! Which server is meant, and how it is reached.
//!
//! | URL | what it is |
//! | --- | --- |
//! | `redis://user:password@host:6379/0` | one server; `rediss://` with TLS, `redis+unix:///path` by a socket |
//! | `redis+sentinel://user:password@host:26379,other:26379/service/0` | whichever server the sentinels call the master of this service |
//! | `redis+cluster://user:password@host:7000,other:7000` | the server of a cluster that has the namespace's slot, found by any of these |

use std::fmt;

use backfill_core::{Error, Result};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{Client, RedisConnectionInfo, RedisResult, TlsMode};

/// The port of a sentinel, if none is named.
const SENTINEL_PORT: u16 = 26_379;

/// Where jobs are kept.
#[derive(Clone)]
pub(crate) enum Address {
    /// In one server.
    Server(Client),
    /// In the master that sentinels name.
    Sentinel { sentinels: Vec<Client>, service: String, node: SentinelNodeConnectionInfo, shown: String },
    /// In a cluster of which these are nodes.
    Cluster { nodes: Vec<Client>, shown: String },
}

impl Address {
    pub(crate) fn of(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no ://"))?;
        let (transport, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        match kind {
            "sentinel" => Self::sentinel(transport, rest),
            "cluster" => Self::cluster(transport, rest),
            // What it says may quote the URL, in which a password may be.
            _ => client(url).map(Self::Server),
        }
    }

    fn sentinel(transport: &str, rest: &str) -> Result<Self> {
        let (login, hosts, path) = parts(rest)?;
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err(invalid("it names no service, as redis+sentinel://host:26379/mymaster does"));
        }
        let mut settings = RedisConnectionInfo::default();
        if !database.is_empty() {
            settings = settings.set_db(database.parse().map_err(|_| invalid("the database is no number"))?);
        }
        let (user, password) = login_of(login)?;
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
        if transport == "rediss" {
            node = node.set_tls_mode(TlsMode::Secure);
        }
        let sentinels = hosts.split(',').map(|host| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            client(&if has_port {
                format!("{transport}://{host}")
            } else {
                format!("{transport}://{host}:{SENTINEL_PORT}")
            })
        });
        let shown = format!("{service} of sentinels {hosts}");
        Ok(Self::Sentinel { sentinels: sentinels.collect::<Result<_>>()?, service: service.to_owned(), node, shown })
    }

    fn cluster(transport: &str, rest: &str) -> Result<Self> {
        let (login, hosts, path) = parts(rest)?;
        if !path.is_empty() {
            return Err(invalid("a cluster has no databases"));
        }
        let before = login.map(|login| format!("{login}@")).unwrap_or_default();
        let nodes = hosts.split(',').map(|host| client(&format!("{transport}://{before}{host}")));
        Ok(Self::Cluster { nodes: nodes.collect::<Result<_>>()?, shown: format!("cluster of {hosts}") })
    }

    /// The sentinels' client for the master.
    #[allow(clippy::unnecessary_to_owned, reason = "without TLS the driver wants it owned")]
    pub(crate) fn master(
        sentinels: &[Client],
        service: &str,
        node: &SentinelNodeConnectionInfo,
    ) -> RedisResult<SentinelClient> {
        let infos = sentinels.iter().map(|client| client.get_connection_info().clone()).collect();
        SentinelClient::build(infos, service.to_owned(), Some(node.clone()), SentinelServerType::Master)
    }
}

/// Without any secret.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(client) => {
                let info = client.get_connection_info();
                write!(f, "{}", info.addr())?;
                if info.redis_settings().db() != 0 { write!(f, "/{}", info.redis_settings().db()) } else { Ok(()) }
            }
            Self::Sentinel { shown, .. } | Self::Cluster { shown, .. } => f.write_str(shown),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// `user:password`, hosts, and the path.
fn parts(rest: &str) -> Result<(Option<&str>, &str, &str)> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains('@') {
        // Else a part of the password would be taken for a name, and be shown.
        return Err(invalid("a / in user or password must be written as %2F"));
    }
    Ok(match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts, path),
        None => (None, authority, path),
    })
}

fn login_of(login: Option<&str>) -> Result<(Option<String>, Option<String>)> {
    let Some(login) = login else { return Ok((None, None)) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8();
        let text = text.map_err(|_| invalid("user or password are not valid UTF-8 once they are decoded"))?;
        Ok((!text.is_empty()).then(|| text.into_owned()))
    };
    Ok((decoded(user)?, decoded(password)?))
}

fn client(url: &str) -> Result<Client> {
    Client::open(url).map_err(|error| {
        let tls = if url.starts_with("rediss") && !cfg!(feature = "tls-rustls") {
            "; this program was compiled without TLS: switch the feature `tls-rustls` on"
        } else {
            ""
        };
        invalid(&format!("{}{tls}", error.category()))
    })
}

fn invalid(problem: &str) -> Error {
    Error::InvalidClient(format!(
        "the URL of Redis cannot be read: {problem}; it looks like redis://user:password@host:6379/0, \
         redis+sentinel://host:26379/service or redis+cluster://host:7000"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        Address::of(url).expect(url).to_string()
    }

    #[test]
    fn urls_name_a_server_sentinels_or_a_cluster() {
        assert_eq!(shown("redis://h"), "h:6379");
        assert_eq!(shown("redis://u:secret@h:7/3"), "h:7/3");
        assert_eq!(shown("redis+unix:///run/redis.sock"), "/run/redis.sock");
        assert_eq!(shown("redis+sentinel://u:secret@a,b:5/main/1"), "main of sentinels a,b:5");
        assert_eq!(shown("redis+cluster://u:secret@a:7000,b:7001"), "cluster of a:7000,b:7001");
    }

    #[test]
    fn no_error_tells_a_password() {
        for url in [
            "redis://u:secret@h:port",
            "redis+sentinel://u:secret@h",
            "redis+sentinel://u:secret@h/main/x",
            "redis+sentinel://u:12/secret@h/main",
            "redis+cluster://u:secret@h:port",
            "redis+cluster://u:secret@h/1",
            "redis:secret",
            "redis+other://u:secret@h",
        ] {
            let error = Address::of(url).expect_err(url).to_string();
            assert!(!error.contains("secret") && error.contains("looks like"), "{error}");
        }
    }
}
