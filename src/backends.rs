//! The table of backends: a URL decides where jobs are kept. Nothing else names a storage, but the constructors of the client.
//!
//! | URL | storage | feature |
//! | --- | --- | --- |
//! | `postgres://user@host/database` | a schema in PostgreSQL | `postgres`, on by default |
//! | `sqlite://jobs.db`, `sqlite:///var/lib/app/jobs.db` | an SQLite file | `sqlite` |
//! | `redis://host:6379/0`, `rediss://…` | a namespace in Redis or Valkey, named as a schema is | `redis` |
//! | `redis+sentinel://host:26379/service` | the same in the master that sentinels name | `redis` |
//! | `redis+cluster://host:7000,other:7000` | the same in a cluster | `redis` |
//! | `memory:` | this process's memory, anew for each that is opened | always there |

mod any_storage;
#[cfg(feature = "postgres")]
mod in_postgres;

pub use any_storage::AnyStorage;

use std::fmt;
#[cfg(any(feature = "redis", feature = "sqlite"))]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;

/// One row of the table.
struct Row {
    schemes: &'static [&'static str],
    parse: fn(&str) -> Result<Kind>,
}

const TABLE: &[Row] = &[
    Row { schemes: &["postgres", "postgresql"], parse: postgres },
    Row { schemes: &["sqlite"], parse: sqlite },
    Row {
        schemes: &[
            "redis",
            "rediss",
            "redis+unix",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
        ],
        parse: redis,
    },
    Row { schemes: &["memory"], parse: memory },
];

/// What URLs look like, for people.
const EXAMPLES: &str = "postgres://user@host/database, sqlite://jobs.db, redis://host or memory:";

/// Where jobs are kept: what a URL means, before anything is opened.
#[derive(Clone)]
pub struct Backend(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(feature = "postgres")]
    Postgres(Box<PgConnectOptions>),
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<backfill_sqlite::SqliteStorage>),
    #[cfg(feature = "redis")]
    Redis(Arc<backfill_redis::RedisStorage>),
    Memory,
}

impl Backend {
    /// Reads a URL. Sends nothing, and opens nothing.
    ///
    /// # Errors
    /// [`Error::InvalidClient`] for a URL that cannot be read, whose scheme is unknown, or whose storage this program was compiled
    /// without.
    pub fn of(url: &str) -> Result<Self> {
        let invalid = |text: String| Err(Error::InvalidClient(text));
        let Some((scheme, _)) = url.split_once(':').filter(|(scheme, _)| !scheme.is_empty()) else {
            return invalid(if url.trim().is_empty() {
                format!("the database URL is empty, perhaps because a variable is; it looks like {EXAMPLES}")
            } else {
                format!("the database URL has no scheme; it looks like {EXAMPLES}")
            });
        };
        match TABLE.iter().find(|row| row.schemes.contains(&scheme)) {
            Some(row) => (row.parse)(url).map(Self),
            // The rest of it may hold a password.
            None => invalid(format!(
                "the database URL begins with {scheme:?}, and only postgres://, sqlite://, redis:// and memory: are known"
            )),
        }
    }

    /// What tells this place from others. Holds no secret.
    #[must_use]
    #[cfg_attr(
        not(any(feature = "postgres", feature = "redis")),
        allow(unused_variables, reason = "nothing else has schemas")
    )]
    pub fn identity(&self, schema: &str) -> String {
        match &self.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(options) => in_postgres::identity(options, schema),
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(file) => format!("file {}", one_name(file.path()).display()),
            #[cfg(feature = "redis")]
            Kind::Redis(server) => format!("redis {} {schema}", server.address()),
            Kind::Memory => "memory".to_owned(),
        }
    }

    /// Whether jobs are in a schema there, which can be named; in Redis that is a namespace.
    #[must_use]
    pub fn has_schemas(&self) -> bool {
        self.default_schema().is_some()
    }

    /// The schema, or namespace, if none is named; `None` where there are none.
    #[must_use]
    pub fn default_schema(&self) -> Option<&'static str> {
        match self.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => Some(crate::postgres::DEFAULT_SCHEMA),
            #[cfg(feature = "redis")]
            Kind::Redis(_) => Some(backfill_redis::DEFAULT_NAMESPACE),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => "PostgreSQL",
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(_) => "SQLite",
            #[cfg(feature = "redis")]
            Kind::Redis(_) => "Redis",
            Kind::Memory => "memory",
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name()).finish()
    }
}

/// How to open a [`Backend`]. In Redis the schema is the namespace; elsewhere it is refused. The rest means something in PostgreSQL only.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    schema: Option<String>,
    max_connections: u32,
    prepared_statements: bool,
    max_wait: Option<Duration>,
    idle_timeout: Duration,
    acquire_timeout: Duration,
    application_name: Option<String>,
    messages: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            schema: None,
            max_connections: 10,
            prepared_statements: true,
            max_wait: Some(Duration::from_secs(30)),
            idle_timeout: Duration::from_secs(30),
            acquire_timeout: Duration::from_secs(30),
            application_name: None,
            messages: false,
        }
    }
}

impl OpenOptions {
    /// The schema, or the namespace in Redis. Default: `graphile_worker`, or `backfill`.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// How many connections the pool holds, at most. Default: 10.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// Whether statements are prepared once per connection. Default: yes.
    #[must_use]
    pub fn prepared_statements(mut self, prepared: bool) -> Self {
        self.prepared_statements = prepared;
        self
    }

    /// How long a server is waited for that is away. Default: 30 s. `None`: it is not even asked whether it is there.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Option<Duration>) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// After how long an unused connection is closed, as others may need it. Default: 30 s.
    #[must_use]
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// How long a call waits for a connection. Default: 30 s.
    #[must_use]
    pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.acquire_timeout = acquire_timeout;
        self
    }

    /// What the server calls these connections, unless the URL says.
    #[must_use]
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// The schema, if none was named.
    #[cfg(feature = "messages")]
    #[must_use]
    pub(crate) fn schema_if_none(mut self, schema: &str) -> Self {
        self.schema.get_or_insert_with(|| schema.to_owned());
        self
    }

    /// Whether to have lines, leases, units, documents and events ([`Messages`](crate::storage::messages::Messages)). Default: no.
    /// Migrating then adds what they need: in PostgreSQL tables and indexes of our own beside Graphile's.
    #[must_use]
    pub fn messages(mut self, messages: bool) -> Self {
        self.messages = messages;
        self
    }

    /// Opens a backend as it is: neither migrated nor checked.
    ///
    /// # Errors
    /// When the options do not go together, or the server cannot be reached.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "nothing else is waited for"))]
    pub async fn open(&self, backend: &Backend) -> Result<AnyStorage> {
        if let (Some(schema), false) = (&self.schema, backend.has_schemas()) {
            let name = backend.name();
            return Err(Error::InvalidClient(format!(
                "the schema {schema:?} was named, and {name} has no schemas; leave it out"
            )));
        }
        match &backend.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(options) => Ok(self.open_postgres(options).await?.into()),
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(file) => {
                let storage = backfill_sqlite::SqliteStorage::clone(file);
                Ok(if self.messages { storage.with_messages() } else { storage }.into())
            }
            #[cfg(feature = "redis")]
            Kind::Redis(server) => match &self.schema {
                Some(namespace) => Ok(server.in_namespace(namespace)?.into()),
                None => Ok(backfill_redis::RedisStorage::clone(server).into()),
            },
            Kind::Memory => Ok(MemoryStorage::new().into()),
        }
    }

    /// Opens a backend, and migrates it or only checks it.
    pub(crate) async fn open_ready(&self, backend: &Backend, migrate: bool) -> Result<AnyStorage> {
        let max_wait = self.max_wait.unwrap_or_default();
        let storage = match &backend.0 {
            #[cfg(feature = "postgres")]
            Kind::Postgres(options) => {
                let storage = self.postgres_at(options)?;
                if storage.reach_ready(max_wait).await? {
                    return Ok(storage.into());
                }
                storage.into()
            }
            _ => self.open(backend).await?,
        };
        make_ready(&**storage.storage(), migrate, max_wait).await?;
        Ok(storage)
    }
}

/// The storage that this URL means, as it is: neither migrated nor checked. A PostgreSQL server that is away is waited for, for
/// up to 30 seconds.
///
/// # Errors
/// Those of [`Backend::of`] and [`OpenOptions::open`].
pub async fn open(url: &str) -> Result<AnyStorage> {
    OpenOptions::default().open(&Backend::of(url)?).await
}

/// Migrates a storage, or only checks it; returns its version. When the server goes away meanwhile, it is waited for, for at most
/// about so long.
///
/// # Errors
/// Those of [`Storage::migrate`] and [`Storage::version`].
pub async fn make_ready(storage: &dyn Storage, migrate: bool, max_wait: Duration) -> Result<i32> {
    /// How long to wait before the next try.
    const PAUSE: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    loop {
        let ready = if migrate { storage.migrate().await.map(|migrated| migrated.to) } else { storage.version().await };
        match ready {
            Err(error) if error.is_away() && begun.elapsed() < max_wait => {
                tracing::warn!(%error, "the database has gone away; trying again");
                sleep(PAUSE.min(max_wait.saturating_sub(begun.elapsed()))).await;
            }
            ready => return ready,
        }
    }
}

fn memory(url: &str) -> Result<Kind> {
    match url {
        "memory:" | "memory://" => Ok(Kind::Memory),
        _ => Err(Error::InvalidClient(format!("the URL {url:?} says too much; write memory:"))),
    }
}

#[cfg(feature = "postgres")]
use in_postgres::postgres;

#[cfg(not(feature = "postgres"))]
fn postgres(_url: &str) -> Result<Kind> {
    Err(without("postgres"))
}

#[cfg(feature = "sqlite")]
fn sqlite(url: &str) -> Result<Kind> {
    Ok(Kind::Sqlite(Arc::new(backfill_sqlite::SqliteStorage::open(url)?)))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_url: &str) -> Result<Kind> {
    Err(without("sqlite"))
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Kind> {
    Ok(Kind::Redis(Arc::new(backfill_redis::RedisStorage::open(url, backfill_redis::DEFAULT_NAMESPACE)?)))
}

#[cfg(not(feature = "redis"))]
fn redis(_url: &str) -> Result<Kind> {
    Err(without("redis"))
}

/// A storage that this program was compiled without, whose scheme and feature have the same name.
#[cfg(any(test, not(all(feature = "postgres", feature = "redis", feature = "sqlite"))))]
fn without(feature: &str) -> Error {
    Error::InvalidClient(format!(
        "the database URL begins with {feature}:, and this program was compiled without it; switch the feature `{feature}` of \
         backfill on"
    ))
}

/// The one name of a file, whether or not it is there yet.
#[cfg(feature = "sqlite")]
fn one_name(path: &std::path::Path) -> std::path::PathBuf {
    if let Ok(known) = std::fs::canonicalize(path) {
        return known;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|parent| std::fs::canonicalize(parent).ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests;
