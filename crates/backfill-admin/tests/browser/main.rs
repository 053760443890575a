//! The page in a real browser: keys alone, no violation of accessibility, hostile text, live updates, scripts off, a narrow screen.
//!
//! The page is served by this process; `drive.mjs` drives Chromium through playwright-core, and says what went wrong.

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use backfill::storage::{ClaimRef, ClaimRequest, Outcome, Registration, Settlement, WorkerId};
use backfill::{BackfillClient, JobSpec};
use backfill_admin::Admin;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;

/// A queue with something of everything, and text that would like to be more.
async fn queue() -> BackfillClient {
    let client = BackfillClient::in_memory();
    let consumer = client.storage().consumer();
    let worker = WorkerId::random();
    let tasks = ["send_mail".to_owned(), "fails".to_owned()];
    consumer.register(&Registration::new(&worker, &tasks)).await.expect("register");
    for n in 0..3 {
        let spec = JobSpec::new("fails", json!({ "n": n, "password": "geheim" })).max_attempts(1).priority(-9);
        client.add(spec).await.expect("add");
        let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, 1)).await.expect("claim").jobs.remove(0);
        let error = format!("no. {n}: <img src=x onerror=\"window.hurt = true\"> \u{202e}backwards");
        let settled = Settlement::new(ClaimRef::of(&claimed), Outcome::dead(error));
        consumer.settle(&worker, &[settled]).await.expect("settle");
    }
    let hostile = "<script>window.hurt = true</script>\"'><svg onload=\"window.hurt = true\">";
    client
        .add(JobSpec::new(hostile, json!({ hostile: hostile })).serial_queue(hostile).key(hostile))
        .await
        .expect("add");
    client.add_many((0..70).map(|n| JobSpec::new("send_mail", json!({ "order": n })).priority(1))).await.expect("add");
    client.add(JobSpec::new("later", json!({})).run_in(Duration::from_secs(3600))).await.expect("add");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_keeps_its_promises_in_a_browser() {
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run ./scripts/test browser"));
    let client = queue().await;
    let admin = Admin::new(client.clone()).name("shop, production").colour("#b00020");
    let router = Router::new().nest_service("/ops/queue", admin.open_to_everybody_who_gets_here().router());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/ops/queue", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(backfill_admin::serve(listener, router, std::future::pending()));

    // A job that comes while the page is looked at.
    let mut driver = Command::new(variable("BACKFILL_TEST_NODE"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/drive.mjs"))
        .arg(&url)
        .env("BROWSER_DIR", variable("BACKFILL_TEST_BROWSER_DIR"))
        .env("BROWSER", variable("BACKFILL_TEST_BROWSER"))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("the driver");
    let said = tokio::io::BufReader::new(driver.stdout.take().expect("its output"));
    let mut lines = tokio::io::AsyncBufReadExt::lines(said);
    while let Some(line) = lines.next_line().await.expect("a line") {
        println!("{line}");
        if line == "add one" {
            client.add(JobSpec::new("send_mail", json!({ "new": true })).key("just added")).await.expect("add");
        }
    }
    let status = driver.wait().await.expect("an end");
    assert!(status.success(), "see above");
    serving.abort();

    // What the keyboard did is done.
    let dead = client.jobs(&backfill::JobFilter::new().state(backfill::JobState::Dead)).await.expect("list");
    assert_eq!(dead.len(), 1, "of three, one was let run and one was deleted");
}
