//! Rust adds jobs that Node runs, and Node adds jobs that Rust runs, on one schema.
//!
//! ```sh
//! ./scripts/example interop     # starts PostgreSQL and installs Node's graphile-worker for it
//! ```
//!
//! Or by hand: `DATABASE_URL`, `NODE` (a Node of version 22.18 or later) and `PACKAGES` (a directory whose `node_modules`
//! has graphile-worker).

use std::process::Stdio;
use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set; run ./scripts/example interop"));
    let (url, node, packages) = (variable("DATABASE_URL")?, variable("NODE")?, variable("PACKAGES")?);
    let client = BackfillClient::new(&url).await?;

    // Rust's worker serves the task `in_rust`; Node's serves `in_node` and, for each, adds one `in_rust`.
    let worker = Worker::builder(client.clone())
        .task(task_fn("in_rust", |from: String, ctx: JobContext| async move {
            println!("Rust runs job {}, which {from} added", ctx.job().id);
        }))
        .build()?;
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/interop/worker.mjs");
    let mut child = Command::new(node)
        .args([script, &url])
        .env("PACKAGES", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();

    for n in 1..=3 {
        client.add(JobSpec::new("in_node", serde_json::json!({ "n": n }))).await?;
    }
    for _ in 0..3 {
        println!("{}", lines.next_line().await?.ok_or("Node has ended early")?);
    }
    while client.counts().await?.total() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(child.stdin.take());
    child.wait().await?;
    handle.shutdown();
    println!("Rust did {} jobs, Node did 3, and nothing is left", running.await??.completed);
    Ok(())
}
