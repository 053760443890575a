//! Adding messages.

use std::time::Duration;

use backfill::messages::{MessageState, NewMessage, Purge, Queue};
use backfill::storage::AnyStorage;
use backfill::{Error, JobSpec};
use chrono::TimeDelta;

use crate::{LONG, claim, claim_none, queue};

pub async fn a_message_is_there_until_it_ends_and_can_be_looked_at_after_that(storage: AnyStorage) {
    let queue = queue(&storage);
    assert_eq!(queue.get("nobody").await.unwrap(), None);
    let id = queue.enqueue("emails", &("to", 1)).await.unwrap();
    let info = queue.get(&id).await.unwrap().expect("it is there");
    assert_eq!((info.id.as_str(), info.queue.as_str(), info.attempts), (&*id, "emails", 0));
    assert_eq!((info.state, info.until, info.ended_at), (MessageState::Queued, None, None));
    let message = claim(&queue, "emails").await;
    assert_eq!((&message.id, message.decode::<(String, i32)>().unwrap()), (&id, ("to".to_owned(), 1)));
    assert_eq!((message.queue.as_str(), message.attempts), ("emails", 1));
    let info = queue.get(&id).await.unwrap().expect("it is there");
    assert_eq!((info.state, info.attempts, info.until), (MessageState::Running, 1, Some(message.until)));
    queue.complete(&message).await.unwrap();
    let info = queue.get(&id).await.unwrap().expect("its end is remembered");
    assert_eq!((info.state, info.attempts, info.queue.as_str()), (MessageState::Completed, 1, "emails"));
    assert!(info.ended_at.is_some() && info.until.is_none());
    assert_ne!(queue.enqueue("emails", &1).await.unwrap(), id, "ids by chance differ");
}

/// Also while it is held, and after its end; another one of the same call is not stored either.
pub async fn an_id_is_given_once(storage: AnyStorage) {
    let queue = queue(&storage);
    let again = async || match queue.enqueue("q", "second").id("7").await {
        Err(Error::MessageExists { id }) => assert_eq!(id, "7"),
        other => panic!("{other:?}"),
    };
    assert_eq!(queue.enqueue("q", "first").id("7").await.unwrap(), "7");
    again().await;
    // An id belongs to the namespace, not to the queue.
    assert!(matches!(queue.enqueue("other", "second").id("7").await, Err(Error::MessageExists { .. })));
    let message = claim(&queue, "q").await;
    again().await;
    queue.complete(&message).await.unwrap();
    again().await;
    claim_none(&queue, "q").await;
    let twice = vec![NewMessage::new("a").id("8"), NewMessage::new("b").id("9"), NewMessage::new("c").id("8")];
    assert!(matches!(queue.enqueue_all("q", twice).await, Err(Error::MessageExists { id }) if id == "8"));
    let one_known = vec![NewMessage::new("a").id("8"), NewMessage::new("b").id("7")];
    assert!(matches!(queue.enqueue_all("q", one_known).await, Err(Error::MessageExists { id }) if id == "7"));
    claim_none(&queue, "q").await;
    let new = vec![NewMessage::new("a").id("8"), NewMessage::new("b")];
    assert_eq!(queue.enqueue_all("q", new).await.unwrap()[0], "8");
    // Sixteen at once: one wins.
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let queue = queue.clone();
        racers.spawn(async move { queue.enqueue("race", &n).id("same").await.is_ok() });
    }
    assert_eq!(racers.join_all().await.into_iter().filter(|won| *won).count(), 1);
    assert_eq!(queue.counts("race").await.unwrap().ready, 1);
    // Other namespaces have ids of their own.
    Queue::with_storage(storage, "another").unwrap().enqueue("q", "x").id("7").await.unwrap();
}

/// Who passes a message on under its id replaces nothing, and neither does the number of a job.
pub async fn an_id_that_was_made_here_is_given_once_too(storage: AnyStorage) {
    let queue = queue(&storage);
    let id = queue.enqueue("q", "first").await.unwrap();
    let exists = async |id: &str| {
        let refused = queue.enqueue("other", "second").id(id).await;
        assert!(matches!(&refused, Err(Error::MessageExists { id: told }) if told == id), "{refused:?}");
    };
    exists(&id).await;
    let message = claim(&queue, "q").await;
    exists(&id).await;
    assert_eq!((message.id.as_str(), message.body.get()), (id.as_str(), "\"first\""));
    let ids = vec![NewMessage::new("a").id("fresh"), NewMessage::new("b").id(&*id)];
    assert!(matches!(queue.enqueue_all("q", ids).await, Err(Error::MessageExists { id: told }) if told == id));
    claim_none(&queue, "other").await;
    queue.complete(&message).await.unwrap();
    exists(&id).await;

    // What others put into the line has an id that no caller can choose.
    let line = storage.require_inspect().unwrap().task_names().await.unwrap().pop().expect("a line");
    let client = backfill::BackfillClient::with_storage(storage.clone());
    let job = client.add(JobSpec::new(line, 3)).await.unwrap();
    queue.enqueue("later", "mine").id(job.id.to_string()).await.unwrap();
    let theirs = claim(&queue, "q").await;
    queue.complete(&theirs).await.unwrap();
    queue.complete(&theirs).await.unwrap();
    let mine = queue.get(&job.id.to_string()).await.unwrap().expect("it waits");
    assert_eq!((mine.state, mine.queue.as_str()), (MessageState::Queued, "later"));
    assert_eq!(queue.get(&theirs.id).await.unwrap().expect("remembered").state, MessageState::Completed);
    let chosen = queue.enqueue("q", "x").id(&*theirs.id).await;
    assert!(chosen.unwrap_err().to_string().contains("begins with '#'"));
}

/// By whatever looks after a namespace: here, that of another process.
pub async fn records_of_purged_messages_are_forgotten(storage: AnyStorage) {
    let here = queue(&storage);
    let with_id = |n: usize| NewMessage::new(&n).id(format!("{n}"));
    here.enqueue_all("kept", (0..700).map(with_id).collect()).await.unwrap();
    here.enqueue_all("purged", (700..1_400).map(with_id).collect()).await.unwrap();
    let other = Queue::with_storage(storage.clone(), "another").unwrap();
    other.enqueue("q", &1).id("1").await.unwrap();
    other.purge("q", Purge::All).await.unwrap();
    let ended = claim(&here, "kept").await;
    here.complete(&ended).await.unwrap();
    assert_eq!(here.purge("purged", Purge::All).await.unwrap(), 700);
    let records = async || {
        let all = storage.require_messages().unwrap().documents("backfill.message", "", None, 9_999).await.unwrap();
        all.len()
    };
    let there = queue(&storage);
    there.claim("none", "w").up_to(1).await.unwrap();
    while records().await > 701 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(here.get(&ended.id).await.unwrap().expect("remembered").state, MessageState::Completed);
    assert!(matches!(here.enqueue("q", &1).id("1").await, Err(Error::MessageExists { .. })), "it waits");
}

pub async fn an_id_whose_message_was_purged_may_be_given_again(storage: AnyStorage) {
    let queue = queue(&storage);
    for round in 0..3 {
        queue.enqueue("q", &round).id("7").await.unwrap();
        assert!(matches!(queue.enqueue("q", &9).id("7").await, Err(Error::MessageExists { .. })));
        assert_eq!(queue.purge("q", Purge::All).await.unwrap(), 1);
        assert_eq!(queue.get("7").await.unwrap(), None);
    }
    queue.enqueue("q", &3).id("7").await.unwrap();
    assert_eq!(claim(&queue, "q").await.body.get(), "3");
}

/// Numbers beyond 2^53, odd white space, repeated keys, a megabyte, nothing.
pub async fn bodies_come_back_byte_for_byte(storage: AnyStorage) {
    let queue = queue(&storage);
    let large = format!("\"{}\"", "ü€😀\\u0000".repeat(70_000));
    let bodies = [
        "null",
        "{}",
        "[]",
        "\"\"",
        "{\"b\": 1,  \"a\":2,\"b\":\t3}",
        "123456789012345678901234567890.0123456789e-7",
        "\"\\ud83d\\ude00 \\u00e9\"",
        &large,
    ];
    for body in bodies {
        queue.enqueue_all("q", vec![NewMessage::from_json(body).unwrap()]).await.unwrap();
        let message = claim(&queue, "q").await;
        assert_eq!(message.body.get(), body);
        queue.complete(&message).await.unwrap();
    }
}

pub async fn hostile_names_of_all_kinds_are_names(storage: AnyStorage) {
    let names =
        ["", ":", "{}", "%", "%00", "a\0b", "*", "~", "/", "a/b", "\"';--", "ü", &"x".repeat(300), &"😀".repeat(80)];
    let all = Queue::with_storage(storage.clone(), "hostile \0:%~").unwrap();
    for (n, name) in names.iter().enumerate() {
        all.enqueue(name, &n).id(*name).group(*name).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        all.append(name, &n).await.unwrap();
        all.heartbeat(name, name, name, Some(name), LONG).await.unwrap();
        all.switch_off("host", name, name).await.unwrap();
    }
    for (n, name) in names.iter().enumerate() {
        let message = claim(&all, name).await;
        assert_eq!((message.id.as_str(), message.decode::<usize>().unwrap()), (*name, n));
        all.complete_with_event(&message, name, &n).await.unwrap();
        assert_eq!(all.get(name).await.unwrap().expect("remembered").id, *name);
        assert_eq!(all.events(name, 0, 9).await.unwrap().len(), 2, "{name:?}");
        let workers = all.workers(name).await.unwrap();
        assert_eq!(workers.len(), 1, "{name:?}");
        assert_eq!((workers[0].worker.as_str(), workers[0].info.as_deref()), (*name, Some(*name)));
        assert!(!all.is_on("host", name).await.unwrap());
        claim_none(&all, name).await;
    }
    assert_eq!(all.switches().await.unwrap().len(), names.len());
}

pub async fn a_delayed_message_is_not_claimed_before_its_time(storage: AnyStorage) {
    let queue = queue(&storage);
    let now = storage.now().await.unwrap();
    queue.enqueue("q", &1).run_in(LONG).id("delayed").await.unwrap();
    queue.enqueue("q", &2).run_at(now + TimeDelta::hours(1)).await.unwrap();
    claim_none(&queue, "q").await;
    let info = queue.get("delayed").await.unwrap().expect("it is there");
    assert_eq!(info.state, MessageState::Queued);
    assert!(info.run_at.is_some_and(|time| time > now + TimeDelta::minutes(9)));
    queue.enqueue("q", &3).run_at(now - TimeDelta::hours(1)).await.unwrap();
    assert_eq!(claim(&queue, "q").await.body.get(), "3");
}

pub async fn what_cannot_be_stored_is_refused(storage: AnyStorage) {
    let small = Queue::builder().namespace("small").max_payload_bytes(100).with_storage(storage.clone()).unwrap();
    let error = small.enqueue("q", &"x".repeat(100)).await.unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { .. }), "{error}");
    let queue = queue(&storage);
    let error = NewMessage::from_json("{").unwrap_err().to_string();
    assert!(error.contains("is no JSON"), "{error}");
    let unwritable: std::collections::HashMap<(i32, i32), i32> = [((1, 2), 3)].into();
    let error = queue.enqueue("q", &unwritable).await.unwrap_err();
    assert!(matches!(error, Error::InvalidMessage { .. }), "{error}");
    let error = queue.enqueue("q", &"x".repeat(9_000_000)).await.unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { .. }), "{error}");
    let error = queue.enqueue("q", &1).max_attempts(0).await.unwrap_err();
    assert!(matches!(error, Error::InvalidJob { .. }), "{error}");
    let error = queue.claim("q", "w").lease(Duration::from_hours(24 * 31)).one().await.unwrap_err();
    assert!(error.to_string().contains("30 days"), "{error}");
    assert_eq!(queue.counts("q").await.unwrap().ready, 0);
}
