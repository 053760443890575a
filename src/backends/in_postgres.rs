//! Opening a schema in PostgreSQL.

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{AnyStorage, Backend, Kind, OpenOptions, make_ready};
use crate::error::{Error, Result};
use crate::postgres::{ConnectionHealth, DEFAULT_SCHEMA, PostgresStorage, address};

/// What a URL means.
pub(super) fn postgres(url: &str) -> Result<Kind> {
    Ok(Kind::Postgres(Box::new(address(Some(url))?)))
}

/// What tells a schema from others. Holds no secret.
pub(super) fn identity(options: &PgConnectOptions, schema: &str) -> String {
    let socket = options.get_socket().map(|socket| socket.display().to_string());
    let (host, port) = (socket.as_deref().unwrap_or(options.get_host()), options.get_port());
    let database = options.get_database().unwrap_or(options.get_username());
    format!("postgres {host}:{port}/{database} {schema}")
}

impl Backend {
    /// The PostgreSQL database that the environment names (`PGHOST`, `PGSERVICE` and their like).
    ///
    /// # Errors
    /// [`Error::InvalidClient`] for a variable that cannot be read.
    pub fn postgres_of_environment() -> Result<Self> {
        Ok(Self(Kind::Postgres(Box::new(address(None)?))))
    }
}

impl OpenOptions {
    /// Neither migrated nor checked.
    pub(super) async fn open_postgres(&self, options: &PgConnectOptions) -> Result<PostgresStorage> {
        let storage = self.postgres_at(options)?;
        if let Some(max_wait) = self.max_wait {
            storage.reach(max_wait).await?;
        }
        Ok(storage)
    }

    /// The storage in PostgreSQL behind a pool of the user's, migrated or only checked.
    pub(crate) async fn postgres_ready(&self, pool: PgPool, migrate: bool) -> Result<AnyStorage> {
        let max_wait = self.max_wait.unwrap_or_default();
        // The pool has the user's own hooks.
        let storage = self.postgres(pool, ConnectionHealth::default())?;
        storage.reach(max_wait).await?;
        make_ready(&storage, migrate, max_wait).await?;
        Ok(storage.into())
    }

    pub(super) fn postgres_at(&self, options: &PgConnectOptions) -> Result<PostgresStorage> {
        if self.max_connections == 0 {
            return Err(Error::InvalidClient("max_connections is 0, and must be at least 1".to_owned()));
        }
        let health = ConnectionHealth::default();
        let mut options = options.clone();
        if let (Some(name), None) = (&self.application_name, options.get_application_name()) {
            options = options.application_name(name);
        }
        let pool = PgPoolOptions::new()
            .max_connections(self.max_connections)
            .idle_timeout(self.idle_timeout)
            .acquire_timeout(self.acquire_timeout);
        self.postgres(health.watch(pool).connect_lazy_with(options), health)
    }

    fn postgres(&self, pool: PgPool, health: ConnectionHealth) -> Result<PostgresStorage> {
        let schema = self.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        let storage = PostgresStorage::with_health(pool, schema, self.prepared_statements, health)?;
        Ok(if self.messages { storage.with_messages() } else { storage })
    }
}
