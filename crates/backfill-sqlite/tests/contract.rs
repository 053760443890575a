//! The contract that every storage keeps, on SQLite.

use std::cell::RefCell;
use std::sync::Arc;

use backfill_core::storage::Storage;
use backfill_core::storage::contract::Subject;
use backfill_sqlite::SqliteStorage;
use tempfile::TempDir;

thread_local! {
    /// Where the files of this thread's test are, until it ends.
    static DIRECTORIES: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

async fn sqlite() -> Subject {
    open(&place().await).await
}

/// A fresh file.
async fn place() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/jobs.db", directory.path().display());
    DIRECTORIES.with_borrow_mut(|directories| directories.push(directory));
    SqliteStorage::open(&url).expect("open").migrate().await.expect("migrate");
    url
}

/// A fresh file with messages.
async fn with_messages() -> Subject {
    let storage = open_with_messages(&place().await).await;
    storage.migrate().await.expect("migrate");
    storage
}

async fn open_with_messages(url: &str) -> Subject {
    Arc::new(SqliteStorage::open(url).expect("open").with_messages())
}

async fn open(url: &str) -> Subject {
    Arc::new(SqliteStorage::open(url).expect("open"))
}

backfill_core::storage_contract_tests!(sqlite);
backfill_core::storage_process_tests!(place, open);
backfill_core::storage_message_tests!(with_messages);
backfill_core::storage_message_process_tests!(place, open_with_messages);
