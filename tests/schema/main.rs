//! Creating, checking and sharing the schema.

mod at_once;
mod names;
mod objects;
mod privileges;
mod running;
#[path = "../support/mod.rs"]
mod support;
mod versions;

use backfill::BackfillClient;
use sqlx::PgPool;

const NEWEST: i32 = 20;

/// A client that must not migrate.
async fn unmigrated(pool: &PgPool, schema: &str) -> backfill::Result<BackfillClient> {
    BackfillClient::builder().pool(pool.clone()).schema(schema).migrate(false).build().await
}
