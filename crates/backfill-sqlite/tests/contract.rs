//! The contract that every storage keeps, on SQLite.

use std::sync::Arc;

use backfill_core::storage::Storage;
use backfill_sqlite::SqliteStorage;

async fn sqlite() -> Arc<dyn Storage> {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/jobs.db", directory.keep().display());
    let storage = SqliteStorage::open(&url).expect("open");
    storage.migrate().await.expect("migrate");
    Arc::new(storage)
}

backfill_core::storage_contract_tests!(sqlite);
