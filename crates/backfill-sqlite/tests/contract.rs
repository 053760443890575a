//! The contract that every storage keeps, on SQLite.

use std::sync::Arc;

use backfill_core::storage::Storage;
use backfill_sqlite::SqliteStorage;

async fn sqlite() -> Arc<dyn Storage> {
    open(&place().await).await
}

/// A fresh file.
async fn place() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/jobs.db", directory.keep().display());
    SqliteStorage::open(&url).expect("open").migrate().await.expect("migrate");
    url
}

async fn open(url: &str) -> Arc<dyn Storage> {
    Arc::new(SqliteStorage::open(url).expect("open"))
}

backfill_core::storage_contract_tests!(sqlite);
backfill_core::storage_process_tests!(place, open);
