//! Which parameters there are.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::nearest::nearest;

/// What is taken, and what the driver calls it where it is handed on as it is.
pub(super) const TAKEN: [(&str, Option<&str>); 19] = [
    ("host", None),
    ("hostaddr", None),
    ("port", None),
    ("user", None),
    ("password", Some("password")),
    ("dbname", Some("dbname")),
    ("application_name", Some("application_name")),
    ("fallback_application_name", None),
    ("options", Some("options")),
    (ONE_OPTION, None),
    ("sslmode", None),
    ("ssl", None),
    ("requiressl", None),
    ("sslrootcert", Some("sslrootcert")),
    ("sslcert", Some("sslcert")),
    ("sslkey", Some("sslkey")),
    ("service", None),
    ("servicefile", None),
    // The driver's own.
    ("statement-cache-capacity", Some("statement-cache-capacity")),
];
/// One of the server's settings, `options[name]=value`: written as `-c name=value`.
pub(super) const ONE_OPTION: &str = "options[]";

/// Which variables say what. (Those of the driver's that are not here it reads itself.)
pub(super) const VARIABLES: [(&str, &str); 25] = [
    ("hostaddr", "PGHOSTADDR"),
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("application_name", "PGAPPNAME"),
    ("options", "PGOPTIONS"),
    ("sslmode", "PGSSLMODE"),
    ("requiressl", "PGREQUIRESSL"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslsni", "PGSSLSNI"),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
];

/// A wish that cannot be met, but where it asks for what is so anyhow.
#[derive(Debug)]
pub(super) struct Wish {
    pub name: &'static str,
    /// The values that ask for nothing.
    pub fine: &'static [&'static str],
    /// Why not, and what to write instead.
    pub instead: &'static str,
}

const WISHES: [Wish; 19] = [
    Wish {
        name: "channel_binding",
        fine: &["prefer", "disable"],
        instead: "logins are not bound to their channel; leave it out, and write sslmode=verify-full, which checks the server's \
                  certificate",
    },
    Wish {
        name: "gssencmode",
        fine: &["prefer", "disable"],
        instead: "connections are encrypted by TLS alone; leave it out, and write sslmode=verify-full",
    },
    Wish {
        name: "require_auth",
        fine: &[],
        instead: "the server chooses how a role logs in; leave it out, and say so in its pg_hba.conf",
    },
    Wish {
        name: "requirepeer",
        fine: &[],
        instead: "whose process listens at a socket is not looked at; leave it out, and use a directory that only the server's user can \
                  write to",
    },
    Wish { name: "sslcrl", fine: &[], instead: "lists of revoked certificates are not read; leave it out" },
    Wish { name: "sslcrldir", fine: &[], instead: "lists of revoked certificates are not read; leave it out" },
    Wish {
        name: "sslcertmode",
        fine: &["allow"],
        instead: "a client's certificate is sent if there is one and the server asks; leave it out, and sslcert too where none is to be \
                  sent",
    },
    Wish {
        name: "ssl_min_protocol_version",
        fine: &["TLSv1", "TLSv1.1", "TLSv1.2"],
        instead: "TLS 1.2 and 1.3 are spoken; leave it out, and set ssl_min_protocol_version at the server",
    },
    Wish {
        name: "ssl_max_protocol_version",
        fine: &["TLSv1.3"],
        instead: "TLS 1.2 and 1.3 are spoken; leave it out, and set ssl_max_protocol_version at the server",
    },
    Wish {
        name: "sslnegotiation",
        fine: &["postgres"],
        instead: "TLS begins as before PostgreSQL 17, which every server understands; leave it out",
    },
    Wish {
        name: "sslsni",
        fine: &["1"],
        instead: "the host's name is always sent; leave it out, or write the host's address",
    },
    Wish { name: "min_protocol_version", fine: &["3.0"], instead: "protocol 3.0 is spoken; leave it out" },
    Wish {
        name: "sslpassword",
        fine: &[],
        instead: "keys with a passphrase cannot be read; name a key without one by sslkey",
    },
    Wish {
        name: "sslidentity",
        fine: &[],
        instead: "certificates in PKCS 12 cannot be read; name files in PEM by sslcert and sslkey",
    },
    Wish {
        name: "sslaccept",
        fine: &["accept_invalid_certs"],
        instead: "that is Prisma's; write sslmode=verify-full, which means the same",
    },
    Wish { name: "scram_client_key", fine: &[], instead: "a role logs in by its password; write that" },
    Wish { name: "scram_server_key", fine: &[], instead: "a role logs in by its password; write that" },
    Wish { name: "passfile", fine: &[], instead: "set PGPASSFILE instead" },
    Wish {
        name: "replication",
        fine: &["false", "off", "no", "0"],
        instead: "there are no jobs on a connection for replication; leave it out",
    },
];

/// What other drivers and PostgreSQL's own library know, and means nothing here, in small letters.
const HARMLESS: [&str; 68] = [
    // PostgreSQL's own library.
    "client_encoding",
    "connect_timeout",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "sslcompression",
    "target_session_attrs",
    "tcp_user_timeout",
    // Node's, Prisma's, and those of hosts that write URLs for these.
    "binary",
    "connection_limit",
    "connectiontimeoutmillis",
    "enablechannelbinding",
    "encoding",
    "endpoint",
    "idle_in_transaction_session_timeout",
    "idletimeoutmillis",
    "keepalive",
    "lock_timeout",
    "max",
    "min",
    "pgbouncer",
    "pool_timeout",
    "query_timeout",
    "schema",
    "socket_timeout",
    "statement_cache_size",
    "statement_timeout",
    "supa",
    "uselibpqcompat",
    "workaround",
    // Java's.
    "applicationname",
    "binarytransfer",
    "currentschema",
    "logintimeout",
    "preparethreshold",
    "rewritebatchedinserts",
    "sockettimeout",
    "tcpkeepalive",
    // Python's, Ruby's, Elixir's and Go's.
    "adapter",
    "async_fallback",
    "checkout_timeout",
    "default_query_exec_mode",
    "max_connections",
    "min_connections",
    "pool",
    "pool_max_conn_idle_time",
    "pool_max_conn_lifetime",
    "pool_max_conns",
    "pool_min_conns",
    "pool_size",
    "poolsize",
    "prepared_statement_cache_size",
    "prepared_statements",
    "search_path",
    "statement_cache_capacity",
    "statement_cache_mode",
    "timeout",
    "timezone",
];

/// What a parameter is.
pub(super) enum Known {
    /// Taken under this name.
    Taken(&'static str),
    Wish(&'static Wish),
    Harmless,
    Unknown {
        /// A question that begins with a semicolon, or nothing.
        meant: String,
        about_security: bool,
    },
}

pub(super) fn known(name: &str) -> Known {
    let name = match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "ssl-cert" => "sslcert",
        "ssl-key" => "sslkey",
        "username" => "user",
        "database" => "dbname",
        name => name,
    };
    if let Some((taken, _)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
        return Known::Taken(taken);
    }
    if let Some(wish) = WISHES.iter().find(|wish| wish.name == name) {
        return Known::Wish(wish);
    }
    let lower = name.to_lowercase();
    if HARMLESS.contains(&lower.as_str()) {
        return Known::Harmless;
    }
    let taken = TAKEN.iter().map(|(taken, _)| *taken).filter(|taken| *taken != ONE_OPTION);
    let meant = nearest(name, taken.chain(WISHES.iter().map(|wish| wish.name)).chain(HARMLESS));
    let secure = |name: &str| {
        let name = name.to_lowercase();
        ["ssl", "tls", "gss", "auth", "channel", "encrypt", "cert"].iter().any(|word| name.contains(word))
    };
    Known::Unknown {
        meant: meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default(),
        about_security: secure(name) || meant.is_some_and(|meant| secure(meant) && !HARMLESS.contains(&meant)),
    }
}

/// Says of a parameter that it means nothing here: once, and not its value. `meant` is empty for one that others know.
pub(super) fn tell_once(name: &str, meant: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    // A name may be anything, and there may be many.
    const MOST: usize = 100;
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() >= MOST || !told.insert(name.to_owned()) {
        return;
    }
    match (HARMLESS.contains(&name.to_lowercase().as_str()), name) {
        (true, "schema" | "currentSchema" | "search_path") => {
            tracing::info!(
                "{name} in the database URL is passed over; the schema of the queue is a setting of its own"
            );
        }
        (true, _) => tracing::info!("{name} in the database URL means nothing here, and is passed over"),
        (false, _) => tracing::warn!("{name:?} in the database URL is not known, and is passed over{meant}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_of_one_kind() {
        let taken = TAKEN.iter().map(|(taken, _)| *taken);
        let all: Vec<&str> = taken.chain(WISHES.iter().map(|wish| wish.name)).chain(HARMLESS).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for (name, _) in VARIABLES {
            assert!(all.contains(&name), "{name}");
        }
        assert!(HARMLESS.iter().all(|name| *name == name.to_lowercase()));
    }
}
