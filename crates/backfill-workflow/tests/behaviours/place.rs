//! Where the cases keep their workflows: each in a storage of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill_workflow::store::{MemoryStore, Store};
use backfill_workflow::{Client, Engine, EngineBuilder};
use tokio::sync::watch;

/// A storage, which several engines may use like several processes.
#[derive(Clone)]
pub(crate) enum Place {
    Memory(MemoryStore),
    Sqlite(Arc<tempfile::TempDir>),
    #[cfg(feature = "server-tests")]
    Postgres(String, String),
}

impl Place {
    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    pub(crate) async fn sqlite() -> Self {
        let place = Self::Sqlite(Arc::new(tempfile::tempdir().unwrap()));
        place.store().await.migrate().await.unwrap();
        place
    }

    /// A schema of its own in one database.
    #[cfg(feature = "server-tests")]
    pub(crate) async fn postgres() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let url =
            std::env::var("BACKFILL_TEST_DATABASE_URL").expect("BACKFILL_TEST_DATABASE_URL, as ./scripts/test sets it");
        let schema = format!("workflows_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let place = Self::Postgres(url, schema);
        place.store().await.migrate().await.unwrap();
        place
    }

    /// The storage, as another process opens it.
    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Sqlite(directory) => {
                let url = format!("sqlite://{}", directory.path().join("workflows.db").display());
                Arc::new(backfill_workflow::sqlite::SqliteStore::open(&url).await.unwrap())
            }
            #[cfg(feature = "server-tests")]
            Self::Postgres(url, schema) => {
                let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
                let pool = sqlx::postgres::PgPoolOptions::new().max_connections(3).connect_lazy_with(options);
                Arc::new(backfill_workflow::postgres::PostgresStore::new(pool, schema).unwrap())
            }
        }
    }

    /// An engine to be set up, as in a process of its own. It misses the dead after half a second.
    pub(crate) async fn engine(&self) -> EngineBuilder {
        Engine::builder()
            .store(self.store().await)
            .migrate(false)
            .version("v1")
            .lease(Duration::from_millis(900))
            .poll_interval(Duration::from_millis(200))
    }

    /// A client in a process that runs nothing.
    pub(crate) async fn client(&self) -> Client {
        Client::of_store(self.store().await)
    }
}

/// Counts, and waits for counts.
#[derive(Clone, Debug)]
pub(crate) struct Counter(Arc<watch::Sender<usize>>);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub(crate) fn add(&self) -> usize {
        let mut now = 0;
        self.0.send_modify(|count| {
            *count += 1;
            now = *count;
        });
        now
    }

    pub(crate) fn sub(&self) {
        self.0.send_modify(|count| *count -= 1);
    }

    pub(crate) fn get(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until it is at least this.
    pub(crate) async fn reaches(&self, count: usize) {
        let reached = async { drop(self.0.subscribe().wait_for(|now| *now >= count).await) };
        within(reached).await;
    }
}

/// What takes longer than a minute never comes.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes longer than a minute")
}
