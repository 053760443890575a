//! What operators see and do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::messages::{NewMessage, Queue};
use backfill::storage::AnyStorage;
use backfill::{BackfillClient, JobSpec, task_fn};
use tokio::task::JoinSet;

use crate::{LONG, claim, claim_none, queue};

pub async fn counts_tell_what_is_ready_delayed_and_claimed(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue_all("q", (0..5).map(|n| NewMessage::new(&n)).collect()).await.unwrap();
    queue.enqueue("q", &9).run_in(LONG).await.unwrap();
    queue.enqueue("other", &9).await.unwrap();
    claim(&queue, "q").await;
    let counts = queue.counts("q").await.unwrap();
    assert_eq!((counts.line.as_str(), counts.ready, counts.delayed, counts.held), ("q", 4, 1, 1));
    assert!(counts.exact);
    assert_eq!(queue.counts("empty").await.unwrap().ready, 0);
}

/// By the storage's clock, wherever it is looked at.
pub async fn workers_are_alive_for_as_long_as_they_said(storage: AnyStorage) {
    let (here, there) = (queue(&storage), queue(&storage));
    assert!(here.heartbeat("w1", "h1", "q", Some("model 7"), LONG).await.unwrap());
    assert!(here.heartbeat("w2", "h1", "q", None, Duration::ZERO).await.unwrap());
    here.heartbeat("w3", "h1", "other", None, LONG).await.unwrap();
    let seen = there.workers("q").await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].worker.as_str(), seen[0].host.as_str(), seen[0].info.as_deref()),
        ("w1", "h1", Some("model 7"))
    );
    here.heartbeat("w2", "h1", "q", None, LONG).await.unwrap();
    assert_eq!(there.workers("q").await.unwrap().len(), 2);
}

pub async fn a_switch_stops_a_host_for_a_queue(storage: AnyStorage) {
    let (queue, operator) = (queue(&storage), queue(&storage));
    queue.enqueue_all("q", (0..9).map(|n| NewMessage::new(&n)).collect()).await.unwrap();
    queue.enqueue("other", &1).await.unwrap();
    let claims =
        async |from: &str, host: &str| queue.claim(from, "w").host(host).lease(LONG).one().await.unwrap().is_some();
    assert!(claims("q", "h").await && operator.is_on("h", "q").await.unwrap(), "on unless somebody says otherwise");
    operator.switch_off("h", "q", "an operator").await.unwrap();
    assert!(!claims("q", "h").await && claims("q", "g").await && claims("other", "h").await);
    assert!(!queue.heartbeat("w", "h", "q", None, LONG).await.unwrap(), "a heartbeat tells it, too");
    let switches = operator.switches().await.unwrap();
    assert_eq!((switches[0].host.as_str(), switches[0].by.as_str()), ("h", "an operator"));
    assert!(queue.claim("q", "w").lease(LONG).one().await.unwrap().is_some(), "who names no host has no switch");
    operator.switch_on("h", "q").await.unwrap();
    assert!(claims("q", "h").await);
    operator.switch_off("*", "q", "an operator").await.unwrap();
    assert!(!claims("q", "h").await && !claims("q", "g").await);
    operator.switch_on("h", "q").await.unwrap();
    assert!(!claims("q", "h").await, "all hosts are off still");
    operator.switch_on("*", "q").await.unwrap();
    operator.switch_off("h", "*", "an operator").await.unwrap();
    assert!(!claims("q", "h").await && claims("q", "g").await);
}

pub async fn nothing_is_claimed_once_the_call_that_switched_off_has_returned(storage: AnyStorage) {
    let all = queue(&storage);
    all.enqueue_all("q", (0..20).map(|n| NewMessage::new(&n).max_attempts(30_000)).collect()).await.unwrap();
    // Odd while it is off.
    let (switch, claimed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (queue, switch, claimed) = (queue(&storage), Arc::clone(&switch), Arc::clone(&claimed));
        workers.spawn(async move {
            while switch.load(Ordering::SeqCst) < 20 {
                let before = switch.load(Ordering::SeqCst);
                let got = queue.claim("q", "w").host("h").lease(LONG).one().await.unwrap();
                if before % 2 == 1 && switch.load(Ordering::SeqCst) == before {
                    assert!(got.is_none(), "something was claimed while it was off");
                }
                if let Some(message) = got {
                    claimed.fetch_add(1, Ordering::SeqCst);
                    queue.requeue(&message, Duration::ZERO).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..10 {
        let before = claimed.load(Ordering::SeqCst);
        while claimed.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        all.switch_off("h", "q", "a case").await.unwrap();
        switch.fetch_add(1, Ordering::SeqCst);
        // What was claimed before comes back, and stays.
        while all.counts("q").await.unwrap().held > 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            assert_eq!(all.counts("q").await.unwrap().held, 0, "something was claimed while it was off");
        }
        switch.fetch_add(1, Ordering::SeqCst);
        all.switch_on("h", "q").await.unwrap();
    }
    workers.join_all().await;
}

/// Whatever strings they are: also those that a careless join would confuse.
pub async fn namespaces_never_meet(storage: AnyStorage) {
    let open = |namespace: &str| Queue::with_storage(storage.clone(), namespace).unwrap();
    let pairs = [("a", "q:x", "a:q", "x"), ("a-b", "q", "a.b", "q"), ("", "a:q", "a", "q"), ("A", "q", "a", "q")];
    for (here, to, there, from) in pairs {
        let (here, there) = (open(here), open(there));
        here.enqueue(to, &1).id("m").await.unwrap();
        here.append(to, &1).await.unwrap();
        here.heartbeat("w", "h", to, None, LONG).await.unwrap();
        here.switch_off("h", to, "somebody").await.unwrap();
        claim_none(&there, from).await;
        assert_eq!(there.get("m").await.unwrap(), None);
        assert!(there.events(from, 0, 9).await.unwrap().is_empty());
        assert!(there.workers(from).await.unwrap().is_empty() && there.switches().await.unwrap().is_empty());
        let mut subscription = there.subscribe(&[from]);
        there.enqueue(from, &2).id("m").await.unwrap();
        assert_eq!(subscription.wait(Duration::from_secs(30)).await.as_deref(), Some(from));
        assert_eq!(claim(&there, from).await.body.get(), "2");
        for namespace in [here, there] {
            namespace.drop_namespace().await.unwrap();
            namespace.close().await;
        }
    }
}

pub async fn a_dropped_namespace_is_gone_and_others_stay(storage: AnyStorage) {
    let (goes, stays) = (Queue::with_storage(storage.clone(), "goes").unwrap(), queue(&storage));
    let mut held = None;
    for queue in [&goes, &stays] {
        queue.enqueue_all("q", (0..5).map(|n| NewMessage::new(&n).id(format!("m{n}"))).collect()).await.unwrap();
        queue.enqueue("later", &1).run_in(LONG).await.unwrap();
        let done = claim(queue, "q").await;
        queue.complete_with_event(&done, "s", &1).await.unwrap();
        held = Some(claim(queue, "q").await);
        queue.heartbeat("w", "h", "q", None, LONG).await.unwrap();
        queue.switch_off("h", "q", "somebody").await.unwrap();
    }
    goes.drop_namespace().await.unwrap();
    assert_eq!(goes.get("m0").await.unwrap(), None);
    for name in ["q", "later"] {
        let counts = goes.counts(name).await.unwrap();
        assert_eq!((counts.ready, counts.delayed, counts.held), (0, 0, 0));
    }
    assert!(goes.events("s", 0, 9).await.unwrap().is_empty() && goes.workers("q").await.unwrap().is_empty());
    assert!(goes.switches().await.unwrap().is_empty());
    goes.enqueue("q", &1).id("m0").await.unwrap();
    assert_eq!(stays.counts("q").await.unwrap().ready, 3);
    assert_eq!((stays.events("s", 0, 9).await.unwrap().len(), stays.workers("q").await.unwrap().len()), (1, 1));
    stays.complete(&held.expect("the second one's")).await.unwrap();
}

/// A worker of jobs takes none of the messages, and a queue none of the jobs.
pub async fn jobs_and_messages_live_in_one_storage(storage: AnyStorage) {
    let queue = queue(&storage);
    let client = BackfillClient::with_storage(storage);
    queue.enqueue("q", &1).await.unwrap();
    client.add(JobSpec::new("q", 2)).await.unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let task = task_fn("q", move |_: i32, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    client.worker().task(task).run_until_idle().await.unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert_eq!(claim(&queue, "q").await.body.get(), "1");
    claim_none(&queue, "q").await;
}
