//! What the tests share: a schema of one's own in the test server, and waiting for things to happen.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backfill::BackfillClient;
use backfill::storage::Storage;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

/// How long anything may take before a test gives up. Generous: it only matters when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server that `./scripts/test` started.
pub fn server_url() -> String {
    std::env::var("BACKFILL_TEST_DATABASE_URL")
        .expect("BACKFILL_TEST_DATABASE_URL is not set; run the tests with ./scripts/test, which starts a server")
}

/// A name that no other test of any process has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{prefix}_{}_{}_{nanos:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A database of one's own, with its URL.
pub async fn database() -> (PgPool, String) {
    let name = unique("db");
    let server = PgPoolOptions::new().max_connections(1).connect(&server_url()).await.expect("the test server");
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&server).await.expect("create database");
    server.close().await;
    let url = url_of(&name);
    let pool = PgPoolOptions::new().max_connections(10).connect(&url).await.expect("the new database");
    (pool, url)
}

/// The URL of another database on the same server.
pub fn url_of(database: &str) -> String {
    let url = server_url();
    let base = url.rsplit_once('/').expect("a URL with a database").0;
    format!("{base}/{database}")
}

/// A pool on the shared database, for tests that need only a schema of their own.
pub async fn pool() -> PgPool {
    PgPoolOptions::new().max_connections(8).connect(&server_url()).await.expect("the test server")
}

/// A client on a schema of its own, and the schema's name.
pub async fn client() -> (BackfillClient, PgPool, String) {
    let schema = unique("s");
    let pool = pool().await;
    let client = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("migrate");
    (client, pool, schema)
}

/// A PostgreSQL storage on a schema of its own.
pub async fn postgres() -> Arc<dyn Storage> {
    client().await.0.storage().clone()
}

/// Runs SQL in which `S.` stands for the schema.
pub async fn sql(pool: &PgPool, schema: &str, text: &str) {
    let text = text.replace("S.", &format!("\"{}\".", schema.replace('"', "\"\"")));
    sqlx::raw_sql(AssertSqlSafe(text)).execute(pool).await.expect("sql");
}

/// Answers one text from SQL in which `S.` stands for the schema.
pub async fn ask(pool: &PgPool, schema: &str, text: &str) -> String {
    let text = text.replace("S.", &format!("\"{}\".", schema.replace('"', "\"\"")));
    let wrapped = format!("select coalesce(string_agg(answer::text, ';'), '') from ({text}) as t (answer)");
    sqlx::query_scalar(AssertSqlSafe(wrapped)).fetch_one(pool).await.expect("ask")
}

/// Waits, at most [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Asks again and again until the answer is yes. For what nobody signals: rows in a database, other processes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut yes: impl FnMut() -> F) {
    soon(what, async {
        while !yes().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
