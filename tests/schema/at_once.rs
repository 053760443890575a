//! Many that migrate at once.

use std::process::Stdio;

use backfill::BackfillClient;

use crate::support::{ask, database, node, soon};

/// Not a test by itself: the process that `twenty_processes…` starts twenty of.
#[tokio::test]
async fn child_process_that_migrates() {
    let Ok(url) = std::env::var("CHILD_DATABASE_URL") else { return };
    BackfillClient::new_with_schema(&url, "jobs of twenty").await.expect("migrate");
}

#[tokio::test]
async fn twenty_processes_starting_at_once_all_succeed() {
    let (pool, url) = database().await;
    let children: Vec<_> = (0..20)
        .map(|_| {
            tokio::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "at_once::child_process_that_migrates", "--nocapture"])
                .env("CHILD_DATABASE_URL", &url)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("start")
        })
        .collect();
    for child in children {
        let output = soon("a child ends", child.wait_with_output()).await.expect("wait");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(ask(&pool, "jobs of twenty", "select count(*) from S.migrations").await, "20");
}

#[tokio::test]
async fn node_and_rust_migrating_at_once_both_succeed() {
    let (pool, url) = database().await;
    let nodes = (0..3).map(|_| node::migrate("graphile-worker", &url, "graphile_worker"));
    let rusts = (0..6).map(|_| async { BackfillClient::new(&url).await.map(drop).expect("migrate") });
    futures::join!(futures::future::join_all(nodes), futures::future::join_all(rusts));
    assert_eq!(ask(&pool, "graphile_worker", "select count(*) from S.migrations").await, "20");
}
