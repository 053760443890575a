//! Triggers of the user's on the jobs table: what they make of a job is what is told, and what holds.

mod adding;
mod claims;
mod handoff;
mod moving;
#[path = "../support/mod.rs"]
mod support;

use backfill::BackfillClient;
use sqlx::PgPool;
use support::sql;

/// Puts a trigger on the jobs table that does this with `new`.
async fn trigger(pool: &PgPool, schema: &str, body: &str) {
    let text = format!(
        "create or replace function S.t() returns trigger language plpgsql as $$ begin {body} end $$;
         drop trigger if exists t on S._private_jobs;
         create trigger t before insert on S._private_jobs for each row execute function S.t()"
    );
    sql(pool, schema, &text).await;
}

/// A file of one's own, with a trigger of the user's on its jobs, and a door of the test's own to it.
async fn file_with(trigger: &str) -> (tempfile::TempDir, BackfillClient, sqlx::SqlitePool) {
    let directory = tempfile::TempDir::new().expect("a directory");
    let url = format!("sqlite://{}/app.db", directory.path().display());
    let client = BackfillClient::new(&url).await.expect("open");
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open");
    sqlx::raw_sql(sqlx::AssertSqlSafe(trigger.to_owned())).execute(&pool).await.expect("a trigger");
    (directory, client, pool)
}
