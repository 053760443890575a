//! Node's graphile-worker, as `./scripts/test` installed it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use sqlx::{AssertSqlSafe, PgPool};
use tokio::process::{Child, Command};

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set; run the tests with ./scripts/test")).into()
}

/// The directory that has `node_modules`.
pub fn directory() -> PathBuf {
    variable("BACKFILL_TEST_NODE_DIR")
}

fn node() -> Command {
    let mut command = Command::new(variable("BACKFILL_TEST_NODE"));
    command.current_dir(directory()).kill_on_drop(true).env("NO_COLOR", "1");
    command
}

/// Runs the command line of one of the installed versions (`graphile-worker`, `graphile-worker-0.16`, …).
pub async fn cli(package: &str, url: &str, schema: &str, args: &[&str]) -> Output {
    node()
        .arg(directory().join("node_modules").join(package).join("dist/cli.js"))
        .args(["-c", url, "-s", schema])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("node runs")
}

/// Lets one of the installed versions create or migrate a schema.
pub async fn migrate(package: &str, url: &str, schema: &str) {
    let output = cli(package, url, schema, &["--schema-only"]).await;
    assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a script of `tests/node` with these arguments and leaves it running.
pub fn start(script: &str, args: &[&str]) -> Child {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|directory| directory.join("tests/node"));
    let script = scripts.into_iter().find(|scripts| scripts.is_dir()).expect("the scripts").join(script);
    // Module resolution starts at the script's own place, so it is told where the packages are.
    node()
        .arg(script)
        .args(args)
        .env("PACKAGES", directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("node runs")
}

/// Brings a new schema to one of Node's revisions with the SQL files of its package, in the way of its migrator.
pub async fn schema_at(pool: &PgPool, schema: &str, revision: i32) {
    const BREAKING: [i32; 7] = [1, 3, 11, 13, 14, 16, 19];
    let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
    let run = |text: String| async move { sqlx::raw_sql(AssertSqlSafe(text)).execute(pool).await.expect("sql") };
    run(format!(
        "create schema {quoted}; create table {quoted}.migrations (id int primary key, ts timestamptz not null default now());
         alter table {quoted}.migrations add column breaking boolean not null default false;"
    ))
    .await;
    for id in 1..=revision {
        let file = directory().join(format!("node_modules/graphile-worker/sql/{id:06}.sql"));
        let text = std::fs::read_to_string(&file).expect("a migration of Node's");
        let text = text.replace(":GRAPHILE_WORKER_SCHEMA", &quoted);
        let breaking = BREAKING.contains(&id);
        run(format!(
            "begin; insert into {quoted}.migrations (id, breaking) values ({id}, {breaking}); {text}; commit;"
        ))
        .await;
    }
}
