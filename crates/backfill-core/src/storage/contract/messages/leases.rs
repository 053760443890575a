//! Cases about leases.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;

use super::super::heartbeat::let_time_pass;
use super::super::{Subject, add, add_one, admin, must_read, register};
use super::{LINE, LONG, depth, lease, lease_one, message, messages, must_apply, numbers, receipt, refused};
use crate::job::JobSpec;
use crate::storage::messages::{Holder, Refusal, Take, Unit};
use crate::storage::{ClaimRequest, Outcome, Registration, Reschedule, Watch, WorkerId};

/// What an ended lease held is ready where it stood, with its attempt used. What has not ended is left alone.
pub async fn a_lease_ends_at_its_end_and_not_before(storage: Subject) {
    let added = add(&storage, vec![message(1), message(2).serial_queue("q"), message(3)]).await;
    assert_eq!(lease(&storage, LINE, 2, Duration::ZERO).await.len(), 2);
    let long = lease_one(&storage, LONG).await;
    assert_eq!(depth(&storage).await, [0, 0, 3], "an ended lease holds until somebody looks");
    let ended = messages(&storage).end_leases(None).await.expect("end");
    let mut ids = ended.jobs.clone();
    ids.sort_unstable();
    assert_eq!(ids, [added[0].id, added[1].id]);
    let next = ended.next.expect("one is left") - long.locked_at.expect("held");
    assert!(next.is_zero(), "{next}");
    for job in &added[..2] {
        let back = must_read(&storage, job.id).await;
        assert_eq!((back.run_at, back.attempts, back.locked_at, &back.last_error), (job.run_at, 1, None, &None));
    }
    assert_eq!(messages(&storage).end_leases(None).await.expect("end").jobs, []);
    // It ends within a second of its end, whoever looks.
    let short = lease_one(&storage, Duration::from_millis(300)).await;
    loop {
        let ended = messages(&storage).end_leases(Some(&[short.id])).await.expect("end");
        let now = storage.now().await.expect("the time");
        let end = short.locked_at.expect("held");
        if ended.jobs == [short.id] {
            assert!(now >= end && now < end + TimeDelta::seconds(30), "{now} {end}");
            break;
        }
        assert!(ended.next.is_none_or(|next| next == end));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// However many look at the same time.
pub async fn each_ended_lease_is_given_back_once(storage: Subject) {
    add(&storage, (0..200).map(message).collect()).await;
    assert_eq!(lease(&storage, LINE, 200, Duration::ZERO).await.len(), 200);
    let mut sweepers = JoinSet::new();
    for _ in 0..8 {
        let storage = storage.clone();
        sweepers.spawn(async move {
            let mut mine = Vec::new();
            while depth(&storage).await[2] > 0 {
                mine.extend(messages(&storage).end_leases(None).await.expect("end").jobs);
            }
            mine
        });
    }
    let all = sweepers.join_all().await.concat();
    assert_eq!(all.len(), 200);
}

/// A renewal counts from now, may shorten, and never touches another lease of the same message.
pub async fn only_a_standing_lease_is_renewed_and_by_its_receipt(storage: Subject) {
    add_one(&storage, message(1)).await;
    let renew = async |receipt, lasts| messages(&storage).renew(&[(receipt, lasts)]).await.expect("renew");
    let first = lease_one(&storage, Duration::from_mins(1)).await;
    assert_eq!(renew(receipt(&first), LONG).await, [first.id]);
    let longer = must_read(&storage, first.id).await;
    assert!(longer.locked_at > first.locked_at && longer.attempts == 1);
    // To zero is to let it go.
    assert_eq!(renew(receipt(&first), Duration::ZERO).await, [first.id]);
    assert_eq!(renew(receipt(&first), LONG).await, [], "it has ended, though nobody has looked");
    assert_eq!(messages(&storage).end_leases(None).await.expect("end").jobs, [first.id]);
    assert_eq!(renew(receipt(&first), LONG).await, []);
    let second = lease_one(&storage, LONG).await;
    assert_eq!(receipt(&second).number, 2);
    assert_eq!(renew(receipt(&first), Duration::ZERO).await, [], "the first one is not the second");
    assert_eq!(must_read(&storage, first.id).await.locked_at, second.locked_at);
    // A worker's claim is no lease.
    must_apply(&storage, Unit::new().settle(second.hold.clone(), Outcome::requeued(Duration::ZERO))).await;
    let worker = register(&storage).await;
    let tasks = [LINE.to_owned()];
    assert_eq!(storage.claim(&ClaimRequest::new(&worker, &tasks, 1)).await.expect("claim").jobs.len(), 1);
    assert_eq!(renew(receipt(&second), LONG).await, []);
}

/// With `late`: a message whose lease has ended is still its last holder's, as long as nobody has taken it since.
pub async fn a_late_settlement_stands_until_somebody_takes_the_message(storage: Subject) {
    add(&storage, vec![message(1), message(2), message(3)]).await;
    let done = |hold| Unit::new().settle(hold, Outcome::completed());
    let taken = lease(&storage, LINE, 3, Duration::ZERO).await;
    let refusal = |n: usize| Refusal::Hold { id: taken[n].id };
    assert_eq!(refused(&storage, done(taken[0].hold.clone())).await, refusal(0), "it was not asked for");
    must_apply(&storage, done(taken[0].hold.clone().or_late())).await;
    messages(&storage).end_leases(None).await.expect("end");
    assert_eq!(refused(&storage, done(taken[1].hold.clone())).await, refusal(1));
    must_apply(&storage, done(taken[1].hold.clone().or_late())).await;
    let again = lease_one(&storage, LONG).await;
    assert_eq!(again.id, taken[2].id);
    assert_eq!(refused(&storage, done(taken[2].hold.clone().or_late())).await, refusal(2));
    messages(&storage).renew(&[(receipt(&again), Duration::ZERO)]).await.expect("renew");
    messages(&storage).end_leases(None).await.expect("end");
    assert_eq!(refused(&storage, done(taken[2].hold.clone().or_late())).await, refusal(2), "nor ever again");
    must_apply(&storage, done(again.hold.or_late())).await;
    assert_eq!(depth(&storage).await, [0, 0, 0]);
}

/// An administrator breaks a lease and sets the attempts back: the number of the claim occurs again, and the leases are still two.
pub async fn whatever_an_administrator_does_one_lease_is_not_another(storage: Subject) {
    add_one(&storage, message(1)).await;
    let first = lease_one(&storage, LONG).await;
    let holder = first.locked_by.clone().expect("held");
    assert_eq!(admin(&storage).unlock(&[holder]).await.expect("unlock"), 1);
    admin(&storage).reschedule(&[first.id], &Reschedule::new().attempts(0)).await.expect("reschedule");
    let second = lease_one(&storage, LONG).await;
    assert_eq!(receipt(&first).number, receipt(&second).number);
    for hold in [first.hold.clone(), first.hold.clone().or_late()] {
        let unit = Unit::new().settle(hold, Outcome::completed());
        assert_eq!(refused(&storage, unit).await, Refusal::Hold { id: first.id });
    }
    assert_eq!(messages(&storage).renew(&[(receipt(&first), LONG)]).await.expect("renew"), []);
    must_apply(&storage, Unit::new().settle(second.hold, Outcome::completed())).await;
}

/// Rescue, the sweep of old locks, and a worker that releases what it does not know of.
pub async fn leases_are_left_alone_by_those_who_look_after_workers(storage: Subject) {
    add(&storage, vec![message(1), message(2)]).await;
    let worker = register(&storage).await;
    let taken = lease(&storage, LINE, 2, LONG).await;
    let_time_pass().await;
    storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert_eq!(storage.release_stale().await.expect("release"), 0);
    assert_eq!(storage.release_untracked(&worker, &[]).await.expect("release"), 0);
    // Nor do the administrative verbs touch what is held.
    let ids: Vec<_> = taken.iter().map(|job| job.id).collect();
    assert!(admin(&storage).complete(&ids).await.expect("complete").is_empty());
    assert_eq!(depth(&storage).await, [0, 0, 2]);
}

/// As a broker's consumer expects that rejects a message: first again, and known as delivered before.
pub async fn a_requeued_message_keeps_its_place_and_its_attempt(storage: Subject) {
    let added = add(&storage, (0..3).map(message).collect()).await;
    let first = lease_one(&storage, LONG).await;
    must_apply(&storage, Unit::new().settle(first.hold, Outcome::requeued(Duration::ZERO))).await;
    let back = must_read(&storage, added[0].id).await;
    assert_eq!((back.run_at, back.attempts, back.locked_by), (added[0].run_at, 1, None));
    let again = lease(&storage, LINE, 3, LONG).await;
    assert_eq!(numbers(&again), [0, 1, 2]);
    assert_eq!((again[0].attempts, again[1].attempts), (2, 1));
    // Or so much later, and with what went wrong.
    let mut later = Outcome::requeued(LONG);
    if let Outcome::Requeued { error, .. } = &mut later {
        *error = Some("not now".to_owned());
    }
    must_apply(&storage, Unit::new().settle(again[0].hold.clone(), later)).await;
    let back = must_read(&storage, added[0].id).await;
    let wait = back.run_at - storage.now().await.expect("the time");
    assert!(wait > TimeDelta::minutes(9) && wait <= TimeDelta::minutes(10), "{wait}");
    assert_eq!((back.attempts, back.last_error.as_deref()), (2, Some("not now")));
    // By the worker's verb it is the same.
    let worker = register(&storage).await;
    must_apply(&storage, Unit::new().settle(again[1].hold.clone(), Outcome::requeued(Duration::ZERO))).await;
    let claimed = storage.claim(&ClaimRequest::new(&worker, &[LINE.to_owned()], 1)).await.expect("claim").jobs;
    let applied = super::super::settle(&storage, &worker, &claimed[0], Outcome::requeued(Duration::ZERO)).await;
    assert_eq!(applied, [added[1].id]);
    let back = must_read(&storage, added[1].id).await;
    assert_eq!((back.run_at, back.attempts, back.locked_by), (added[1].run_at, 2, None));
}

/// The order and the times of what it held stay, also at the second death; other workers' jobs are spread.
pub async fn a_worker_that_asks_for_it_is_rescued_in_place(storage: Subject) {
    let added = add(&storage, (0..20).map(message).collect()).await;
    let tasks = [LINE.to_owned()];
    for death in 1..=2 {
        let dead = WorkerId::random();
        assert!(storage.register(&Registration::new(&dead, &tasks).in_place()).await.expect("register"));
        let lines = [(LINE.to_owned(), 20)];
        let taken = messages(&storage).take(&Take::new(Holder::Worker(&dead), &lines)).await.expect("take").jobs;
        assert_eq!(numbers(&taken), (0..20).collect::<Vec<_>>(), "death {death}");
        let_time_pass().await;
        assert_eq!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue")[0].jobs, 20);
        for job in &added {
            let back = must_read(&storage, job.id).await;
            assert_eq!((back.run_at, back.attempts, back.locked_by), (job.run_at, death, None));
        }
    }
    let dead = register(&storage).await;
    assert_eq!(storage.claim(&ClaimRequest::new(&dead, &tasks, 20)).await.expect("claim").jobs.len(), 20);
    let_time_pass().await;
    storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert!(must_read(&storage, added[0].id).await.run_at > added[0].run_at);
}

/// Nor is an ended lease's, until it was given back.
pub async fn a_held_message_is_not_taken_by_a_workers_claim(storage: Subject) {
    add(&storage, vec![message(1), JobSpec::new(LINE, 2)]).await;
    let taken = lease(&storage, LINE, 2, Duration::ZERO).await;
    let worker = register(&storage).await;
    let tasks = [LINE.to_owned()];
    let request = ClaimRequest::new(&worker, &tasks, 9).full_scan(true);
    assert!(storage.claim(&request).await.expect("claim").jobs.is_empty());
    assert!(lease(&storage, LINE, 9, LONG).await.is_empty());
    messages(&storage).end_leases(Some(&[taken[1].id])).await.expect("end");
    let claimed = storage.claim(&request).await.expect("claim").jobs;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [taken[1].id]);
    assert_eq!(claimed[0].attempts, 2);
}
