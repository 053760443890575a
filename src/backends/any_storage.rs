//! A storage of any kind, which still knows which one it is.

use std::sync::Arc;

#[cfg(feature = "postgres")]
use crate::postgres::PostgresStorage;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Consumer, Storage};
#[cfg(feature = "testing")]
use crate::testing::{Faults, FaultyStorage};

/// Any storage, which still knows what it is where that matters: in the caller's own transaction, and in what only one kind has.
///
/// Each kind converts into it. Of a storage that is only known by its trait, nothing more is known.
#[derive(Clone, Debug)]
pub struct AnyStorage {
    storage: Arc<dyn Storage>,
    #[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), expect(dead_code, reason = "it can only be one"))]
    known: Known,
    /// What a test has asked to go wrong, also with adds in the caller's own transaction.
    #[cfg(all(feature = "testing", any(feature = "postgres", feature = "sqlite")))]
    faults: Option<Arc<Faults>>,
}

#[derive(Clone, Debug)]
enum Known {
    #[cfg(feature = "postgres")]
    Postgres(Arc<PostgresStorage>),
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<backfill_sqlite::SqliteStorage>),
    Other,
}

impl AnyStorage {
    fn new(storage: Arc<dyn Storage>, known: Known) -> Self {
        Self {
            storage,
            known,
            #[cfg(all(feature = "testing", any(feature = "postgres", feature = "sqlite")))]
            faults: None,
        }
    }

    /// The same storage behind one that makes these faults, which still knows what it is.
    #[cfg(feature = "testing")]
    pub(crate) fn with_faults(self, faults: &Arc<Faults>) -> Self {
        let storage = FaultyStorage::new(Arc::clone(&self.storage), Arc::clone(faults));
        Self {
            #[cfg(all(feature = "testing", any(feature = "postgres", feature = "sqlite")))]
            faults: Some(Arc::clone(faults)),
            ..self.behind(Arc::new(storage))
        }
    }

    /// The same storage behind this one, which still knows what it is.
    #[cfg(feature = "testing")]
    pub(crate) fn behind(self, storage: Arc<dyn Storage>) -> Self {
        Self { storage, ..self }
    }

    /// What a test has asked to go wrong.
    #[cfg(all(feature = "testing", any(feature = "postgres", feature = "sqlite")))]
    pub(crate) fn faults(&self) -> Option<&Faults> {
        self.faults.as_deref()
    }

    /// The storage, as its trait.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The storage in PostgreSQL, if it is one.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresStorage> {
        if let Known::Postgres(storage) = &self.known { Some(storage) } else { None }
    }

    /// The SQLite file, if it is one.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn sqlite(&self) -> Option<&backfill_sqlite::SqliteStorage> {
        if let Known::Sqlite(storage) = &self.known { Some(storage) } else { None }
    }
}

impl std::ops::Deref for AnyStorage {
    type Target = dyn Storage;

    fn deref(&self) -> &Self::Target {
        &*self.storage
    }
}

impl From<Arc<dyn Storage>> for AnyStorage {
    fn from(storage: Arc<dyn Storage>) -> Self {
        Self::new(storage, Known::Other)
    }
}

/// A storage of another kind. (Of one of ours give the storage itself: behind an `Arc` it is known by its trait only.)
impl<S: Storage + 'static> From<Arc<S>> for AnyStorage {
    fn from(storage: Arc<S>) -> Self {
        Self::new(storage, Known::Other)
    }
}

impl From<Arc<dyn Consumer>> for AnyStorage {
    fn from(storage: Arc<dyn Consumer>) -> Self {
        Self::new(storage, Known::Other)
    }
}

impl From<MemoryStorage> for AnyStorage {
    fn from(storage: MemoryStorage) -> Self {
        Self::new(Arc::new(storage), Known::Other)
    }
}

#[cfg(feature = "postgres")]
impl From<PostgresStorage> for AnyStorage {
    fn from(storage: PostgresStorage) -> Self {
        let storage = Arc::new(storage);
        Self::new(Arc::clone(&storage) as Arc<dyn Storage>, Known::Postgres(storage))
    }
}

#[cfg(feature = "sqlite")]
impl From<backfill_sqlite::SqliteStorage> for AnyStorage {
    fn from(storage: backfill_sqlite::SqliteStorage) -> Self {
        let storage = Arc::new(storage);
        Self::new(Arc::clone(&storage) as Arc<dyn Storage>, Known::Sqlite(storage))
    }
}

#[cfg(feature = "redis")]
impl From<backfill_redis::RedisStorage> for AnyStorage {
    fn from(storage: backfill_redis::RedisStorage) -> Self {
        Self::new(Arc::new(storage), Known::Other)
    }
}
