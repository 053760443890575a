//! Which storage is meant, and how it is opened.

use std::sync::Arc;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::store::{MemoryStore, Store};

/// The schema of DBOS's tables.
pub const DEFAULT_SCHEMA: &str = "dbos";

/// Which storage is meant, and how it is opened.
#[derive(Clone)]
pub(crate) struct Options {
    source: Source,
    schema: String,
    migrate: bool,
}

#[derive(Clone)]
enum Source {
    Nothing,
    Url(String),
    Store(Arc<dyn Store>),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

impl Options {
    pub(crate) fn new() -> Self {
        Self { source: Source::Nothing, schema: DEFAULT_SCHEMA.to_owned(), migrate: true }
    }

    pub(crate) fn url(mut self, url: &str) -> Self {
        self.source = Source::Url(url.to_owned());
        self
    }

    pub(crate) fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.source = Source::Store(store);
        self
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres(mut self, pool: sqlx::PgPool) -> Self {
        self.source = Source::Postgres(pool);
        self
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite(mut self, pool: sqlx::SqlitePool) -> Self {
        self.source = Source::Sqlite(pool);
        self
    }

    pub(crate) fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    pub(crate) fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    pub(crate) async fn open(self) -> Result<Arc<dyn Store>> {
        let store: Arc<dyn Store> = match self.source {
            Source::Store(store) => store,
            Source::Nothing => {
                return Err(Error::invalid(
                    "the URL",
                    "",
                    "is missing; name the database with `url`, as in sqlite://orders.db",
                ));
            }
            #[cfg(feature = "postgres")]
            Source::Postgres(pool) => Arc::new(crate::postgres::PostgresStore::new(pool, &self.schema)?),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(pool) => Arc::new(crate::sqlite::SqliteStore::new(pool).await?),
            Source::Url(url) => match url.split(':').next().unwrap_or_default() {
                "memory" => Arc::new(MemoryStore::new()),
                #[cfg(feature = "postgres")]
                "postgres" | "postgresql" => {
                    Arc::new(crate::postgres::PostgresStore::connect(&url, &self.schema).await?)
                }
                #[cfg(feature = "sqlite")]
                "sqlite" => Arc::new(crate::sqlite::SqliteStore::open(&url).await?),
                scheme => {
                    // What stands before the colon alone: the rest may hold a password.
                    let known = "is no kind of database that is known here; use postgres://, sqlite:// (feature `sqlite`) or memory:";
                    return Err(Error::invalid("the URL's beginning", scheme, known));
                }
            },
        };
        if self.migrate {
            store.migrate().await?;
        }
        Ok(store)
    }

    pub(crate) async fn client(self) -> Result<Client> {
        Ok(Client::of_store(self.open().await?))
    }
}
