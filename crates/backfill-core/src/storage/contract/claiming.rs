//! Cases about taking jobs.

mod bounds;
mod lost;
mod wakeups;

pub use bounds::{
    a_claim_takes_about_as_many_bytes_as_it_may, forbidden_flags_are_left_alone,
    last_attempts_are_taken_for_free_slots_only, limits_of_tasks_hold_and_leave_room_for_others,
    only_what_can_be_taken_counts_by_its_bytes,
};
pub use lost::{a_claim_whose_answer_was_lost_is_released, a_job_that_never_ran_never_becomes_dead};
pub(super) use wakeups::assert_comes_before_a_poll;
pub use wakeups::{
    a_listener_is_told_first_that_it_listens, a_wakeup_comes_long_before_the_next_poll, adding_wakes_a_listener,
    making_a_job_ready_wakes_a_listener,
};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Subject, TASK, add, add_one, claim, claim_one, failed, inspect, register, settle, spec};
use crate::job::{JobId, JobSpec};
use crate::storage::{ClaimRef, ClaimRequest, Offer, Outcome, Settlement, Wakeup};

/// Smallest priority first, then oldest time, within a claim and across claims.
pub async fn order_is_priority_then_time(storage: Subject) {
    let worker = register(&storage).await;
    let ago = |minutes| Utc::now() - TimeDelta::minutes(minutes);
    let specs = vec![
        JobSpec::new(TASK, 5).priority(1).run_at(ago(1)),
        JobSpec::new(TASK, 1).priority(-1).run_at(ago(1)),
        JobSpec::new(TASK, 4).priority(1).run_at(ago(9)),
        JobSpec::new(TASK, 0).priority(-1).run_at(ago(5)),
        JobSpec::new(TASK, 3).serial_queue("b").run_at(ago(2)),
        JobSpec::new(TASK, 2).serial_queue("a").run_at(ago(3)),
    ];
    add(&storage, specs).await;
    let mut order = Vec::new();
    for limit in [1, 3, 10] {
        for job in claim(&storage, &worker, limit).await {
            order.push(job.payload.decode::<i32>().expect("a number"));
        }
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

/// The future, other tasks, and the limit are respected; a claim counts the attempt and carries the worker's id.
pub async fn only_ready_jobs_of_known_tasks_up_to_the_limit(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, vec![spec(), spec(), spec(), spec().run_in(Duration::from_secs(60)), JobSpec::new("unknown", 1)])
        .await;
    assert!(claim(&storage, &worker, 0).await.is_empty());
    let two = claim(&storage, &worker, 2).await;
    assert_eq!(two.len(), 2);
    for job in &two {
        assert_eq!((job.attempts, job.locked_by.as_deref()), (1, Some(worker.as_str())));
        assert!(job.locked_at.is_some());
    }
    assert_eq!(claim(&storage, &worker, 10).await.len(), 1);
    assert!(claim(&storage, &worker, 10).await.is_empty());
    let none: [String; 0] = [];
    assert!(storage.claim(&ClaimRequest::new(&worker, &none, 5)).await.expect("claim").jobs.is_empty());
    let both = [TASK.to_owned(), "unknown".to_owned()];
    assert_eq!(storage.claim(&ClaimRequest::new(&worker, &both, 5)).await.expect("claim").jobs.len(), 1);
}

/// Eight claimers, a thousand jobs: each job goes to one of them.
pub async fn each_job_is_claimed_by_exactly_one_of_many_claimers(storage: Subject) {
    let ids: HashSet<JobId> =
        add(&storage, (0..1000).map(|_| spec()).collect()).await.iter().map(|job| job.id).collect();
    let mut claimers = JoinSet::new();
    for n in 0..8 {
        let storage = storage.clone();
        claimers.spawn(async move {
            let worker = register(&storage).await;
            let mut mine = Vec::new();
            loop {
                let jobs = claim(&storage, &worker, 1 + n * 3).await;
                if jobs.is_empty() {
                    return mine;
                }
                mine.extend(jobs.into_iter().map(|job| job.id));
            }
        });
    }
    let mut all = Vec::new();
    while let Some(mine) = claimers.join_next().await {
        all.extend(mine.expect("a claimer"));
    }
    // A claimer may see nothing because others hold the last rows' locks; what it left is still there.
    all.extend(claim(&storage, &register(&storage).await, 1000).await.into_iter().map(|job| job.id));
    assert_eq!(all.len(), 1000, "no job twice");
    assert_eq!(all.into_iter().collect::<HashSet<_>>(), ids);
}

/// One job of a queue at a time, in order, also within one batch.
pub async fn a_serial_queue_gives_one_job_at_a_time(storage: Subject) {
    let (one, other) = (register(&storage).await, register(&storage).await);
    let job = |n| JobSpec::new(TASK, n).serial_queue("q");
    add(&storage, vec![job(0), job(1), job(2)]).await;
    for n in 0..3 {
        let claimed = claim(&storage, &one, 10).await;
        assert_eq!(claimed.len(), 1, "one of the queue, whatever the limit");
        assert_eq!(claimed[0].payload.decode::<i32>().expect("a number"), n);
        assert!(claim(&storage, &other, 10).await.is_empty(), "not for others either");
        let outcome = if n == 1 { failed("no", Duration::from_secs(60)) } else { Outcome::completed() };
        settle(&storage, &one, &claimed[0], outcome).await;
    }
    assert!(claim(&storage, &other, 10).await.is_empty());
}

/// Many claimers and many queues: two jobs of one queue never run at once, and all run.
pub async fn serial_queues_never_overlap_under_contention(storage: Subject) {
    const QUEUES: usize = 5;
    const EACH: usize = 20;
    let specs = (0..QUEUES * EACH).map(|n| spec().serial_queue(format!("q{}", n % QUEUES))).collect();
    add(&storage, specs).await;
    let in_flight: Arc<Mutex<HashMap<String, JobId>>> = Arc::default();
    let done: Arc<Mutex<HashSet<JobId>>> = Arc::default();
    let mut claimers = JoinSet::new();
    for _ in 0..8 {
        let (storage, in_flight, done) = (storage.clone(), in_flight.clone(), done.clone());
        claimers.spawn(async move {
            let worker = register(&storage).await;
            while done.lock().expect("lock").len() < QUEUES * EACH {
                let jobs = claim(&storage, &worker, 4).await;
                for job in &jobs {
                    let queue = job.queue.clone().expect("a queue");
                    let other = in_flight.lock().expect("lock").insert(queue, job.id);
                    assert_eq!(other, None, "two jobs of a queue in flight");
                }
                tokio::task::yield_now().await;
                for job in &jobs {
                    in_flight.lock().expect("lock").remove(job.queue.as_ref().expect("a queue"));
                    assert!(done.lock().expect("lock").insert(job.id), "a job ran twice");
                }
                let settled: Vec<Settlement> =
                    jobs.iter().map(|job| Settlement::new(ClaimRef::of(job), Outcome::completed())).collect();
                assert_eq!(storage.settle(&worker, &settled).await.expect("settle").applied.len(), jobs.len());
            }
        });
    }
    while let Some(result) = claimers.join_next().await {
        result.expect("a claimer");
    }
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 0);
}

/// Many jobs of a held queue, with better priority, do not keep others from being claimed.
pub async fn a_locked_queue_does_not_hide_other_jobs(storage: Subject) {
    let (one, other) = (register(&storage).await, register(&storage).await);
    add(&storage, (0..200).map(|_| spec().serial_queue("stuck").priority(-5)).collect()).await;
    claim_one(&storage, &one).await;
    let free = add_one(&storage, spec()).await;
    assert_eq!(claim_one(&storage, &other).await.id, free.id);
}

/// A claim that passes ready jobs by says when to look again; one that is a `full_scan` passes none by.
pub async fn what_is_passed_by_is_found_when_asked_for(storage: Subject) {
    let (one, other) = (register(&storage).await, register(&storage).await);
    // So many that cannot be taken stand at the head of the line that a storage may want to begin behind them.
    for _ in 0..4 {
        add(&storage, (0..5_000).map(|_| spec().serial_queue("stuck").priority(-5)).collect()).await;
    }
    claim_one(&storage, &one).await;
    add(&storage, (0..20).map(|_| spec()).collect()).await;
    let tasks = [TASK.to_owned()];
    let request = ClaimRequest::new(&other, &tasks, 2);
    for _ in 0..4 {
        assert_eq!(storage.claim(&request).await.expect("claim").jobs.len(), 2);
    }
    for round in 0..2 {
        let urgent = add_one(&storage, spec().priority(-9)).await;
        let claimed = storage.claim(&request).await.expect("claim");
        let found = claimed.jobs.iter().any(|job| job.id == urgent.id);
        assert!(
            found || claimed.rescan_after.is_some() || claimed.jobs.len() == 2,
            "round {round}: it is not forgotten"
        );
        if !found {
            let full_scan = storage.claim(&request.full_scan(true)).await.expect("claim").jobs;
            assert_eq!(full_scan.first().map(|job| job.id), Some(urgent.id));
        }
    }
}

/// Attempts are counted when a job is claimed, and end.
pub async fn jobs_without_attempts_left_are_not_claimed(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, spec().max_attempts(2)).await;
    for attempt in 1..=2 {
        let job = claim_one(&storage, &worker).await;
        assert_eq!(job.attempts, attempt);
        settle(&storage, &worker, &job, failed("no", Duration::ZERO)).await;
    }
    assert!(claim(&storage, &worker, 1).await.is_empty());
    assert_eq!(inspect(&storage).counts().await.expect("counts").dead, 1);
}

/// Whoever offers is told of a job that was stored as held by it; any other job can be claimed. (A storage need not hand off anything.)
pub async fn a_job_is_handed_off_or_claimed_and_never_both(storage: Subject) {
    let worker = Arc::new(register(&storage).await);
    let offer = Offer::new(Arc::clone(&worker), [TASK.to_owned()].into(), 1);
    let offers = watch::Sender::new(Some(offer));
    let mut wakeups = storage.wakeups(Some(offers.subscribe()));
    let (tell, mut heard) = mpsc::unbounded_channel();
    let listening = tokio::spawn(async move {
        while let Some(wakeup) = wakeups.next().await {
            // Nobody wants to hear at the end.
            let _ = tell.send(wakeup);
        }
    });
    let within = Duration::from_secs(20);
    let first = tokio::time::timeout(within, heard.recv()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    for _ in 0..100 {
        let added = add_one(&storage, spec()).await;
        let claimed = claim(&storage, &worker, 10).await;
        let job = if added.locked_by.is_none() {
            assert_eq!((added.attempts, claimed.len()), (0, 1), "it can be claimed");
            claimed.into_iter().next().expect("one")
        } else {
            assert_eq!((added.attempts, added.locked_by.as_deref()), (1, Some(worker.as_str())));
            assert!(claimed.is_empty(), "nobody else gets it");
            let handed_off = tokio::time::timeout(within, async {
                loop {
                    match heard.recv().await {
                        Some(Wakeup::HandedOff(handoff)) => return *handoff,
                        other => assert!(other.is_some(), "it listens"),
                    }
                }
            });
            handed_off.await.expect("it is told").job
        };
        assert_eq!((job.id, job.attempts), (added.id, 1));
        settle(&storage, &worker, &job, Outcome::completed()).await;
    }
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 0, "each was settled");
    listening.abort();
}

/// Which jobs are there.
pub async fn the_present_are_told(storage: Subject) {
    let worker = register(&storage).await;
    let jobs = add(&storage, vec![spec(), spec(), spec()]).await;
    let done = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &done, Outcome::completed()).await;
    claim_one(&storage, &worker).await;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).chain([JobId::from_number(i64::MAX)]).collect();
    let mut existing = storage.existing(&ids).await.expect("look");
    existing.sort_unstable();
    assert_eq!(existing, jobs[1..].iter().map(|job| job.id).collect::<Vec<_>>());
    assert!(storage.existing(&[]).await.expect("look").is_empty());
}

/// By another clock than the storage's.
pub async fn jobs_are_ready_by_the_time_that_is_given(storage: Subject) {
    let worker = register(&storage).await;
    let job = add_one(&storage, spec().run_at(Utc::now() + TimeDelta::hours(2))).await;
    let tasks = [TASK.to_owned()];
    let at = |hours| ClaimRequest::new(&worker, &tasks, 1).now(Some(Utc::now() + TimeDelta::hours(hours)));
    assert!(storage.claim(&at(1)).await.expect("claim").jobs.is_empty());
    let claimed = storage.claim(&at(3)).await.expect("claim").jobs;
    assert_eq!(claimed[0].id, job.id);
    let locked_at = claimed[0].locked_at.expect("it is locked");
    assert!((locked_at - Utc::now()).abs() < TimeDelta::minutes(10), "locks are by the storage's clock");
}
