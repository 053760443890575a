//! Cases about lines.

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use futures::StreamExt;
use tokio::task::JoinSet;

use super::super::{Subject, add, add_one, read, register};
use super::{
    LINE, LONG, apply, depth, in_line, lease, lease_one, message, messages, must_apply, new_job, number, numbers,
    receipt, refused,
};
use crate::error::Error;
use crate::job::JobSpec;
use crate::storage::messages::{DocumentKey, Hold, Holder, MAX_LEASE, News, Purge, Refusal, Take, Unit};
use crate::storage::{ClaimRequest, Outcome, Registration, WorkerId};

/// Each line gets its own number; an empty or unknown one costs no other.
pub async fn a_take_gives_each_line_its_own_number(storage: Subject) {
    let specs = ["a", "b", "a", "c", "a", "b"].into_iter().enumerate().map(|(n, line)| JobSpec::new(line, n));
    add(&storage, specs.collect()).await;
    let lines = [("b", 5), ("nobody's", 9), ("a", 2), ("c", 0)].map(|(line, limit)| (line.to_owned(), limit));
    let request = Take::new(Holder::Lease { name: "me", lasts: LONG }, &lines);
    let taken = messages(&storage).take(&request).await.expect("take");
    let told: Vec<(&str, i64)> = taken.jobs.iter().map(|job| (job.task.as_str(), number(job))).collect();
    assert_eq!(told, [("b", 1), ("b", 5), ("a", 0), ("a", 2)]);
    for job in &taken.jobs {
        assert!(job.locked_by.as_deref().is_some_and(|holder| holder.ends_with(":me")), "{:?}", job.locked_by);
        assert_eq!((job.attempts, receipt(job).number, receipt(job).id), (1, 1, job.id));
        let stored = read(&storage, job.id).await.expect("it is there");
        assert_eq!(stored, job.job, "what is told is what is stored");
        let now = storage.now().await.expect("the time");
        let until = job.locked_at.expect("held") - now;
        assert!(until > TimeDelta::minutes(9) && until <= TimeDelta::minutes(10), "{until}");
    }
}

/// By priority, then time, then id; what is not ready yet is not taken.
pub async fn a_line_is_taken_in_its_order(storage: Subject) {
    let now = storage.now().await.expect("the time");
    let specs = [
        message(3),
        message(2).run_at(now - TimeDelta::minutes(5)),
        message(1).priority(-1).run_at(now - TimeDelta::seconds(1)),
        message(0).priority(-7),
        message(9).run_in(LONG),
        message(9).priority(-9).run_in(LONG),
        message(4).priority(5).run_at(now - TimeDelta::minutes(50)),
        JobSpec::new("elsewhere", 9).priority(-100),
    ];
    add(&storage, specs.into()).await;
    let long_ago = storage.now().await.expect("the time") - TimeDelta::minutes(2);
    let lines = [(LINE.to_owned(), 10)];
    let request = Take::new(Holder::Lease { name: "", lasts: LONG }, &lines).ready_by(Some(long_ago));
    let early = messages(&storage).take(&request).await.expect("take").jobs;
    assert_eq!(numbers(&early), [2, 4], "what was ready two minutes ago");
    for job in early {
        must_apply(&storage, Unit::new().settle(job.hold, Outcome::requeued(Duration::ZERO))).await;
    }
    assert_eq!(numbers(&lease(&storage, LINE, 2, LONG).await), [0, 1]);
    assert_eq!(numbers(&lease(&storage, LINE, 10, LONG).await), [2, 3, 4]);
    assert_eq!(depth(&storage).await, [0, 2, 5]);
}

/// Thousands of delayed messages before one that is ready do not hide it.
pub async fn delayed_messages_cost_a_take_nothing(storage: Subject) {
    add(&storage, (0..2_000).map(|n| message(n).priority(-1).run_in(LONG)).collect()).await;
    add(&storage, vec![message(-1), message(-2).priority(3)]).await;
    assert_eq!(numbers(&lease(&storage, LINE, 10, LONG).await), [-1, -2]);
    assert_eq!(numbers(&in_line(&storage, 10, LONG).await), Vec::<i64>::new());
}

/// Bytes are counted over all lines; one message is taken always.
pub async fn a_take_is_bounded_by_bytes(storage: Subject) {
    let body = "x".repeat(1_000);
    let specs = (0..6).map(|n| JobSpec::new(if n % 2 == 0 { "a" } else { "b" }, &body));
    add(&storage, specs.collect()).await;
    let lines = [("a".to_owned(), 10), ("b".to_owned(), 10)];
    let holder = Holder::Lease { name: "", lasts: LONG };
    for (bytes, expected) in [(2_100, 2), (10, 1), (usize::MAX, 3)] {
        let taken = messages(&storage).take(&Take::new(holder, &lines).max_bytes(bytes)).await.expect("take");
        assert_eq!(taken.jobs.len(), expected, "{bytes}");
    }
}

/// 8 takers and 320 messages: each is taken once.
pub async fn each_message_is_taken_by_one_of_many_takers(storage: Subject) {
    add(&storage, (0..320).map(message).collect()).await;
    let mut takers = JoinSet::new();
    for n in 0..8 {
        let storage = storage.clone();
        takers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let taken = lease(&storage, LINE, 1 + n, LONG).await;
                if taken.is_empty() {
                    // Others may be between looking and locking.
                    if depth(&storage).await[0] == 0 {
                        return mine;
                    }
                    tokio::task::yield_now().await;
                }
                mine.extend(numbers(&taken));
            }
        });
    }
    let all = takers.join_all().await.concat();
    assert_eq!(all.len(), 320);
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 320);
}

/// By a worker: it must be registered, and its holds are its claims.
pub async fn a_worker_takes_by_lines_only_while_it_is_registered(storage: Subject) {
    add(&storage, vec![message(1), message(2), message(3)]).await;
    let lines = [(LINE.to_owned(), 2)];
    let stranger = WorkerId::random();
    let taken = messages(&storage).take(&Take::new(Holder::Worker(&stranger), &lines)).await.expect("take");
    assert!(taken.jobs.is_empty());
    let worker = register(&storage).await;
    let taken = messages(&storage).take(&Take::new(Holder::Worker(&worker), &lines)).await.expect("take").jobs;
    assert_eq!(numbers(&taken), [1, 2]);
    assert!(matches!(&taken[0].hold, Hold::Claim { worker: told, .. } if *told == worker));
    let stored = read(&storage, taken[0].id).await.expect("it is there");
    assert_eq!(stored, taken[0].job);
    must_apply(&storage, Unit::new().settle(taken[0].hold.clone(), Outcome::completed())).await;
    // The other one by the worker's own verb.
    let Hold::Claim { claim, .. } = &taken[1].hold else { panic!("a claim was asked for") };
    let settlement = crate::storage::Settlement::new(claim.clone(), Outcome::completed());
    let settled = storage.settle(&worker, &[settlement]).await.expect("settle");
    assert_eq!(settled.applied, [taken[1].id]);
    assert_eq!(depth(&storage).await, [1, 0, 0]);
    // What a worker that is gone held is no more its own.
    let taken = messages(&storage).take(&Take::new(Holder::Worker(&worker), &lines)).await.expect("take").jobs;
    storage.deregister(&worker).await.expect("deregister");
    let hold = taken[0].hold.clone();
    let unit = Unit::new().settle(hold, Outcome::completed());
    assert_eq!(refused(&storage, unit).await, Refusal::Hold { id: taken[0].id });
}

/// Without `in_line` a queue is held as by a claim, whoever holds it.
pub async fn a_serial_queue_gives_one_message_at_a_time_to_leases_and_workers(storage: Subject) {
    add(&storage, (0..3).map(|n| message(n).serial_queue("q")).collect()).await;
    let first = lease(&storage, LINE, 10, LONG).await;
    assert_eq!(numbers(&first), [0]);
    assert!(lease(&storage, LINE, 10, LONG).await.is_empty());
    let worker = WorkerId::random();
    let tasks = [LINE.to_owned()];
    assert!(storage.register(&Registration::new(&worker, &tasks)).await.expect("register"));
    let request = ClaimRequest::new(&worker, &tasks, 10).full_scan(true);
    assert!(storage.claim(&request).await.expect("claim").jobs.is_empty());
    // A renewal keeps the queue, too.
    assert_eq!(messages(&storage).renew(&[(receipt(&first[0]), LONG)]).await.expect("renew"), [first[0].id]);
    must_apply(&storage, Unit::new().settle(first[0].hold.clone(), Outcome::completed())).await;
    let second = storage.claim(&request).await.expect("claim").jobs;
    assert_eq!(second.iter().map(|job| number(&job.job)).collect::<Vec<_>>(), [1]);
    assert!(lease(&storage, LINE, 10, LONG).await.is_empty());
    super::super::settle(&storage, &worker, &second[0], Outcome::completed()).await;
    let third = lease(&storage, LINE, 10, Duration::ZERO).await;
    assert_eq!(numbers(&third), [2]);
    assert_eq!(messages(&storage).end_leases(None).await.expect("end").jobs, [third[0].id]);
    assert_eq!(numbers(&lease(&storage, LINE, 10, LONG).await), [2], "the queue is free again");
}

/// Counts, and what they say when there is more than was counted.
pub async fn depths_tell_what_is_ready_delayed_and_held(storage: Subject) {
    add(&storage, (0..12).map(message).collect()).await;
    add(&storage, (0..3).map(|n| message(n).run_in(LONG)).collect()).await;
    let taken = lease(&storage, LINE, 5, LONG).await;
    // Whatever happened to a message before, it is ready.
    let unit = Unit::new().settle(taken[0].hold.clone(), Outcome::failed("no", Duration::ZERO));
    must_apply(&storage, unit).await;
    let lines = [LINE.to_owned(), "empty".to_owned()];
    let depths = messages(&storage).depths(&lines, 8).await.expect("depths");
    assert_eq!((depths[0].line.as_str(), depths[0].ready, depths[0].delayed, depths[0].held), (LINE, 8, 3, 4));
    assert!(depths[0].exact);
    assert_eq!((depths[1].ready, depths[1].delayed, depths[1].held, depths[1].exact), (0, 0, 0, true));
    let depths = messages(&storage).depths(&lines, 7).await.expect("depths");
    assert_eq!((depths[0].ready, depths[0].exact), (7, false));
}

/// In order, as stored; nothing is counted or held.
pub async fn peek_shows_the_head_and_changes_nothing(storage: Subject) {
    let added = add(&storage, vec![message(2), message(1).priority(-1), message(3), message(9).run_in(LONG)]).await;
    let seen = messages(&storage).peek(LINE, 2).await.expect("peek");
    assert_eq!(seen, [added[1].clone(), added[0].clone()]);
    assert_eq!(depth(&storage).await, [3, 1, 0]);
    assert!(messages(&storage).peek("empty", 2).await.expect("peek").is_empty());
}

/// What is ready, what was ready before a moment, or everything.
pub async fn purge_deletes_what_it_is_told(storage: Subject) {
    let now = storage.now().await.expect("the time");
    let old = |n: i64| message(n).run_at(now - TimeDelta::hours(n));
    add(&storage, vec![old(1), old(2), old(3), message(9).run_in(LONG), JobSpec::new("other", 1)]).await;
    let purge = async |what| messages(&storage).purge(LINE, what).await.expect("purge");
    assert_eq!(purge(Purge::ReadyBefore(now - TimeDelta::minutes(90))).await, 2);
    assert_eq!(depth(&storage).await, [1, 1, 0]);
    add(&storage, vec![message(5).serial_queue("q"), message(6).serial_queue("q")]).await;
    let held = lease(&storage, LINE, 2, LONG).await;
    assert_eq!(purge(Purge::Ready).await, 1, "what is held or delayed stays");
    assert_eq!(depth(&storage).await, [0, 1, 2]);
    add(&storage, (0..2_500).map(message).collect()).await;
    assert_eq!(purge(Purge::All).await, 2_503);
    assert_eq!(depth(&storage).await, [0, 0, 0]);
    for job in held {
        let id = job.id;
        assert_eq!(refused(&storage, Unit::new().settle(job.hold, Outcome::completed())).await, Refusal::Hold { id });
    }
    assert_eq!(lease(&storage, "other", 9, LONG).await.len(), 1, "other lines are left alone");
    add_one(&storage, message(7).serial_queue("q")).await;
    assert_eq!(numbers(&lease(&storage, LINE, 2, LONG).await), [7], "the queue of a purged message is free");
}

/// With the value, before anything is taken.
pub async fn what_cannot_be_asked_for_is_refused(storage: Subject) {
    add_one(&storage, message(1)).await;
    let lines = [(LINE.to_owned(), 1)];
    let twice = [(LINE.to_owned(), 1), (LINE.to_owned(), 1)];
    let lease_of = |name, lasts| Holder::Lease { name, lasts };
    let nowhere = [DocumentKey::new("", "k")];
    let too_long = MAX_LEASE + Duration::from_secs(1);
    let requests = [
        Take::new(lease_of("a\0b", LONG), &lines),
        Take::new(lease_of("a", too_long), &lines),
        Take::new(lease_of("a", LONG), &twice),
        Take::new(lease_of("a", LONG), &lines).unless(&nowhere),
    ];
    for request in requests {
        let error = messages(&storage).take(&request).await.expect_err("it cannot be asked for");
        assert!(matches!(error, Error::InvalidMessage { .. }), "{error}");
    }
    let taken = lease_one(&storage, LONG).await;
    let error = messages(&storage).renew(&[(receipt(&taken), too_long)]).await.expect_err("too long");
    assert!(error.to_string().contains("30 days"), "{error}");
}

/// A listener that waits for a line is told of it, by whatever unit.
pub async fn news_name_the_lines_in_which_something_is_ready(storage: Subject) {
    let mut news = messages(&storage).news();
    assert_eq!(news.next().await, Some(News::Listening));
    let mut hears = async |line: &str| loop {
        match news.next().await {
            Some(News::Changed(changes)) if changes.lines.has(line) => return,
            Some(_) => {}
            None => panic!("the stream has ended"),
        }
    };
    must_apply(&storage, Unit::new().adding([new_job(message(1)), new_job(JobSpec::new("other", 1))])).await;
    hears("other").await;
    let taken = lease_one(&storage, Duration::ZERO).await;
    messages(&storage).end_leases(None).await.expect("end");
    hears(LINE).await;
    assert!(!apply(&storage, Unit::new().settle(taken.hold, Outcome::completed())).await.is_done());
    let taken = lease_one(&storage, LONG).await;
    must_apply(&storage, Unit::new().settle(taken.hold, Outcome::requeued(Duration::ZERO))).await;
    hears(LINE).await;
}
