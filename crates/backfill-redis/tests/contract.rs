//! The contract that every storage keeps, on Redis.

mod redis_server;

use std::sync::Arc;

use backfill_core::storage::contract::Subject;
use backfill_redis::RedisStorage;
use redis_server::{namespace, shared};

async fn redis() -> Subject {
    open(&place().await).await
}

/// A fresh namespace, behind the URL of its server.
async fn place() -> String {
    let place = format!("{}#{}", shared().url(), namespace());
    open(&place).await.migrate().await.expect("migrate");
    place
}

async fn open(place: &str) -> Subject {
    let (url, namespace) = place.split_once('#').expect("a namespace");
    Arc::new(RedisStorage::open(url, namespace).expect("open"))
}

backfill_core::storage_contract_tests!(redis);
backfill_core::storage_process_tests!(place, open);
backfill_core::storage_message_tests!(redis);
backfill_core::storage_message_process_tests!(place, open);
