//! Ending messages.

use std::time::Duration;

use backfill::Error;
use backfill::messages::{Message, MessageState, NewMessage, Queue};
use backfill::storage::AnyStorage;

use crate::{LONG, claim, claim_none, queue};

fn is_lost(ended: Result<(), Error>, message: &Message) {
    match ended {
        Err(Error::LeaseLost { id, .. }) => assert_eq!(id, message.id),
        other => panic!("{other:?}"),
    }
}

async fn state(queue: &Queue, id: &str) -> MessageState {
    queue.get(id).await.unwrap().expect("it is known").state
}

pub async fn completing_and_failing_twice_is_once_and_changes_nothing(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).id("done").await.unwrap();
    let done = claim(&queue, "q").await;
    for _ in 0..3 {
        queue.complete(&done).await.unwrap();
    }
    is_lost(queue.fail(&done, "no").await, &done);
    assert_eq!(state(&queue, "done").await, MessageState::Completed, "nothing else comes over it");
    queue.enqueue("q", &1).id("failed").await.unwrap();
    let failed = claim(&queue, "q").await;
    for _ in 0..3 {
        queue.fail(&failed, "no").await.unwrap();
    }
    is_lost(queue.complete(&failed).await, &failed);
    let info = queue.get("failed").await.unwrap().expect("it is known");
    assert_eq!((info.state, info.error.as_deref(), info.attempts), (MessageState::Failed, Some("no"), 1));
}

/// Nor the other way round.
pub async fn an_event_that_an_end_did_not_tell_is_not_said_to_be_told(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue_all("q", vec![NewMessage::new(&1), NewMessage::new(&2)]).await.unwrap();
    let (plain, told) = (claim(&queue, "q").await, claim(&queue, "q").await);
    queue.complete(&plain).await.unwrap();
    is_lost(queue.complete_with_event(&plain, "s", &1).await, &plain);
    queue.complete_with_event(&told, "s", &2).await.unwrap();
    is_lost(queue.complete(&told).await, &told);
    queue.complete_with_event(&told, "s", &2).await.unwrap();
    assert_eq!(queue.events("s", 0, 9).await.unwrap().len(), 1);
}

pub async fn an_end_and_its_event_are_both_there_or_neither(storage: AnyStorage) {
    let queue = queue(&storage);
    let seen = async || queue.events("s", 0, 99).await.unwrap().len();
    queue.enqueue("q", &1).await.unwrap();
    let message = claim(&queue, "q").await;
    // An event that cannot be stored stops the end.
    let error = queue.complete_with_event(&message, "s", &"x".repeat(9_000_000)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidMessage { .. }), "{error}");
    assert_eq!((state(&queue, &message.id).await, seen().await), (MessageState::Running, 0));
    // One event, however often it is repeated.
    for _ in 0..3 {
        queue.complete_with_event(&message, "s", &"done").await.unwrap();
    }
    assert_eq!((state(&queue, &message.id).await, seen().await), (MessageState::Completed, 1));
    is_lost(queue.fail_with_event(&message, "no", "s", &"failed").await, &message);
    assert_eq!(seen().await, 1, "what is refused says nothing");
    // Redelivered, and ended by the second: one event again.
    queue.enqueue("q", &2).await.unwrap();
    let first = queue.claim("q", "slow").lease(Duration::ZERO).one().await.unwrap().expect("ready");
    let second = claim(&queue, "q").await;
    queue.fail_with_event(&second, "no", "s", &"failed").await.unwrap();
    is_lost(queue.complete_with_event(&first, "s", &"done").await, &first);
    assert_eq!((state(&queue, &second.id).await, seen().await), (MessageState::Failed, 2));
}

pub async fn a_late_worker_cannot_end_what_another_one_holds(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).await.unwrap();
    let late = queue.claim("q", "late").lease(Duration::ZERO).one().await.unwrap().expect("ready");
    let other = claim(&queue, "q").await;
    assert_eq!(other.id, late.id);
    is_lost(queue.complete(&late).await, &late);
    is_lost(queue.fail(&late, "no").await, &late);
    is_lost(queue.requeue(&late, Duration::ZERO).await, &late);
    assert!(!queue.renew(&late, LONG).await.unwrap());
    assert_eq!(state(&queue, &other.id).await, MessageState::Running);
    queue.complete(&other).await.unwrap();
    is_lost(queue.complete(&late).await, &late);
    // Late, but nobody has claimed it since: then the work counts.
    queue.enqueue("q", &2).await.unwrap();
    let late = queue.claim("q", "late").lease(Duration::ZERO).one().await.unwrap().expect("ready");
    queue.reclaim_expired().await.unwrap();
    queue.complete(&late).await.unwrap();
    claim_none(&queue, "q").await;
}

/// Whatever is called after the end, and in whichever order.
pub async fn what_has_ended_never_rises_again(storage: AnyStorage) {
    let queue = queue(&storage);
    for end in 0..3 {
        queue.enqueue("q", &end).await.unwrap();
        let message = claim(&queue, "q").await;
        match end {
            0 => queue.complete(&message).await.unwrap(),
            1 => queue.fail(&message, "no").await.unwrap(),
            _ => {
                // Given back, claimed again, completed.
                queue.requeue(&message, Duration::ZERO).await.unwrap();
                let again = claim(&queue, "q").await;
                queue.complete(&again).await.unwrap();
            }
        }
        is_lost(queue.requeue(&message, Duration::ZERO).await, &message);
        queue.reclaim_expired().await.unwrap();
        claim_none(&queue, "q").await;
        assert_eq!(queue.counts("q").await.unwrap().ready, 0);
    }
}

pub async fn requeueing_keeps_the_attempts_and_says_nothing(storage: AnyStorage) {
    let queue = queue(&storage);
    queue.enqueue("q", &1).id("m").await.unwrap();
    queue.enqueue("q", &2).await.unwrap();
    let first = claim(&queue, "q").await;
    queue.requeue(&first, Duration::ZERO).await.unwrap();
    is_lost(queue.requeue(&first, Duration::ZERO).await, &first);
    let again = claim(&queue, "q").await;
    assert_eq!((again.id.as_str(), again.attempts), ("m", 2), "where it stood");
    queue.requeue(&again, LONG).await.unwrap();
    assert_ne!(claim(&queue, "q").await.id, "m", "it waits");
    let info = queue.get("m").await.unwrap().expect("it is known");
    assert_eq!((info.state, info.attempts), (MessageState::Queued, 2));
    assert!(queue.events("s", 0, 9).await.unwrap().is_empty());
}

/// After that its id is free, and it is not known any more.
pub async fn an_end_is_remembered_for_as_long_as_was_asked(storage: AnyStorage) {
    let forgets =
        Queue::builder().namespace("forgets").retention(Duration::ZERO).with_storage(storage.clone()).unwrap();
    forgets.enqueue("q", &1).id("m").await.unwrap();
    let message = claim(&forgets, "q").await;
    forgets.complete(&message).await.unwrap();
    assert_eq!(forgets.get("m").await.unwrap(), None);
    is_lost(forgets.complete(&message).await, &message);
    forgets.enqueue("q", &2).id("m").await.unwrap();
    let short = Duration::from_millis(50);
    let briefly = Queue::builder().namespace("briefly").retention(short).with_storage(storage).unwrap();
    briefly.enqueue("q", &1).id("m").await.unwrap();
    let message = claim(&briefly, "q").await;
    briefly.complete(&message).await.unwrap();
    // By the storage's clock, whatever ours says.
    while briefly.get("m").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    briefly.enqueue("q", &2).id("m").await.unwrap();
}
