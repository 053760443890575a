//! Waiting for messages.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use backfill::storage::AnyStorage;
use backfill::storage::messages::{Holder, Take};

use crate::{LONG, claim, claim_none, queue};

/// Much longer than a wakeup takes, and than the second after which a message is found without one.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn an_enqueue_wakes_a_subscriber(storage: AnyStorage) {
    let (here, there) = (queue(&storage), queue(&storage));
    let mut subscription = here.subscribe(&["a", "b"]);
    for name in ["b", "a", "b"] {
        there.enqueue(name, &1).await.unwrap();
        // It may be told of what was there before.
        while subscription.wait(PATIENCE).await.expect("woken") != name {}
        claim(&here, name).await;
    }
}

/// However fast they come one after the other.
pub async fn what_comes_between_a_claim_and_a_wait_is_not_missed(storage: AnyStorage) {
    let (here, there) = (queue(&storage), queue(&storage));
    let adds = tokio::spawn(async move {
        for n in 0..60 {
            there.enqueue("q", &n).await.unwrap();
            if n % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut subscription = here.subscribe(&["q"]);
    let mut got = 0;
    while got < 60 {
        match here.claim("q", "w").lease(LONG).one().await.unwrap() {
            Some(_) => got += 1,
            None => assert!(subscription.wait(PATIENCE).await.is_some(), "{got}"),
        }
    }
    adds.await.unwrap();
}

pub async fn a_wait_ends_when_its_time_has_passed(storage: AnyStorage) {
    let queue = queue(&storage);
    let mut subscription = queue.subscribe(&["q"]);
    loop {
        let begun = Instant::now();
        // What it is told first is that it listens.
        if subscription.wait(Duration::from_millis(100)).await.is_none() {
            assert!(begun.elapsed() >= Duration::from_millis(100));
            break;
        }
    }
    queue.close().await;
    assert_eq!(subscription.wait(Duration::ZERO).await, None);
}

pub async fn other_queues_wake_nobody(storage: AnyStorage) {
    let queue = queue(&storage);
    let mut subscription = queue.subscribe(&["q"]);
    for n in 0..10 {
        queue.enqueue("other", &n).await.unwrap();
        queue.append("q", &n).await.unwrap();
    }
    // (SQLite cannot tell one line from another where another process writes; in one process it says that too much, and no more.)
    while let Some(woken) = subscription.wait(Duration::from_millis(300)).await {
        assert_eq!(woken, "q");
        claim_none(&queue, "q").await;
    }
}

/// A message given back, an ended lease, a job that others put into the line, one whose time comes.
pub async fn what_another_handle_and_other_verbs_make_ready_is_noticed(storage: AnyStorage) {
    let (here, there) = (queue(&storage), queue(&storage));
    let mut subscription = here.subscribe(&["q"]);
    let mut wait_and_claim = async || loop {
        if let Some(message) = here.claim("q", "w").lease(LONG).one().await.unwrap() {
            return message;
        }
        assert!(subscription.wait(PATIENCE).await.is_some());
    };
    there.enqueue("q", &1).await.unwrap();
    let message = wait_and_claim().await;
    there.requeue(&message, Duration::ZERO).await.unwrap();
    let message = wait_and_claim().await;
    there.renew(&message, Duration::from_millis(100)).await.unwrap();
    let message = wait_and_claim().await;
    assert_eq!(message.attempts, 3);
    there.enqueue("q", &2).run_in(Duration::from_millis(200)).await.unwrap();
    assert_eq!(wait_and_claim().await.body.get(), "2");
    // By the job's verbs, in the line that the queue is.
    let line = storage.require_inspect().unwrap().task_names().await.unwrap().pop().expect("a line");
    let client = backfill::BackfillClient::with_storage(storage.clone());
    let job = client.add(JobSpec::new(line.clone(), 3)).await.unwrap();
    let message = wait_and_claim().await;
    assert_eq!((message.body.get(), message.id), ("3", format!("#{}", job.id)));
    let lines = [(line, 1)];
    let request = Take::new(Holder::Lease { name: "", lasts: LONG }, &lines);
    assert!(storage.require_messages().unwrap().take(&request).await.unwrap().jobs.is_empty());
}
