//! Cases about documents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::heartbeat::let_time_pass;
use super::super::{Subject, add, admin, register};
use super::{LINE, LONG, apply, document, json, key, message, messages, must_apply, refused};
use crate::storage::messages::{Applied, DocumentChange, DocumentKey, Expect, Holder, Refusal, Take, Unit};
use crate::storage::{Outcome, Watch};

fn put(name: &str, value: impl serde::Serialize) -> DocumentChange {
    DocumentChange::put(key(name), json(value))
}

/// 16 at once: one finds it absent.
pub async fn one_of_many_racers_stores_a_document_that_was_absent(storage: Subject) {
    for round in 0..5 {
        let name = format!("race {round}");
        let mut racers = JoinSet::new();
        for n in 0..16 {
            let (storage, name) = (storage.clone(), name.clone());
            racers.spawn(async move {
                let unit = Unit::new().expect(Expect::absent(key(&name))).change(put(&name, n));
                (n, apply(&storage, unit).await)
            });
        }
        let answers = racers.join_all().await;
        let winners: Vec<i32> = answers.iter().filter(|(_, applied)| applied.is_done()).map(|(n, _)| *n).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let stored = document(&storage, &name).await.expect("stored");
        assert_eq!(stored.value, json(winners[0]));
        for (_, applied) in answers.into_iter().filter(|(_, applied)| !applied.is_done()) {
            let refusal = Refusal::Document { key: key(&name), found: Some(stored.version) };
            assert_eq!(applied, Applied::Refused(refusal));
        }
    }
}

/// So whoever remembers a version never meets it again.
pub async fn versions_rise_also_after_a_removal(storage: Subject) {
    let mut last = 0;
    for n in 0..6 {
        let done = must_apply(&storage, Unit::new().change(put("d", n))).await;
        let version = done.versions[0].expect("stored");
        assert!(version > last);
        last = version;
        if n % 2 == 0 {
            let done = must_apply(&storage, Unit::new().change(DocumentChange::remove(key("d")))).await;
            assert_eq!((done.versions, document(&storage, "d").await), (vec![None], None));
        }
    }
    // To remove what is not there does nothing.
    must_apply(&storage, Unit::new().change(DocumentChange::remove(key("nobody's")))).await;
}

/// By bytes, whatever the language; page by page; other kinds are others.
pub async fn documents_are_read_by_their_beginning_in_order(storage: Subject) {
    let names = ["a", "a/1", "a/10", "a/2", "a/ä", "a0", "b", "A", "a/%", "a/_x", ""];
    let mut unit = Unit::new().change(DocumentChange::put(DocumentKey::new("kinder", "a/3"), json(0)));
    for name in names {
        unit = unit.change(put(name, name));
    }
    must_apply(&storage, unit).await;
    let read = async |prefix: &str, after: Option<&str>, limit| {
        let found = messages(&storage).documents("kind", prefix, after, limit).await.expect("documents");
        found.into_iter().map(|document| document.key.key).collect::<Vec<_>>()
    };
    let mut all = names;
    all.sort_unstable();
    assert_eq!(read("", None, 99).await, all);
    assert_eq!(read("a/", None, 99).await, ["a/%", "a/1", "a/10", "a/2", "a/_x", "a/ä"]);
    assert_eq!(read("a/", None, 2).await, ["a/%", "a/1"]);
    assert_eq!(read("a/", Some("a/1"), 3).await, ["a/10", "a/2", "a/_x"]);
    assert_eq!(read("a/%", None, 9).await, ["a/%"]);
    assert_eq!(read("c", None, 9).await, Vec::<String>::new());
    assert_eq!(read("", Some("b"), 9).await, Vec::<String>::new());
}

/// For readers, for expectations, for what it forbids; and it is swept.
pub async fn an_expired_document_is_absent(storage: Subject) {
    must_apply(&storage, Unit::new().change(put("d", 1).lasting(Duration::ZERO)).change(put("e", 1).lasting(LONG)))
        .await;
    assert_eq!(document(&storage, "d").await, None);
    let until = document(&storage, "e").await.expect("stored").until.expect("it ends");
    assert!(until > storage.now().await.expect("the time"));
    add(&storage, vec![message(1)]).await;
    let (lines, stop) = ([(LINE.to_owned(), 1)], [key("d")]);
    let request = Take::new(Holder::Lease { name: "", lasts: Duration::ZERO }, &lines).unless(&stop);
    assert_eq!(messages(&storage).take(&request).await.expect("take").jobs.len(), 1);
    assert_eq!(messages(&storage).sweep_documents(99).await.expect("sweep"), 1);
    assert_eq!(messages(&storage).sweep_documents(99).await.expect("sweep"), 0);
    must_apply(&storage, Unit::new().change(put("d", 2).lasting(Duration::ZERO))).await;
    let done = must_apply(&storage, Unit::new().expect(Expect::absent(key("d"))).change(put("d", 3))).await;
    assert_eq!(document(&storage, "d").await.map(|document| document.version), done.versions[0]);
    assert!(document(&storage, "e").await.is_some());
}

/// When it deregisters, is rescued or unlocked; others' stay.
pub async fn documents_go_with_their_owner(storage: Subject) {
    let (stays, leaves, dies, is_unlocked) =
        (register(&storage).await, register(&storage).await, register(&storage).await, register(&storage).await);
    for (name, owner) in [("stays", &stays), ("leaves", &leaves), ("dies", &dies), ("unlocked", &is_unlocked)] {
        must_apply(&storage, Unit::new().change(put(name, 1).owned_by(owner.clone()))).await;
        assert_eq!(document(&storage, name).await.and_then(|document| document.owner).as_ref(), Some(owner));
    }
    must_apply(&storage, Unit::new().change(put("nobody's", 1))).await;
    storage.deregister(&leaves).await.expect("deregister");
    admin(&storage).unlock(&[is_unlocked.to_string()]).await.expect("unlock");
    let_time_pass().await;
    storage.heartbeat(&stays).await.expect("heartbeat");
    let gone = storage.rescue(&Watch::new(Duration::from_millis(3))).await.expect("rescue");
    assert!(gone.iter().any(|rescued| rescued.worker == dies.as_str()), "{gone:?}");
    let left = messages(&storage).documents("kind", "", None, 9).await.expect("documents");
    let left: Vec<&str> = left.iter().map(|document| document.key.key.as_str()).collect();
    assert!(left == ["nobody's", "stays"] || (gone.len() > 1 && left == ["nobody's"]), "{left:?} {gone:?}");
    let unit = Unit::new().change(put("dies", 1).owned_by(dies.clone()));
    assert_eq!(refused(&storage, unit).await, Refusal::Owner { worker: dies });
}

/// A switch that says off: when the call that says so has returned, eight takers get nothing more, whatever was under way.
pub async fn nothing_is_taken_once_a_document_forbids_it(storage: Subject) {
    add(&storage, (0..40).map(message).collect()).await;
    // Odd while it is off: from when that was told until it is about to be switched on.
    let (switch, taken, end) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut takers = JoinSet::new();
    for _ in 0..8 {
        let (storage, switch, taken, end) = (storage.clone(), switch.clone(), taken.clone(), end.clone());
        takers.spawn(async move {
            let (lines, stop) = ([(LINE.to_owned(), 1)], [key("off")]);
            while !end.load(Ordering::SeqCst) {
                let request = Take::new(Holder::Lease { name: "", lasts: LONG }, &lines).unless(&stop);
                let before = switch.load(Ordering::SeqCst);
                let answer = messages(&storage).take(&request).await.expect("take");
                if before % 2 == 1 && switch.load(Ordering::SeqCst) == before {
                    assert!(answer.jobs.is_empty(), "something was taken while it was off");
                    assert_eq!(answer.stopped_by.as_ref(), Some(&stop[0]));
                }
                for job in answer.jobs {
                    // `Released` moves nothing in the line.
                    apply(&storage, Unit::new().settle(job.hold, Outcome::Released)).await;
                    taken.fetch_add(1, Ordering::SeqCst);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..20 {
        let before = taken.load(Ordering::SeqCst);
        while taken.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        must_apply(&storage, Unit::new().change(put("off", round))).await;
        switch.fetch_add(1, Ordering::SeqCst);
        // What was taken before comes back, and nothing is taken any more: so once all of it is there, it stays.
        while super::depth(&storage).await != [40, 0, 0] {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            assert_eq!(super::depth(&storage).await, [40, 0, 0], "something was taken while it was off");
        }
        switch.fetch_add(1, Ordering::SeqCst);
        must_apply(&storage, Unit::new().change(DocumentChange::remove(key("off")))).await;
    }
    end.store(true, Ordering::SeqCst);
    takers.join_all().await;
}
