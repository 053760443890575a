//! Clients whose clocks are an hour off, on PostgreSQL: whatever they think, the server's clock decides.

use std::collections::BTreeSet;
use std::time::Duration;

use backfill::messages::{NewMessage, Queue};
use tokio::process::Command;

use crate::{LONG, claim, support};

const PLACE: &str = "BACKFILL_CLOCKS_PLACE";

async fn open(url: &str) -> Queue {
    Queue::builder().database_url(url).namespace("a case").build().await.unwrap()
}

/// Claims and completes all that it can, if it is a child that is to.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(PLACE) else { return };
    let queue = open(&url).await;
    println!("\n@clock {}", chrono::Utc::now().timestamp());
    // A second or so of looks for what may have ended.
    for _ in 0..30 {
        queue.reclaim_expired().await.unwrap();
        while let Some(message) = queue.claim("q", "child").lease(LONG).one().await.unwrap() {
            queue.complete_with_event(&message, "done", &message.id).await.unwrap();
            println!("@done {}", message.id);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_an_hour_off_change_nothing() {
    let Ok(library) = std::env::var("BACKFILL_TEST_FAKETIME") else {
        println!("left out: BACKFILL_TEST_FAKETIME does not say where libfaketime is");
        return;
    };
    let (_, url) = support::database().await;
    let queue = open(&url).await;
    let new = |range: std::ops::Range<i32>| range.map(|n| NewMessage::new(&n).id(n.to_string())).collect::<Vec<_>>();
    // Held by us, not yet due, and for whoever comes.
    queue.enqueue_all("q", new(0..5)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(claim(&queue, "q").await);
    }
    queue
        .enqueue_all("q", new(5..10).into_iter().map(|message| message.run_in(Duration::from_mins(30))).collect())
        .await
        .unwrap();
    queue.enqueue_all("q", new(10..50)).await.unwrap();
    queue.heartbeat("w", "h", "q", None, LONG).await.unwrap();
    let mut children = tokio::task::JoinSet::new();
    for offset in ["+1h", "-1h", "+1h", "-1h"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "clocks::child", "--nocapture", "--test-threads=1"]).env(PLACE, &url);
        command.env("LD_PRELOAD", &library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        children.spawn(async move { command.output().await.unwrap() });
    }
    let mut done = Vec::new();
    let mut off = 0;
    for output in children.join_all().await {
        let text = String::from_utf8(output.stdout).unwrap();
        for line in text.lines() {
            if let Some((_, clock)) = line.split_once("@clock ") {
                let away = clock.parse::<i64>().unwrap() - chrono::Utc::now().timestamp();
                off += i64::from(away.abs() > 3_000);
            }
            done.extend(line.split_once("@done ").map(|(_, id)| id.to_owned()));
        }
    }
    assert_eq!(off, 4, "their clocks were an hour off");
    assert_eq!(done.len(), 40, "{done:?}");
    let expected: BTreeSet<String> = (10..50).map(|n| n.to_string()).collect();
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), expected);
    for message in held {
        assert!(queue.renew(&message, LONG).await.unwrap(), "it is held still");
    }
    let counts = queue.counts("q").await.unwrap();
    assert_eq!((counts.ready, counts.delayed, counts.held), (0, 5, 5));
    assert_eq!((queue.events("done", 0, 99).await.unwrap().len(), queue.workers("q").await.unwrap().len()), (40, 1));
}
