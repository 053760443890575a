//! The backend: a URL decides where jobs are kept.
//!
//! | URL | storage | feature |
//! | --- | --- | --- |
//! | `postgres://user@host/database` | a schema in PostgreSQL | always there |
//! | `sqlite://jobs.db`, `sqlite:///var/lib/app/jobs.db` | an SQLite file | `sqlite` |
//! | `memory:` | this process's memory, anew for each that is opened | always there |

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::{Instant, sleep};

use super::Storage;
use super::memory::MemoryStorage;
use super::postgres::{ConnectionHealth, DEFAULT_SCHEMA, PostgresStorage, address};
use crate::error::{Error, Result};

/// For how long a connection is kept that nobody uses, and that others may need.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// What can be said about a storage besides its URL. Elsewhere than in PostgreSQL a schema is refused, and the rest means nothing.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub schema: Option<String>,
    pub max_connections: u32,
    pub prepared_statements: bool,
    pub max_wait: Duration,
}

impl Default for Backend {
    fn default() -> Self {
        Self { schema: None, max_connections: 10, prepared_statements: true, max_wait: Duration::from_secs(30) }
    }
}

/// The storage that this URL means, as it is: neither migrated nor checked. A PostgreSQL server that is away is waited for, for
/// up to 30 seconds.
///
/// # Errors
/// [`Error::InvalidClient`] for a URL that cannot be read, whose scheme is unknown, or whose storage this program was compiled
/// without; and when the server cannot be reached.
pub async fn open(url: &str) -> Result<Arc<dyn Storage>> {
    Backend::default().open(url).await
}

/// Migrates a storage, or only checks it; answers its revision. When the server goes away meanwhile, it is waited for, for at most
/// about so long.
///
/// # Errors
/// Those of [`Storage::migrate`] and [`Storage::check`].
pub async fn make_ready(storage: &dyn Storage, migrate: bool, max_wait: Duration) -> Result<i32> {
    let begun = Instant::now();
    loop {
        let ready = if migrate { storage.migrate().await.map(|migrated| migrated.to) } else { storage.check().await };
        match ready {
            Err(error) if error.is_away() && begun.elapsed() < max_wait => {
                tracing::warn!(%error, "the database has gone away; trying again");
                sleep(PAUSE.min(max_wait.saturating_sub(begun.elapsed()))).await;
            }
            ready => return ready,
        }
    }
}

/// How long to wait for a server that has gone away.
const PAUSE: Duration = Duration::from_secs(1);

impl Backend {
    async fn open(&self, url: &str) -> Result<Arc<dyn Storage>> {
        if is_postgres(url) {
            let storage = self.postgres_at(url)?;
            storage.reach(self.max_wait).await?;
            return Ok(Arc::new(storage));
        }
        match scheme(url) {
            Some("sqlite") => {
                self.refuse_schema("SQLite")?;
                sqlite(url)
            }
            Some("memory") => {
                self.refuse_schema("memory")?;
                if !matches!(url, "memory:" | "memory://") {
                    return Err(Error::InvalidClient(format!("the URL {url:?} says too much; write memory:")));
                }
                Ok(Arc::new(MemoryStorage::new()))
            }
            // The rest of it may hold a password.
            Some(scheme) => Err(Error::InvalidClient(format!(
                "the database URL begins with {scheme:?}, and only postgres://, sqlite:// and memory: are known"
            ))),
            None if url.trim().is_empty() => Err(Error::InvalidClient(
                "the database URL is empty, perhaps because a variable is; it looks like postgres://user@host/database, \
                 sqlite://jobs.db or memory:"
                    .to_owned(),
            )),
            None => Err(Error::InvalidClient(
                "the database URL has no scheme; it looks like postgres://user@host/database, sqlite://jobs.db or memory:"
                    .to_owned(),
            )),
        }
    }

    /// The storage that this URL means, migrated or only checked.
    pub(crate) async fn open_ready(&self, url: &str, migrate: bool) -> Result<Arc<dyn Storage>> {
        let storage = if is_postgres(url) {
            let storage = self.postgres_at(url)?;
            if storage.reach_ready(self.max_wait).await? {
                return Ok(Arc::new(storage));
            }
            Arc::new(storage)
        } else {
            self.open(url).await?
        };
        make_ready(&*storage, migrate, self.max_wait).await?;
        Ok(storage)
    }

    /// The storage in PostgreSQL behind a pool of the user's, migrated or only checked.
    pub(crate) async fn postgres_ready(&self, pool: PgPool, migrate: bool) -> Result<Arc<dyn Storage>> {
        // The pool has the user's own hooks.
        let storage = self.postgres(pool, ConnectionHealth::default())?;
        storage.reach(self.max_wait).await?;
        make_ready(&storage, migrate, self.max_wait).await?;
        Ok(Arc::new(storage))
    }

    fn postgres_at(&self, url: &str) -> Result<PostgresStorage> {
        let health = ConnectionHealth::default();
        let pool = connect(url, self.max_connections, &health)?;
        self.postgres(pool, health)
    }

    fn postgres(&self, pool: PgPool, health: ConnectionHealth) -> Result<PostgresStorage> {
        let schema = self.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        PostgresStorage::with_health(pool, schema, self.prepared_statements, health)
    }

    fn refuse_schema(&self, storage: &str) -> Result<()> {
        match &self.schema {
            Some(schema) => Err(Error::InvalidClient(format!(
                "the schema {schema:?} was named, and {storage} has no schemas; leave it out"
            ))),
            None => Ok(()),
        }
    }
}

fn scheme(url: &str) -> Option<&str> {
    url.split_once(':').map(|(scheme, _)| scheme)
}

fn is_postgres(url: &str) -> bool {
    matches!(scheme(url), Some("postgres" | "postgresql"))
}

#[cfg(feature = "sqlite")]
fn sqlite(url: &str) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(backfill_sqlite::SqliteStorage::open(url)?))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_url: &str) -> Result<Arc<dyn Storage>> {
    Err(without("sqlite"))
}

/// A storage that this program was compiled without, whose scheme and feature have the same name.
#[cfg_attr(feature = "sqlite", allow(dead_code, reason = "only without a feature"))]
fn without(feature: &str) -> Error {
    Error::InvalidClient(format!(
        "the database URL begins with {feature}:, and this program was compiled without it; switch the feature `{feature}` of \
         backfill on"
    ))
}

fn connect(url: &str, max_connections: u32, health: &ConnectionHealth) -> Result<PgPool> {
    let options = address(Some(url))?;
    if max_connections == 0 {
        return Err(Error::InvalidClient("max_connections is 0, and must be at least 1".to_owned()));
    }
    Ok(health
        .watch(PgPoolOptions::new().max_connections(max_connections).idle_timeout(KEPT_FOR))
        .connect_lazy_with(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str) -> String {
        open(url).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_scheme_decides_and_an_unknown_one_is_refused_without_showing_the_rest() {
        assert_eq!(open("memory:").await.unwrap().name(), "memory");
        let error = refused("mysql://root:secret@host/db").await;
        assert!(error.contains("\"mysql\"") && error.contains("sqlite://") && !error.contains("secret"), "{error}");
        assert!(refused("jobs.db").await.contains("no scheme"));
        assert!(refused("").await.contains("is empty, perhaps because a variable is"));
        assert!(refused("memory:jobs").await.contains("memory:"));
        assert!(!refused("postgres://u:secret@host:port/db").await.contains("secret"));
        let named = Backend { schema: Some("s".to_owned()), ..Backend::default() };
        assert!(named.open("memory:").await.unwrap_err().to_string().contains("no schemas"));
    }

    #[test]
    fn a_storage_that_is_not_compiled_in_says_which_feature_it_is() {
        assert!(without("sqlite").to_string().contains("switch the feature `sqlite` of backfill on"));
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_file_is_opened_by_its_url() {
        assert_eq!(open("sqlite://no/such/jobs.db").await.unwrap().name(), "SQLite, file no/such/jobs.db");
        assert!(refused("sqlite::memory:").await.contains("use memory:"));
        assert!(refused("sqlite://jobs.db?mode=ro").await.contains("only be read"));
        assert!(refused("sqlite://jobs.db?nonsense=1").await.contains("cannot be read"));
    }
}
