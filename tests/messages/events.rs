//! Events.

use backfill::messages::NewMessage;
use backfill::storage::AnyStorage;
use tokio::task::JoinSet;

use crate::{LONG, queue};

pub async fn events_are_in_order_and_may_be_read_from_anywhere(storage: AnyStorage) {
    let queue = queue(&storage);
    let mut positions = Vec::new();
    for n in 0..5 {
        positions.push(queue.append("s", &n).await.unwrap());
        queue.append("other", &n).await.unwrap();
    }
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    let all = queue.events("s", 0, 99).await.unwrap();
    assert_eq!(all.iter().map(|event| event.position).collect::<Vec<_>>(), positions);
    assert!(all.iter().all(|event| event.stream == "s"));
    let some = queue.events("s", positions[1], 2).await.unwrap();
    assert_eq!(some.iter().map(|event| event.payload.as_str()).collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(queue.trim_events("s", positions[3]).await.unwrap(), 4);
    assert_eq!(queue.events("s", 0, 99).await.unwrap().len(), 1);
    assert_eq!(queue.events("other", 0, 99).await.unwrap().len(), 5);
}

/// No counter makes them conflict, and a reader that polls sees each once, in order.
pub async fn parallel_ends_with_events_all_succeed(storage: AnyStorage) {
    let all = queue(&storage);
    all.enqueue_all("q", (0..160).map(|n| NewMessage::new(&n)).collect()).await.unwrap();
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let queue = queue(&storage);
        workers.spawn(async move {
            while queue.counts("q").await.unwrap().ready > 0 {
                for message in queue.claim("q", "w").lease(LONG).up_to(5).await.unwrap() {
                    queue.complete_with_event(&message, "s", &message.id).await.unwrap();
                }
            }
        });
    }
    let (mut since, mut seen) = (0, Vec::new());
    while seen.len() < 160 {
        for event in all.events("s", since, 7).await.unwrap() {
            assert!(event.position > since);
            since = event.position;
            seen.push(event.payload.as_str().to_owned());
        }
    }
    workers.join_all().await;
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 160, "each message has one event");
    assert!(all.events("s", since, 9).await.unwrap().is_empty());
}
