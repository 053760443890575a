//! A server that crashes again and again while messages come and go: what was answered is kept, and each has one end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backfill::Error;
use backfill::messages::{MessageState, Queue};
use backfill::storage::OpenOptions;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Stop};

const MESSAGES: usize = 600;
const CRASHES: usize = 3;

async fn open(url: &str) -> Queue {
    // A connection that hangs is given up soon.
    let options = OpenOptions::default().acquire_timeout(Duration::from_secs(5)).max_connections(4);
    Queue::builder().database_url(url).open_options(options).namespace("a case").build().await.unwrap()
}

/// Again until it is known. Whoever gives its own ids may send again what may have been stored.
async fn stored(queue: &Queue, id: &str) {
    loop {
        match queue.enqueue("q", &id).id(id).await {
            Ok(_) | Err(Error::MessageExists { .. }) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Again until it is known: completing twice is once.
async fn completed(queue: &Queue, message: &backfill::messages::Message) {
    loop {
        match queue.complete_with_event(message, "done", &message.id).await {
            Ok(()) | Err(Error::LeaseLost { .. }) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_has_one_end_although_the_server_crashes() {
    let cluster = Cluster::start_new(&["max_connections=60"]).await;
    let url = cluster.url("postgres");
    let queue = open(&url).await;
    let (sent, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for producer in 0..3 {
        let (queue, sent) = (open(&url).await, Arc::clone(&sent));
        tasks.spawn(async move {
            for n in (producer..MESSAGES).step_by(3) {
                stored(&queue, &n.to_string()).await;
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for _ in 0..3 {
        let (queue, ended) = (open(&url).await, Arc::clone(&ended));
        tasks.spawn(async move {
            let mut subscription = queue.subscribe(&["q"]);
            while !ended.load(Ordering::SeqCst) {
                // A claim whose answer was lost holds its messages until the lease ends.
                match queue.claim("q", "w").lease(Duration::from_secs(2)).up_to(5).await {
                    Ok(messages) if messages.is_empty() => drop(subscription.wait(Duration::from_millis(500)).await),
                    Ok(messages) => {
                        for message in &messages {
                            completed(&queue, message).await;
                        }
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
    }
    for crash in 1..=CRASHES {
        while sent.load(Ordering::SeqCst) < crash * MESSAGES / (CRASHES + 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.stop(Stop::Immediate).await;
        cluster.start().await;
    }
    let events = loop {
        match queue.events("done", 0, 10_000).await {
            Ok(events) if events.len() >= MESSAGES => break events,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    ended.store(true, Ordering::SeqCst);
    tasks.join_all().await;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        *ends.entry(event.payload.decode().unwrap()).or_default() += 1;
    }
    assert_eq!(ends.len(), MESSAGES, "nothing that was answered is lost");
    assert!(ends.values().all(|times| *times == 1), "one end each: {ends:?}");
    for n in 0..MESSAGES {
        let info = queue.get(&n.to_string()).await.unwrap().expect("its end is remembered");
        assert_eq!(info.state, MessageState::Completed);
    }
    let counts = queue.counts("q").await.unwrap();
    assert_eq!((counts.ready, counts.delayed, counts.held), (0, 0, 0));
    queue.close().await;
    cluster.stop(Stop::Fast).await;
}
