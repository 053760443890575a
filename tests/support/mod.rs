//! What the tests share: a schema of one's own in the test server, and waiting for things to happen.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod node;
pub mod running;
pub mod server;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backfill::BackfillClient;
use backfill::storage::Consumer;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

/// How long anything may take before a test gives up. Generous: it only matters when a test fails.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// What of `pg_stat_activity` are the sessions of this database that listen for workers: what they were last asked.
pub const LISTENS: &str = "datname = current_database() and pid <> pg_backend_pid()
    and query ~* '^\\s*listen|pg_advisory_unlock_all|pg_try_advisory_lock\\(|handed off'";

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
pub async fn postgres() -> Arc<dyn Consumer> {
    client().await.0.storage().consumer()
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

/// Waits, at most [`TIMEOUT`].
pub async fn soon<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {TIMEOUT:?}"))
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

/// What the catalog says about a schema: tables, columns, constraints, indexes, functions' signatures, views, types,
/// sequences, row security. Our own objects are left out, and the schema's name is replaced by `S`.
pub async fn catalog(pool: &PgPool, schema: &str) -> Vec<String> {
    let rows: Vec<String> = sqlx::query_scalar(
        r"
with schema as (select oid from pg_namespace where nspname = $1)
select line from (
  select format('relation %s %s rls=%s forced=%s', relkind, relname, relrowsecurity, relforcerowsecurity) as line
  from pg_class where relnamespace = (select oid from schema) and relname not like 'backfill\_%'
  union all
  select format('column %s.%s #%s %s notnull=%s default=%s identity=%s generated=%s', rel.relname, att.attname, att.attnum,
    format_type(att.atttypid, att.atttypmod), att.attnotnull, pg_get_expr(def.adbin, def.adrelid), att.attidentity, att.attgenerated)
  from pg_attribute att join pg_class rel on rel.oid = att.attrelid
  left join pg_attrdef def on def.adrelid = rel.oid and def.adnum = att.attnum
  where rel.relnamespace = (select oid from schema) and att.attnum > 0 and not att.attisdropped and rel.relname not like 'backfill\_%'
  union all
  select format('constraint %s %s %s', con.conrelid::regclass, con.conname, pg_get_constraintdef(con.oid))
  from pg_constraint con where con.connamespace = (select oid from schema) and con.conname not like 'backfill\_%'
  union all
  select format('index %s', pg_get_indexdef(ind.indexrelid)) from pg_index ind join pg_class rel on rel.oid = ind.indexrelid
  where rel.relnamespace = (select oid from schema) and rel.relname not like 'backfill\_%'
  union all
  select format('function %s(%s) returns %s lang=%s volatile=%s strict=%s secdef=%s rows=%s', fn.proname,
    pg_get_function_arguments(fn.oid), pg_get_function_result(fn.oid), lang.lanname, fn.provolatile, fn.proisstrict, fn.prosecdef, fn.prorows)
  from pg_proc fn join pg_language lang on lang.oid = fn.prolang
  where fn.pronamespace = (select oid from schema) and fn.proname not like 'backfill\_%'
  union all
  select format('view %s', pg_get_viewdef(oid)) from pg_class where relnamespace = (select oid from schema) and relkind = 'v'
  union all
  select format('trigger %s', tgname) from pg_trigger tg join pg_class rel on rel.oid = tg.tgrelid
  where rel.relnamespace = (select oid from schema) and not tgisinternal
) as lines
order by line
",
    )
    .bind(schema)
    .fetch_all(pool)
    .await
    .expect("catalog");
    let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
    rows.into_iter().map(|line| line.replace(&quoted, "S").replace(schema, "S")).collect()
}

/// `pg_dump -s` of a schema without function bodies and without our own objects, or `None` when the `pg_dump` at hand is
/// older than the server and refuses.
pub async fn dump(url: &str, schema: &str) -> Option<String> {
    let pattern = format!("\"{}\"", schema.replace('"', "\"\""));
    let output = tokio::process::Command::new(std::env::var("BACKFILL_TEST_PG_DUMP").unwrap_or("pg_dump".to_owned()))
        .args(["--schema-only", "--schema", &pattern, "--exclude-table", &format!("{pattern}.\"backfill_\"*"), url])
        .output()
        .await
        .expect("pg_dump runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("server version mismatch") {
        eprintln!("pg_dump is older than the server; only the catalogs are compared");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let mut kept = String::new();
    // In the body of a function, and in one of our own functions, which pg_dump cannot leave out.
    let (mut body, mut own) = (false, false);
    for line in text.lines() {
        let noise = line.is_empty()
            || line.starts_with("--")
            || line.starts_with("\\restrict")
            || line.starts_with("\\unrestrict");
        if body {
            body = !line.starts_with('$');
        } else if line.starts_with("    AS $") {
            (body, own) = (true, false);
        } else if own || line.contains(".backfill_") || line.starts_with("CREATE INDEX backfill_") {
            own = own || line.starts_with("CREATE FUNCTION");
        } else if !noise {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Some(kept.replace(schema, "S"))
}

/// Compares texts line by line and shows only what differs.
pub fn assert_same_lines(ours: &str, theirs: &str) {
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let only = |these: &[&str], those: &[&str]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).map(|line| (*line).to_owned()).collect()
    };
    let (more, less) = (only(&ours, &theirs), only(&theirs, &ours));
    assert!(
        ours == theirs,
        "only in ours: {more:#?}\nonly in theirs: {less:#?}\n(lines: {} and {})",
        ours.len(),
        theirs.len()
    );
}
