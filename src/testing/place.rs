//! Where the jobs of a test are: a storage of its own, which is gone with the test. Of the kit this file alone names storages.

use std::fmt;
use std::time::Duration;

use super::TestQueue;
use crate::error::Result;
use crate::storage::AnyStorage;
use crate::storage::memory::MemoryStorage;

impl TestQueue {
    /// A queue in this process's memory: the quickest, for most tests.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Place::memory())
    }

    /// A queue in an SQLite file, in a temporary directory.
    ///
    /// # Panics
    /// If the file cannot be made.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite() -> Self {
        Self::new(Place::sqlite().await.unwrap_or_else(|error| panic!("no SQLite file for the test: {error}")))
    }

    /// A queue in PostgreSQL, in a schema of its own, which is dropped at the end. So tests can run at once in one database. The pool's
    /// role needs the right to create schemas.
    ///
    /// A test process that is killed leaves its schemas: their names begin with `backfill_test_`.
    ///
    /// # Panics
    /// If the schema cannot be made.
    #[cfg(feature = "postgres")]
    pub async fn postgres(pool: &sqlx::PgPool) -> Self {
        Self::new(Place::postgres(pool).await.unwrap_or_else(|error| panic!("no schema for the test: {error}")))
    }

    /// The same in the database at this URL, with a pool of its own.
    ///
    /// # Panics
    /// If the schema cannot be made.
    #[cfg(feature = "postgres")]
    pub async fn postgres_at(url: impl AsRef<str>) -> Self {
        let pool = sqlx::PgPool::connect(url.as_ref()).await;
        Self::postgres(&pool.unwrap_or_else(|error| panic!("no connection to PostgreSQL for the test: {error}"))).await
    }
}

/// A storage of a test's own.
pub(super) enum Place {
    Memory(MemoryStorage),
    #[cfg(feature = "sqlite")]
    Sqlite {
        storage: backfill_sqlite::SqliteStorage,
        /// Removed when it is dropped.
        _directory: tempfile::TempDir,
    },
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres::PostgresStorage),
}

impl Place {
    pub(super) fn memory() -> Self {
        Self::Memory(MemoryStorage::new())
    }

    /// A file in a directory of its own.
    #[cfg(feature = "sqlite")]
    pub(super) async fn sqlite() -> Result<Self> {
        use crate::error::{Error, FailureKind};
        use crate::storage::Storage as _;

        let failed = |error| Error::storage("make a directory for a test", FailureKind::Unknown, error);
        let directory = tempfile::Builder::new().prefix("backfill-test-").tempdir().map_err(failed)?;
        let storage =
            backfill_sqlite::SqliteStorage::open(&format!("sqlite://{}", directory.path().join("jobs.db").display()))?;
        storage.migrate().await?;
        Ok(Self::Sqlite { storage, _directory: directory })
    }

    /// A schema of its own, whose name no other test has.
    #[cfg(feature = "postgres")]
    pub(super) async fn postgres(pool: &sqlx::PgPool) -> Result<Self> {
        use crate::storage::Storage as _;

        let schema = format!("backfill_test_{:016x}", fastrand::u64(..));
        let place = Self::Postgres(crate::postgres::PostgresStorage::new(pool.clone(), &schema)?);
        if let Self::Postgres(storage) = &place {
            storage.migrate().await?;
        }
        Ok(place)
    }

    pub(super) fn storage(&self) -> AnyStorage {
        match self {
            Self::Memory(storage) => storage.clone().into(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite { storage, .. } => storage.clone().into(),
            #[cfg(feature = "postgres")]
            Self::Postgres(storage) => storage.clone().into(),
        }
    }

    /// Makes all stored times older.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        expect(clippy::unused_async, reason = "memory never waits")
    )]
    pub(super) async fn let_pass(&self, time: Duration) -> Result<()> {
        match self {
            Self::Memory(storage) => storage.let_pass(time),
            #[cfg(feature = "sqlite")]
            Self::Sqlite { storage, .. } => storage.let_pass(time).await?,
            #[cfg(feature = "postgres")]
            Self::Postgres(storage) => storage.let_pass(time).await?,
        }
        Ok(())
    }

    /// Lets workers count as dead whose last heartbeat is too old, whenever the server was started.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "the others need nothing for it"))]
    pub(super) async fn mark_overdue(&self) -> Result<()> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(storage) => storage.mark_overdue().await,
            _ => Ok(()),
        }
    }
}

/// A test's schema goes with it, also when the test has failed.
#[cfg(feature = "postgres")]
impl Drop for Place {
    fn drop(&mut self) {
        let Self::Postgres(storage) = self else { return };
        let (options, schema) = (storage.pool().connect_options(), storage.schema().to_owned());
        // The test's runtime may be the one that this thread runs, so another one waits for the server.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(crate::postgres::PostgresStorage::drop_schema(&options, &schema))?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
        if let Ok(Err(error)) = dropping.join() {
            tracing::warn!(schema = storage.schema(), error, "the schema of a test could not be dropped");
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.storage().name())
    }
}
