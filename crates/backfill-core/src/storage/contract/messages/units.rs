//! Cases about units.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;

use super::super::{Subject, add, add_one, must_read, read, register};
use super::{
    LINE, LONG, apply, depth, document, json, key, lease, lease_one, message, messages, must_apply, new_job, number,
    refused,
};
use crate::error::Error;
use crate::job::JobSpec;
use crate::storage::messages::{
    Applied, DocumentChange, DocumentKey, Expect, Hold, Holder, MAX_DOCUMENT_BYTES, MAX_KEY_BYTES, NewEvent, Refusal,
    Take, Unit,
};
use crate::storage::{Outcome, Settlement, Then, WorkerId};

/// Whatever stands in its way, nothing of it is done.
pub async fn a_unit_is_done_as_a_whole_or_not_at_all(storage: Subject) {
    add(&storage, vec![message(1), message(2)]).await;
    let taken = lease(&storage, LINE, 2, LONG).await;
    let whole = |expect| {
        Unit::new()
            .expect(expect)
            .change(DocumentChange::put(key("d"), json("stored")))
            .settle(taken[0].hold.clone(), Outcome::completed())
            .settle(taken[1].hold.clone(), Outcome::requeued(Duration::ZERO))
            .adding([new_job(JobSpec::new("next", 3)), new_job(JobSpec::new("next", 4))])
            .event(NewEvent::new("s", json("happened")))
    };
    let nothing_was_done = async || {
        assert_eq!(document(&storage, "d").await, None);
        assert_eq!(messages(&storage).events("s", 0, 9).await.expect("events"), []);
        assert_eq!(depth(&storage).await[2], 2);
        assert_eq!(messages(&storage).depths(&["next".to_owned()], 9).await.expect("depths")[0].ready, 0);
    };
    let refusal = refused(&storage, whole(Expect::version(key("other"), 7))).await;
    assert_eq!(refusal, Refusal::Document { key: key("other"), found: None });
    nothing_was_done().await;
    let stranger = WorkerId::random();
    let owned = DocumentChange::put(key("e"), json(0)).owned_by(stranger.clone());
    let unit = whole(Expect::absent(key("other"))).change(owned);
    assert_eq!(refused(&storage, unit).await, Refusal::Owner { worker: stranger });
    nothing_was_done().await;
    let gone = add_one(&storage, JobSpec::new("gone", 1)).await;
    let gone_hold = lease(&storage, "gone", 1, LONG).await.remove(0).hold;
    must_apply(&storage, Unit::new().settle(gone_hold.clone(), Outcome::completed())).await;
    let unit = whole(Expect::absent(key("other"))).settle(gone_hold, Outcome::completed());
    assert_eq!(refused(&storage, unit).await, Refusal::Hold { id: gone.id });
    nothing_was_done().await;

    let done = must_apply(&storage, whole(Expect::absent(key("d")))).await;
    assert_eq!(done.added.iter().map(number).collect::<Vec<_>>(), [3, 4]);
    let stored = document(&storage, "d").await.expect("stored");
    assert_eq!((stored.value, &done.versions), (json("stored"), &vec![Some(stored.version)]));
    let events = messages(&storage).events("s", 0, 9).await.expect("events");
    assert_eq!(events.iter().map(|event| event.position).collect::<Vec<_>>(), done.positions);
    assert_eq!((events[0].payload.clone(), events[0].stream.as_str()), (json("happened"), "s"));
    assert_eq!(read(&storage, taken[0].id).await, None);
    assert_eq!(depth(&storage).await, [1, 0, 0]);
    assert_eq!(must_read(&storage, done.added[1].id).await, done.added[1]);
}

/// What an earlier unit of a call did is seen by the later ones; what was refused is not.
pub async fn units_are_judged_in_order_and_independently(storage: Subject) {
    add(&storage, vec![message(1), message(2)]).await;
    let taken = lease(&storage, LINE, 2, LONG).await;
    let put = |value: u32| Unit::new().change(DocumentChange::put(key("d"), json(value)));
    let units = [
        put(1).expect(Expect::absent(key("d"))),
        put(2).expect(Expect::absent(key("d"))),
        Unit::new().settle(taken[0].hold.clone(), Outcome::completed()),
        put(3).settle(taken[0].hold.clone(), Outcome::completed()),
        put(4).settle(taken[1].hold.clone(), Outcome::completed()).event(NewEvent::new("s", json(4))),
        Unit::new().change(DocumentChange::remove(key("d"))),
        put(5).expect(Expect::absent(key("d"))),
        Unit::new(),
    ];
    let applied = messages(&storage).apply(&units).await.expect("apply");
    let done: Vec<bool> = applied.iter().map(Applied::is_done).collect();
    assert_eq!(done, [true, false, true, false, true, true, true, true]);
    let first = applied[0].clone().done().expect("done").versions[0];
    assert_eq!(applied[1], Applied::Refused(Refusal::Document { key: key("d"), found: first }));
    assert_eq!(applied[3], Applied::Refused(Refusal::Hold { id: taken[0].id }));
    let stored = document(&storage, "d").await.expect("stored");
    assert_eq!(stored.value, json(5));
    assert_eq!(Some(stored.version), applied[6].clone().done().expect("done").versions[0]);
    assert!(Some(stored.version) > first);
    assert_eq!(messages(&storage).apply(&[]).await.expect("apply"), []);
    // With its version it may be changed.
    must_apply(&storage, put(6).expect(Expect::version(key("d"), stored.version))).await;
    let refusal = refused(&storage, put(7).expect(Expect::version(key("d"), stored.version))).await;
    assert!(matches!(refusal, Refusal::Document { found: Some(found), .. } if found > stored.version), "{refusal:?}");
}

/// As after a lost answer: one event, one follower, however often it is repeated.
pub async fn a_unit_that_was_done_is_refused_when_it_is_sent_again(storage: Subject) {
    add_one(&storage, message(1)).await;
    let taken = lease_one(&storage, LONG).await;
    let unit = Unit::new()
        .settle(taken.hold.clone(), Outcome::completed())
        .adding([new_job(message(2))])
        .event(NewEvent::new("s", json(1)));
    must_apply(&storage, unit.clone()).await;
    for _ in 0..3 {
        assert_eq!(refused(&storage, unit.clone()).await, Refusal::Hold { id: taken.id });
    }
    assert_eq!(messages(&storage).events("s", 0, 9).await.expect("events").len(), 1);
    assert_eq!(depth(&storage).await, [1, 0, 0]);
}

/// 8 at a time, 25 each, all with an event in one stream: no counter makes them conflict.
pub async fn parallel_units_on_different_messages_all_succeed(storage: Subject) {
    add(&storage, (0..200).map(message).collect()).await;
    let taken = lease(&storage, LINE, 200, LONG).await;
    let mut parallel = JoinSet::new();
    for part in taken.chunks(25) {
        let (storage, part) = (storage.clone(), part.to_vec());
        parallel.spawn(async move {
            for job in part {
                let unit = Unit::new()
                    .settle(job.hold.clone(), Outcome::completed())
                    .change(DocumentChange::put(key(&format!("of-{}", job.id)), json(0)))
                    .event(NewEvent::new("s", json(number(&job))));
                must_apply(&storage, unit).await;
            }
        });
    }
    parallel.join_all().await;
    let events = messages(&storage).events("s", 0, 999).await.expect("events");
    assert_eq!(events.len(), 200);
    assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert_eq!(depth(&storage).await, [0, 0, 0]);
}

/// Eight send the same unit: one is done. (The others may be told that it is busy, and ask again.)
pub async fn two_who_settle_one_message_get_one_answer_each(storage: Subject) {
    for round in 0..10 {
        add_one(&storage, message(round)).await;
        let taken = lease_one(&storage, LONG).await;
        let unit = Unit::new().settle(taken.hold.clone(), Outcome::completed()).event(NewEvent::new("s", json(round)));
        let mut racers = JoinSet::new();
        for _ in 0..8 {
            let (storage, unit) = (storage.clone(), unit.clone());
            racers.spawn(async move {
                loop {
                    match apply(&storage, unit.clone()).await {
                        Applied::Refused(Refusal::Busy { .. }) => tokio::task::yield_now().await,
                        applied => return applied.is_done(),
                    }
                }
            });
        }
        assert_eq!(racers.join_all().await.into_iter().filter(|done| *done).count(), 1);
    }
    assert_eq!(messages(&storage).events("s", 0, 99).await.expect("events").len(), 10);
}

/// Failing, dying, snoozing, releasing: as by a worker's settlement.
pub async fn every_outcome_can_be_part_of_a_unit(storage: Subject) {
    let added = add(&storage, (0..5).map(|n| message(n).max_attempts(3)).collect()).await;
    let taken = lease(&storage, LINE, 5, LONG).await;
    let outcomes = [
        Outcome::failed("no", Duration::from_mins(5)),
        Outcome::dead("never"),
        Outcome::snoozed(LONG),
        Outcome::Released,
        Outcome::failed("some are left", Duration::ZERO).left(Some(json([7]))),
    ];
    let units: Vec<Unit> =
        taken.iter().zip(outcomes).map(|(job, outcome)| Unit::new().settle(job.hold.clone(), outcome)).collect();
    let applied = messages(&storage).apply(&units).await.expect("apply");
    assert!(applied.iter().all(Applied::is_done), "{applied:?}");
    let mut jobs = Vec::new();
    for job in &added {
        jobs.push(must_read(&storage, job.id).await);
    }
    assert_eq!(jobs.iter().map(|job| job.attempts).collect::<Vec<_>>(), [1, 3, 0, 0, 1]);
    assert!(jobs.iter().all(|job| job.locked_by.is_none() && job.locked_at.is_none()));
    let errors: Vec<Option<&str>> = jobs.iter().map(|job| job.last_error.as_deref()).collect();
    assert_eq!(errors, [Some("no"), Some("never"), None, None, Some("some are left")]);
    let waits = |n: usize| jobs[n].run_at - added[n].run_at;
    assert!(waits(0) >= TimeDelta::minutes(5) && waits(2) >= TimeDelta::minutes(10));
    assert_eq!((waits(1), waits(3)), (TimeDelta::zero(), TimeDelta::zero()));
    assert_eq!((&jobs[4].payload, &jobs[0].payload), (&json([7]), &added[0].payload));
}

/// Each unit's jobs are a batch of their own.
pub async fn keys_of_two_units_of_one_call_may_be_equal(storage: Subject) {
    let keyed = |n: i64| Unit::new().adding([new_job(message(n).key("k")), new_job(message(n + 100))]);
    let applied = messages(&storage).apply(&[keyed(1), keyed(2)]).await.expect("apply");
    let added: Vec<_> = applied.into_iter().filter_map(Applied::done).map(|done| done.added).collect();
    assert_eq!(added[0][0].id, added[1][0].id, "the second one replaces the first");
    assert_eq!((number(&added[1][0]), number(&added[1][1])), (2, 102));
    assert_eq!(depth(&storage).await, [3, 0, 0]);
}

/// Whoever has it: one that waits, one that is held, one of this call.
pub async fn a_key_that_no_job_may_have_is_free_once_its_job_has_ended(storage: Subject) {
    let unit = |n| Unit::new().expect_no_job("k").adding([new_job(message(n).key("k"))]);
    let other = Unit::new().expect_no_job("other").adding([new_job(message(9).key("k2"))]);
    let applied = messages(&storage).apply(&[unit(1), unit(2), other]).await.expect("apply");
    assert!(applied[0].is_done() && applied[2].is_done(), "{applied:?}");
    assert_eq!(applied[1], Applied::Refused(Refusal::Key { key: "k".to_owned() }));
    assert_eq!(refused(&storage, unit(3)).await, Refusal::Key { key: "k".to_owned() });
    let taken = lease(&storage, LINE, 1, LONG).await.remove(0);
    assert_eq!((number(&taken), taken.key.as_deref()), (1, Some("k")));
    assert_eq!(refused(&storage, unit(4)).await, Refusal::Key { key: "k".to_owned() });
    let ends = Unit::new().settle(taken.hold.clone(), Outcome::completed());
    let applied = messages(&storage).apply(&[ends, unit(5), unit(6)]).await.expect("apply");
    assert!(applied[0].is_done() && applied[1].is_done() && !applied[2].is_done(), "{applied:?}");
    assert_eq!(depth(&storage).await, [2, 0, 0]);
}

/// What was written beside it is told as written.
pub async fn a_result_that_is_refused_takes_no_other_with_it(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, vec![message(1), message(2), message(3)]).await;
    let lines = [(LINE.to_owned(), 3)];
    let taken = messages(&storage).take(&Take::new(Holder::Worker(&worker), &lines)).await.expect("take").jobs;
    let settlement = |n: usize, document| {
        let Hold::Claim { claim, .. } = &taken[n].hold else { panic!("{:?}", taken[n].hold) };
        let mut then = Then::default();
        then.documents.push(document);
        Settlement::new(claim.clone(), Outcome::completed()).then(then)
    };
    let put = |name: &str| DocumentChange::put(key(name), json(1));
    let of_nobody = put("c").owned_by(WorkerId::random());
    let batch = [settlement(0, put("a")), settlement(1, of_nobody), settlement(2, put("b"))];
    let settled = storage.settle(&worker, &batch).await.expect("two can be written");
    assert_eq!(settled.applied, [taken[0].id, taken[2].id]);
    assert_eq!(settled.busy, [taken[1].id], "it is to be sent again");
    assert!(storage.settle(&worker, &batch[1..2]).await.is_err(), "and by itself it is refused");
    assert_eq!(depth(&storage).await, [0, 0, 1]);
}

/// With the value; and the other units of the call are not done either.
pub async fn what_no_storage_can_do_is_refused_before_anything_is_written(storage: Subject) {
    let worker = register(&storage).await;
    let job = add_one(&storage, message(1)).await;
    let hold = lease_one(&storage, LONG).await.hold;
    let put = |kind: &str, name: &str, bytes: usize| {
        Unit::new().change(DocumentChange::put(DocumentKey::new(kind, name), json("x".repeat(bytes))))
    };
    let claimed =
        Hold::Claim { worker, claim: crate::storage::ClaimRef::new(&job, crate::storage::ClaimToken::from_number(1)) };
    let wrong = [
        put("", "k", 1),
        put(&"k".repeat(129), "k", 1),
        put("k", &"k".repeat(MAX_KEY_BYTES + 1), 1),
        put("k", "a\0b", 1),
        put("k", "k", MAX_DOCUMENT_BYTES),
        put("k", "k", 1).change(DocumentChange::remove(DocumentKey::new("k", "k"))),
        Unit::new().expect(Expect::absent(DocumentKey::new("k", "\0"))),
        Unit::new().event(NewEvent::new("", json(1))),
        Unit::new().event(NewEvent::new("a\0", json(1))),
        Unit::new().event(NewEvent::new("s", json("x".repeat(9_000_000)))),
        Unit::new().settle(hold, Outcome::completed()).settle(claimed, Outcome::completed()),
    ];
    for unit in wrong {
        let error = messages(&storage).apply(&[put("fine", "k", 1), unit]).await.expect_err("it cannot be done");
        assert!(matches!(error, Error::InvalidMessage { .. }), "{error}");
    }
    let twice = Unit::new().adding([new_job(message(1).key("k")), new_job(message(2).key("k"))]);
    let error = messages(&storage).apply(&[put("fine", "k", 1), twice]).await.expect_err("it cannot be done");
    assert!(matches!(error, Error::DuplicateKey { .. }), "{error}");
    assert_eq!(messages(&storage).documents("fine", "", None, 9).await.expect("documents"), []);
}
