//! DBOS's own clients and ours on one database: they start, watch and steer our workflows, and we theirs.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod ledger;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backfill_workflow::postgres::PostgresStore;
use backfill_workflow::store::Store;
use backfill_workflow::{Client, Ctx, Engine, Failure, Queue, Start, Status, Workflow};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}, as ./scripts/test sets it"))
}

/// A database of its own: its pool, and its URL for a Python program.
async fn database(name: &str) -> (PgPool, String) {
    let url = variable("BACKFILL_TEST_DATABASE_URL");
    let name = format!("dbos_{name}_{}", std::process::id());
    let options: PgConnectOptions = url.parse().unwrap();
    let admin = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&admin).await.unwrap();
    let base = url.rsplit_once('/').unwrap().0;
    let pool = PgPoolOptions::new().max_connections(8).connect_lazy_with(options.database(&name));
    (pool, format!("{base}/{name}"))
}

fn python(script: &str, url: &str) -> Command {
    let mut command = Command::new(variable("BACKFILL_TEST_DBOS_PYTHON"));
    let path = format!("{}/tests/dbos_clients/{script}", env!("CARGO_MANIFEST_DIR"));
    command.arg(path).arg(url.replace("postgres://", "postgresql+psycopg://")).kill_on_drop(true);
    command
}

async fn succeeds(mut command: Command) {
    let output = tokio::time::timeout(Duration::from_secs(180), command.output()).await.expect("it ends").unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("done"), "{text}");
}

#[derive(Deserialize)]
struct Greeting {
    name: String,
    times: usize,
}

/// The worker that their clients talk to.
async fn worker(pool: &PgPool) -> Engine {
    let mut builder = Engine::builder()
        .postgres(pool.clone())
        .version("v1")
        .queue(Queue::new("orders").poll_interval(Duration::from_millis(100)));
    builder.register("double", |_: Ctx, number: i64| async move { Ok::<_, Failure>(number * 2) });
    builder.register("add", |_: Ctx, (one, two): (i64, i64)| async move { Ok::<_, Failure>(one + two) });
    builder.register("nothing", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    builder.register("greet", |_: Ctx, greeting: Greeting| async move {
        Ok::<_, Failure>(vec![format!("Hello {}", greeting.name); greeting.times].join(" "))
    });
    builder.register("fails", |_: Ctx, message: String| async move {
        Err::<(), _>(Failure::new("NoStock", message).code(7).data(&["a"]))
    });
    builder.register("who", |ctx: Ctx, (): ()| async move {
        Ok::<_, Failure>((ctx.id().to_owned(), ctx.user().map(str::to_owned), ctx.roles()))
    });
    builder.register("steps", |ctx: Ctx, (): ()| async move {
        ctx.step("first", || async { Ok(1) }).await?;
        ctx.sleep(Duration::from_millis(1)).await?;
        ctx.step("second", || async { Ok("two".to_owned()) }).await
    });
    builder.register("talks", |ctx: Ctx, (): ()| async move {
        ctx.write_stream("log", &0).await?;
        ctx.set_event("ready", &serde_json::json!({ "is": true })).await?;
        let message = ctx.recv::<serde_json::Value>("chat", Duration::from_secs(60)).await?;
        ctx.write_stream("log", &message).await?;
        ctx.close_stream("log").await?;
        Ok::<_, Failure>(message)
    });
    builder.register("tick", |_: Ctx, _: serde_json::Value| async { Ok::<_, Failure>(()) });
    builder.launch().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_client_drives_our_workflows() {
    let (pool, url) = database("python").await;
    let engine = worker(&pool).await;
    succeeds(python("client.py", &url)).await;
    engine.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescripts_client_drives_our_workflows() {
    let (pool, url) = database("typescript").await;
    let engine = worker(&pool).await;
    let mut command = Command::new(variable("BACKFILL_TEST_NODE"));
    // Where its packages are; the script is a copy there, because imports are looked for beside it.
    let directory = variable("BACKFILL_TEST_DBOS_NODE_DIR");
    let script = format!("{directory}/client.js");
    std::fs::copy(format!("{}/tests/dbos_clients/client.js", env!("CARGO_MANIFEST_DIR")), &script).unwrap();
    command.arg(script).arg(url.replace("postgres://", "postgresql://")).kill_on_drop(true);
    succeeds(command).await;
    engine.shutdown(Duration::from_secs(5)).await;
}

/// Their worker makes the tables, too: it comes first.
#[tokio::test(flavor = "multi_thread")]
async fn our_client_drives_pythons_workflows() {
    let (pool, url) = database("pythons_worker").await;
    let mut child = python("worker.py", &url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let launched = async { while lines.next_line().await.unwrap().expect("it goes on").trim() != "launched" {} };
    tokio::time::timeout(Duration::from_secs(60), launched).await.unwrap();
    let store = PostgresStore::new(pool, "dbos").unwrap();
    // Nothing of ours is in their tables; that we find them as they are is enough.
    store.migrate().await.unwrap();
    let client = Client::of_store(Arc::new(store));
    let start = || Start::new().queue("python");
    let square = Workflow::<i64, i64>::named("square_it");
    let handle = client.start(square, &7, start()).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 49);
    let steps = client.steps(handle.id()).await.unwrap();
    assert!(steps.iter().any(|step| step.name == "square"), "{steps:?}");
    let failure = client.start(Workflow::<String, ()>::named("fail_it"), &"nope".to_owned(), start()).await.unwrap();
    let failure = failure.result().await.unwrap_err();
    assert_eq!((failure.name(), failure.to_string().as_str()), ("ValueError", "nope"));
    let chat = client.start(Workflow::<(), String>::named("chat"), &(), start()).await.unwrap();
    client.send(chat.id(), "chat", "hi", None).await.unwrap();
    assert_eq!(chat.result().await.unwrap(), "hi");
    assert_eq!(chat.status().await.unwrap(), Status::Success);
    drop(child.stdin.take());
    assert!(child.wait().await.unwrap().success());
}
