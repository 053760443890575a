//! Settings of a client.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "postgres")]
use sqlx::PgPool;

use super::BackfillClient;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::storage::{Backend, OpenOptions};

/// The most bytes that a payload's cap may be raised to: PostgreSQL holds values up to 1 GiB, and conversions need room.
const LARGEST_PAYLOAD_CAP: usize = 256 * 1024 * 1024;

/// Builds a [`BackfillClient`].
#[derive(Clone)]
#[must_use]
pub struct BackfillClientBuilder {
    database_url: Option<String>,
    #[cfg(feature = "postgres")]
    pool: Option<PgPool>,
    options: OpenOptions,
    migrate: bool,
    max_payload_bytes: usize,
    clock: Clock,
}

impl Default for BackfillClientBuilder {
    fn default() -> Self {
        Self {
            database_url: None,
            #[cfg(feature = "postgres")]
            pool: None,
            options: OpenOptions::default(),
            migrate: true,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            clock: Clock::storage(),
        }
    }
}

impl BackfillClientBuilder {
    /// Where the jobs are kept: `postgres://user:password@host:port/database?options`, `sqlite://jobs.db` (with the feature
    /// `sqlite`) or `memory:`. See [`storage::open`](crate::storage::open()).
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// A pool that is there already, instead of a URL.
    #[cfg(feature = "postgres")]
    pub fn pool(mut self, pool: PgPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The schema, in PostgreSQL. Default: `graphile_worker`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.options = self.options.schema(schema);
        self
    }

    /// Whether to bring the schema up to date now. Default: yes. If not, building fails with a clear error when the
    /// schema is missing or too old.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// The size of the pool that is made for a URL of PostgreSQL. Default: 10. Each worker opens up to eight connections more, so that
    /// jobs which use up the pool cannot make it look dead; two of them are enough.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.options = self.options.max_connections(connections);
        self
    }

    /// The cap on one payload's JSON text, in bytes. Default: 8 MiB; at most 256 MiB.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// Whether statements are prepared once per connection, in PostgreSQL. Default: yes. Switch it off behind a pooler that hands out
    /// connections by the transaction and does not track prepared statements.
    pub fn prepared_statements(mut self, prepared: bool) -> Self {
        self.options = self.options.prepared_statements(prepared);
        self
    }

    /// How long building waits for a server that cannot be reached, such as one that is still starting. Default: 30 s; zero
    /// fails at once, [`Duration::MAX`] waits for as long as it takes. Each try that fails is logged as a warning.
    pub fn wait_for_database(mut self, max_wait: Duration) -> Self {
        self.options = self.options.max_wait(Some(max_wait));
        self
    }

    /// Whether the storage has lines, leases, units, documents and events, too (see
    /// [`Messages`](crate::storage::messages::Messages)). Default: no. In PostgreSQL these are tables and indexes of our own beside
    /// Graphile's, which cost each job a little.
    pub fn messages(mut self, messages: bool) -> Self {
        self.options = self.options.messages(messages);
        self
    }

    /// Whose clock decides when jobs are ready. Default: the database's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Connects, and migrates unless told not to. The connections of a pool that is made for a URL are opened when they are needed.
    ///
    /// # Errors
    /// When settings do not go together, the database cannot be reached, or the schema cannot be used.
    pub async fn build(self) -> Result<BackfillClient> {
        check_payload_cap(self.max_payload_bytes)?;
        #[cfg(feature = "postgres")]
        if let Some(pool) = self.pool {
            if self.database_url.is_some() {
                return Err(Error::InvalidClient("both a pool and a database URL were given; give one".to_owned()));
            }
            let storage = self.options.postgres_ready(pool, self.migrate).await?;
            return Ok(BackfillClient { storage, max_payload_bytes: self.max_payload_bytes, clock: self.clock });
        }
        let Some(url) = self.database_url else {
            return Err(Error::InvalidClient(
                "neither a pool nor a database URL was given; call database_url or pool".to_owned(),
            ));
        };
        let storage = self.options.open_ready(&Backend::of(&url)?, self.migrate).await?;
        Ok(BackfillClient { storage, max_payload_bytes: self.max_payload_bytes, clock: self.clock })
    }
}

pub(super) fn check_payload_cap(bytes: usize) -> Result<()> {
    if (1..=LARGEST_PAYLOAD_CAP).contains(&bytes) {
        return Ok(());
    }
    Err(Error::InvalidClient(format!("max_payload_bytes is {bytes}, and must be from 1 to {LARGEST_PAYLOAD_CAP}")))
}

/// The URL may hold a password, so it is not shown.
impl fmt::Debug for BackfillClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackfillClientBuilder")
            .field("database_url", &self.database_url.as_ref().map(|_| "…"))
            .field("options", &self.options)
            .field("migrate", &self.migrate)
            .field("max_payload_bytes", &self.max_payload_bytes)
            .finish_non_exhaustive()
    }
}
