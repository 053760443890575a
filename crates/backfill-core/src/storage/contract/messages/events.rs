//! Cases about events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use tokio::task::JoinSet;

use super::super::Subject;
use super::{json, messages, must_apply};
use crate::storage::messages::{Event, NewEvent, News, Unit};

async fn events(storage: &Subject, since: u64, limit: u32) -> Vec<Event> {
    messages(storage).events("s", since, limit).await.expect("events")
}

async fn append(storage: &Subject, values: &[i64]) -> Vec<u64> {
    let append = |unit: Unit, value: &i64| unit.event(NewEvent::new("s", json(value)));
    must_apply(storage, values.iter().fold(Unit::new(), append)).await.positions
}

fn values(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.payload.decode().expect("a number")).collect()
}

/// Streams do not see each other, and a listener is told.
pub async fn events_are_in_order_and_may_be_read_from_anywhere(storage: Subject) {
    let mut news = messages(&storage).news();
    assert_eq!(news.next().await, Some(News::Listening));
    let before = storage.now().await.expect("the time");
    let mut positions = append(&storage, &[1, 2]).await;
    must_apply(&storage, Unit::new().event(NewEvent::new("other", json(9)))).await;
    positions.extend(append(&storage, &[3]).await);
    let all = events(&storage, 0, 9).await;
    assert_eq!(values(&all), [1, 2, 3]);
    assert_eq!(all.iter().map(|event| event.position).collect::<Vec<_>>(), positions);
    assert!(all.iter().all(|event| event.at >= before), "{before} {all:?}");
    assert_eq!(values(&events(&storage, positions[0], 1).await), [2]);
    assert_eq!(values(&events(&storage, positions[1], 9).await), [3]);
    assert_eq!(values(&events(&storage, positions[2], 9).await), Vec::<i64>::new());
    assert_eq!(values(&events(&storage, u64::MAX, 9).await), Vec::<i64>::new());
    loop {
        if let Some(News::Changed(changes)) = news.next().await
            && changes.streams.has("s")
        {
            break;
        }
    }
}

/// Eight write, with units that take different times; a reader that goes on from what it has read misses none.
pub async fn no_event_appears_below_one_that_was_read(storage: Subject) {
    let ended = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for n in 0..8_i64 {
        let storage = storage.clone();
        writers.spawn(async move {
            for round in 0..15 {
                let many: Vec<i64> = (0..=(n * 7 + round) % 5).map(|i| n * 1_000 + round * 10 + i).collect();
                append(&storage, &many).await;
            }
        });
    }
    let reader = tokio::spawn({
        let (storage, ended) = (storage.clone(), ended.clone());
        async move {
            let (mut since, mut read) = (0, Vec::new());
            loop {
                let was_ended = ended.load(Ordering::SeqCst);
                let more = events(&storage, since, 7).await;
                since = more.last().map_or(since, |event| event.position);
                read.extend(values(&more));
                if more.is_empty() && was_ended {
                    return read;
                }
            }
        }
    });
    writers.join_all().await;
    ended.store(true, Ordering::SeqCst);
    let read = reader.await.expect("the reader");
    assert_eq!(read, values(&events(&storage, 0, 9_999).await), "in order, and none was passed by");
    assert!(read.len() > 200, "{}", read.len());
}

/// Up to a position, of one stream.
pub async fn trimmed_events_are_gone_and_positions_go_on(storage: Subject) {
    let positions = append(&storage, &[1, 2, 3]).await;
    must_apply(&storage, Unit::new().event(NewEvent::new("other", json(9)))).await;
    assert_eq!(messages(&storage).trim_events("s", positions[1]).await.expect("trim"), 2);
    assert_eq!(values(&events(&storage, 0, 9).await), [3]);
    assert_eq!(messages(&storage).trim_events("s", u64::MAX).await.expect("trim"), 1);
    assert_eq!(messages(&storage).trim_events("s", u64::MAX).await.expect("trim"), 0);
    let next = append(&storage, &[4]).await;
    assert!(next[0] > positions[2]);
    assert_eq!(values(&events(&storage, positions[2], 9).await), [4]);
    assert_eq!(messages(&storage).events("other", 0, 9).await.expect("events").len(), 1);
    assert_eq!(messages(&storage).streams("").await.expect("streams"), ["other", "s"]);
    assert_eq!(messages(&storage).streams("o").await.expect("streams"), ["other"]);
    assert_eq!(messages(&storage).streams("t").await.expect("streams"), Vec::<String>::new());
}
