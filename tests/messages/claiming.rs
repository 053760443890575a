//! Claiming messages.

use std::collections::HashSet;
use std::time::Duration;

use backfill::messages::{Handle, MessageState, NewMessage, Queue};
use backfill::storage::AnyStorage;
use tokio::task::JoinSet;

use crate::{LONG, claim, claim_none, queue};

pub async fn a_message_is_claimed_once_and_then_there_is_none(storage: AnyStorage) {
    let queue = queue(&storage);
    claim_none(&queue, "q").await;
    let ids = queue.enqueue_all("q", (0..3).map(|n| NewMessage::new(&n)).collect()).await.unwrap();
    let first = claim(&queue, "q").await;
    let rest = queue.claim("q", "other").lease(LONG).up_to(9).await.unwrap();
    let claimed: Vec<&String> = [&first.id].into_iter().chain(rest.iter().map(|message| &message.id)).collect();
    assert_eq!(claimed, ids.iter().collect::<Vec<_>>(), "in the order in which they were added");
    claim_none(&queue, "q").await;
    assert!(queue.claim("q", "w").up_to(0).await.unwrap().is_empty());
}

pub async fn smaller_priorities_come_first_and_queues_are_apart(storage: AnyStorage) {
    let queue = queue(&storage);
    for (n, priority) in [(1, 5), (2, -5), (3, 0)] {
        queue.enqueue("q", &n).priority(priority).await.unwrap();
    }
    queue.enqueue("other", &9).priority(-100).await.unwrap();
    let order: Vec<String> = [claim(&queue, "q").await, claim(&queue, "q").await, claim(&queue, "q").await]
        .map(|message| message.body.get().to_owned())
        .into();
    assert_eq!(order, ["2", "3", "1"]);
    claim_none(&queue, "q").await;
    assert_eq!(claim(&queue, "other").await.body.get(), "9");
}

pub async fn eight_workers_claim_each_of_three_hundred_and_twenty_once(storage: AnyStorage) {
    let all = queue(&storage);
    all.enqueue_all("q", (0..320).map(|n| NewMessage::new(&n)).collect()).await.unwrap();
    let mut workers = JoinSet::new();
    for n in 0..8 {
        // Each with a handle of its own, as another process has.
        let queue = queue(&storage);
        workers.spawn(async move {
            let mut mine = Vec::new();
            while queue.counts("q").await.unwrap().ready > 0 {
                for message in queue.claim("q", "w").lease(LONG).up_to(1 + n % 3).await.unwrap() {
                    queue.complete(&message).await.unwrap();
                    mine.push(message.id);
                }
            }
            mine
        });
    }
    let all = workers.join_all().await.concat();
    assert_eq!(all.len(), 320);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 320);
}

pub async fn only_the_holder_renews(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).id("m").await.unwrap();
    let first = queue.claim("q", "w").lease(Duration::from_mins(1)).one().await.unwrap().expect("ready");
    assert!(queue.renew(&first, LONG).await.unwrap());
    assert!(queue.get("m").await.unwrap().expect("there").until.is_some_and(|until| until > first.until));
    // Zero gives it back at once.
    assert!(queue.renew(&first, Duration::ZERO).await.unwrap());
    let second = claim(&queue, "q").await;
    assert_eq!((second.id.as_str(), second.attempts), ("m", 2));
    assert!(!queue.renew(&first, LONG).await.unwrap(), "it is another one's");
    assert!(queue.renew(&second, LONG).await.unwrap());
    queue.complete(&second).await.unwrap();
    assert!(!queue.renew(&second, LONG).await.unwrap(), "it has ended");
}

pub async fn an_ended_lease_is_reclaimed_and_a_live_one_is_not(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).id("dead").await.unwrap();
    queue.enqueue("q", &2).id("live").await.unwrap();
    let (dead, live) = (claim(&queue, "q").await, claim(&queue, "q").await);
    assert_eq!((dead.id.as_str(), live.id.as_str()), ("dead", "live"));
    assert!(queue.renew(&dead, Duration::from_millis(1)).await.unwrap());
    // Whoever looks first reclaims it: this, or what does it in the background.
    while queue.get("dead").await.unwrap().expect("there").state == MessageState::Running {
        queue.reclaim_expired_of(&[dead.handle().clone(), live.handle().clone()]).await.unwrap();
    }
    assert_eq!(queue.reclaim_expired().await.unwrap(), 0, "each once");
    assert_eq!(queue.get("dead").await.unwrap().expect("there").state, MessageState::Queued);
    assert_eq!(queue.get("live").await.unwrap().expect("there").state, MessageState::Running);
    let again = claim(&queue, "q").await;
    assert_eq!((again.id.as_str(), again.attempts), ("dead", 2));
}

pub async fn what_a_claim_finds_does_not_depend_on_a_sweeper(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).await.unwrap();
    for attempt in 1..=5 {
        let message = queue.claim("q", "w").lease(Duration::ZERO).one().await.unwrap().expect("it is ready again");
        assert_eq!(message.attempts, attempt);
    }
}

pub async fn a_message_that_was_claimed_as_often_as_it_may_be_has_failed(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).id("m").max_attempts(2).await.unwrap();
    for _ in 0..2 {
        assert!(queue.claim("q", "w").lease(Duration::ZERO).one().await.unwrap().is_some());
    }
    queue.reclaim_expired().await.unwrap();
    claim_none(&queue, "q").await;
    let info = queue.get("m").await.unwrap().expect("it is remembered");
    assert_eq!((info.state, info.attempts), (MessageState::Failed, 2));
}

pub async fn groups_are_claimed_in_order(storage: AnyStorage) {
    let queue = queue(&storage);
    for (n, group) in ["a", "a", "b", "a", "b"].iter().enumerate() {
        queue.enqueue("q", &n).group(*group).await.unwrap();
    }
    // The same group in another queue is another group.
    queue.enqueue("other", &9).group("a").await.unwrap();
    let in_groups = async |limit| {
        let claimed = queue.claim("q", "w").lease(LONG).in_groups().up_to(limit).await.unwrap();
        claimed.into_iter().map(|message| (message.body.get().to_owned(), message)).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (order, held) = in_groups(2).await;
    assert_eq!(order, ["0", "1"]);
    let (order, _) = in_groups(9).await;
    assert_eq!(order, ["2", "4"], "3 is behind held ones, and b is not");
    queue.complete(&held[1]).await.unwrap();
    assert!(in_groups(9).await.0.is_empty());
    queue.complete(&held[0]).await.unwrap();
    assert_eq!(in_groups(9).await.0, ["3"]);
    assert_eq!(queue.claim("other", "w").in_groups().up_to(9).await.unwrap().len(), 1);
}

pub async fn a_handle_goes_from_process_to_process_as_text(storage: AnyStorage) {
    let here = queue(&storage);
    here.enqueue("q/1", &1).id("an/id").await.unwrap();
    let text = claim(&here, "q/1").await.handle().to_string();
    let there = Queue::with_storage(storage, "a case").unwrap();
    let handle: Handle = text.parse().unwrap();
    assert_eq!((handle.namespace(), handle.queue(), handle.id()), ("a case", "q/1", "an/id"));
    assert!(there.renew(&handle, LONG).await.unwrap());
    there.complete(&handle).await.unwrap();
    assert_eq!(here.get("an/id").await.unwrap().expect("remembered").state, MessageState::Completed);
}

pub async fn a_handle_of_another_namespace_is_refused(storage: AnyStorage) {
    let here = queue(&storage);
    let there = Queue::with_storage(storage, "another").unwrap();
    for queue in [&here, &there] {
        queue.enqueue("q", &1).id("m").await.unwrap();
    }
    let (mine, theirs) = (claim(&here, "q").await, claim(&there, "q").await);
    let refusals = [
        there.renew(&mine, LONG).await.map(drop),
        there.complete(&mine).await,
        there.fail(&mine, "x").await,
        there.requeue(&mine, Duration::ZERO).await.map(drop),
        there.reclaim_expired_of(&[mine.handle().clone()]).await.map(drop),
    ];
    for refusal in refusals {
        let told = refusal.unwrap_err().to_string();
        assert!(told.contains("\"a case\"") && told.contains("\"another\""), "{told}");
    }
    there.complete(&theirs).await.unwrap();
    here.complete(&mine).await.unwrap();
}
