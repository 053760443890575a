//! The contract that every storage keeps, on Redis; by a user who may do no more than is documented.

mod redis_server;

use std::sync::{Arc, OnceLock};

use backfill_core::storage::contract::Subject;
use backfill_redis::RedisStorage;
use redis_server::{namespace, shared};

async fn redis() -> Subject {
    open(&place().await).await
}

/// The server, to which a user comes with the least rights that there can be.
fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let server = shared();
        let client = redis::Client::open(server.url()).expect("a client");
        let mut connection = client.get_connection().expect("connect");
        let mut command = redis::cmd("ACL");
        command
            .arg("SETUSER")
            .arg("app")
            .arg("reset")
            .arg("on")
            .arg(">secret")
            .arg("~{backfill:*}:*")
            .arg("&{backfill:*}:*");
        for allowed in backfill_redis::COMMANDS {
            command.arg(format!("+{allowed}"));
        }
        command.exec(&mut connection).expect("a user");
        format!("redis://app:secret@127.0.0.1:{}", server.port)
    })
}

/// A fresh namespace, behind the URL of its server.
async fn place() -> String {
    let place = format!("{}#{}", url(), namespace());
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
