//! The server is killed, forgets, has no memory left, is stopped, cuts connections, or has another time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfill_core::job::{JobId, JobSpec};
use backfill_core::storage::{ClaimRef, ClaimRequest, Consumer, Outcome, Settlement, Storage, Wakeup, Watch};
use futures::StreamExt;

use crate::redis_scene::{TASK, WITHIN, all_ids, command, job};
use crate::redis_server::{Server, signal};
use crate::{completed, open, worker};

/// Every add and every result that was answered survives the end of the server at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_with_appendfsync_always_loses_nothing_that_was_answered() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let storage = open(&server).await;
    let mut added: HashSet<JobId> = HashSet::new();
    let (mut done, mut maybe): (HashSet<JobId>, HashSet<JobId>) = (HashSet::new(), HashSet::new());
    for round in 0..4 {
        let stop = Arc::new(AtomicBool::new(false));
        let adding: Vec<_> = (0..4)
            .map(|_| {
                let (storage, stop) = (storage.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match storage.add(&[job(1), job(2), job(3)]).await {
                            Ok(jobs) => ids.extend(jobs.into_iter().map(|job| job.id)),
                            Err(error) => {
                                assert!(error.is_transient(), "{error}");
                                break;
                            }
                        }
                    }
                    ids
                })
            })
            .collect();
        let working = {
            let (consumer, stop) = (storage.consumer(), Arc::clone(&stop));
            tokio::spawn(async move {
                let worker = worker(&*consumer).await;
                let (tasks, mut ids) = ([TASK.to_owned()], Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let Ok(claimed) = consumer.claim(&ClaimRequest::new(&worker, &tasks, 20)).await else { break };
                    match consumer.settle(&worker, &completed(&claimed.jobs)).await {
                        Ok(settled) => ids.extend(settled.applied),
                        Err(_) => return (ids, claimed.jobs.iter().map(|job| job.id).collect()),
                    }
                }
                (ids, Vec::new())
            })
        };
        tokio::time::sleep(Duration::from_millis(300 + 37 * round)).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        let mut many = 0;
        for adding in adding {
            let ids = adding.await.expect("no panic");
            many += ids.len();
            added.extend(ids);
        }
        let (finished, unknown) = working.await.expect("no panic");
        assert!(many > 20 && finished.len() > 20, "{many} {}", finished.len());
        done.extend(finished);
        // Of the results whose answer was lost it is not known whether they are written.
        maybe.extend(unknown);
        server.start_again();
        let there = all_ids(&storage).await;
        let lost: Vec<&JobId> =
            added.iter().filter(|id| !done.contains(id) && !maybe.contains(id) && !there.contains(id)).collect();
        assert_eq!(lost, Vec::<&JobId>::new(), "what was answered as added is there until it is done");
        assert!(done.iter().all(|id| !there.contains(id)), "what was answered as done is gone");
    }
    // What the workers held that are no more is released, and everything is done in the end.
    storage.rescue(&Watch::new(Duration::ZERO)).await.expect("rescue");
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let (tasks, later) = ([TASK.to_owned()], chrono::Utc::now() + chrono::TimeDelta::days(1));
    loop {
        let request = ClaimRequest::new(&worker, &tasks, 1_000).now(Some(later));
        let claimed = consumer.claim(&request).await.expect("claim").jobs;
        if claimed.is_empty() {
            break;
        }
        let settled = consumer.settle(&worker, &completed(&claimed)).await.expect("settle");
        assert_eq!(settled.applied.len(), claimed.len());
    }
    assert_eq!(all_ids(&storage).await, HashSet::new());
}

/// A claim that the server has forgotten, as after a failover, is nobody's; what its worker says is refused once another one has the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_forgotten_is_refused_by_its_number() {
    let mut server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (one, other) = (worker(&*consumer).await, worker(&*consumer).await);
    storage.add(&[job(1)]).await.expect("add");
    // What the replica that takes over has heard of: the job, and not the claim.
    command(&server, &["SAVE"]).await;
    let tasks = [TASK.to_owned()];
    let forgotten = consumer.claim(&ClaimRequest::new(&one, &tasks, 1)).await.expect("claim").jobs.remove(0);
    server.kill();
    server.start_again();
    let again = consumer.claim(&ClaimRequest::new(&other, &tasks, 1)).await;
    let claimed = match again {
        Ok(claimed) => claimed,
        // The first call finds the connection broken.
        Err(error) => {
            assert!(error.is_away(), "{error}");
            consumer.claim(&ClaimRequest::new(&other, &tasks, 1)).await.expect("claim")
        }
    };
    assert_eq!(claimed.jobs.len(), 1, "it is ready again");
    let late = Settlement::new(ClaimRef::of(&forgotten), Outcome::completed());
    assert!(consumer.settle(&one, &[late]).await.expect("settle").applied.is_empty(), "somebody else has it");
    let result = Settlement::new(ClaimRef::of(&claimed.jobs[0]), Outcome::completed());
    assert_eq!(consumer.settle(&other, &[result]).await.expect("settle").applied.len(), 1);
}

/// A server that has forgotten its scripts gets them again, and nothing runs twice by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let tasks = [TASK.to_owned()];
    for n in 0..20 {
        command(&server, &["SCRIPT", "FLUSH"]).await;
        let added = storage.add(&[job(n)]).await.expect("add");
        command(&server, &["SCRIPT", "FLUSH"]).await;
        let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, 10)).await.expect("claim").jobs;
        assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [added[0].id]);
        command(&server, &["SCRIPT", "FLUSH"]).await;
        let result = Settlement::new(ClaimRef::of(&claimed[0]), Outcome::completed());
        assert_eq!(consumer.settle(&worker, &[result]).await.expect("settle").applied, [added[0].id]);
    }
    assert!(all_ids(&storage).await.is_empty());
}

/// When memory is full, new jobs are refused with the reason, what is there stays, and workers go on until there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_memory_refuses_new_jobs_and_workers_go_on() {
    let server = Server::start(&["--appendonly", "no", "--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let large = JobSpec::new(TASK, "x".repeat(10_000)).check(1_000_000).expect("a job");
    let mut added = 0;
    let error = loop {
        match storage.add(&[large.clone(), large.clone()]).await {
            Ok(jobs) => added += jobs.len(),
            Err(error) => break error,
        }
        assert!(added < 5_000, "memory is never full");
    };
    assert!(error.is_transient() && error.is_refusal(), "{error}");
    assert!(error.to_string().contains("memory is full"), "{error}");
    // A worker that starts now starts, with its crontab.
    let other = open(&server).await;
    let schedules = other.schedules().expect("schedules");
    schedules.register_crontabs(&["entry".to_owned()], chrono::Utc::now()).await.expect("crontabs");
    assert_eq!(all_ids(&storage).await.len(), added, "nothing was half added, and nothing is gone");
    let tasks = [TASK.to_owned()];
    let mut done = 0;
    while done < added {
        assert!(consumer.heartbeat(&worker).await.expect("a heartbeat"));
        let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, 10)).await.expect("a claim").jobs;
        assert!(!claimed.is_empty());
        let (first, rest) = claimed.split_first().expect("a job");
        let failed = Settlement::new(ClaimRef::of(first), Outcome::dead("no"));
        let mut results = completed(rest);
        results.push(failed);
        done += consumer.settle(&worker, &results).await.expect("results").applied.len();
    }
    storage.add(&[large]).await.expect("there is room again");
}

/// Connections that are cut are made again, by callers and by listeners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_are_made_again() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let mut wakeups = storage.wakeups(None);
    let mut heard = async |wanted: fn(&Wakeup) -> bool| {
        let wait = async { while !wanted(&wakeups.next().await.expect("it never ends")) {} };
        tokio::time::timeout(WITHIN, wait).await.expect("in time");
    };
    heard(|wakeup| *wakeup == Wakeup::Listening).await;
    let mut added = 0;
    for n in 0..10 {
        command(&server, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        heard(|wakeup| matches!(wakeup, Wakeup::ListenerLost { .. })).await;
        heard(|wakeup| *wakeup == Wakeup::Listening).await;
        let mut tries = 0;
        while let Err(error) = storage.add(&[job(n)]).await {
            assert!(error.is_away(), "{error}");
            tries += 1;
            assert!(tries < 3, "one call finds the connection broken");
        }
        added += 1;
        heard(|wakeup| matches!(wakeup, Wakeup::JobsAdded(_))).await;
    }
    assert_eq!(all_ids(&storage).await.len(), added);
}

/// A server that says nothing for a while is waited for, and what it was sent is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_for_a_while_is_waited_for() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    signal(server.pid(), "STOP");
    let mut adding = tokio::spawn({
        let storage = storage.clone();
        async move { storage.add(&[job(1)]).await }
    });
    let answered = tokio::time::timeout(Duration::from_secs(2), &mut adding).await;
    assert!(answered.is_err(), "nobody answers, and the call is not given up: {answered:?}");
    signal(server.pid(), "CONT");
    let added = tokio::time::timeout(WITHIN, adding).await.expect("in time").expect("no panic").expect("add");
    assert_eq!(all_ids(&storage).await, HashSet::from([added[0].id]));
}

/// A job whose key was taken while it ran does not run again, also when the server's clock was set back meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_job_stays_replaced_when_the_clock_goes_back() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let tasks = [TASK.to_owned()];
    let keyed = |n: i64, key: &str| JobSpec::new(TASK, n).key(key).check(100).expect("a job");
    for how in ["replaced", "removed"] {
        let one = worker(&*consumer).await;
        // As if the clock had been five seconds ahead at the claim.
        let ahead = (chrono::Utc::now() + chrono::TimeDelta::seconds(5)).timestamp_micros().to_string();
        command(&server, &["HSET", "{backfill:faults}:counters", "moment", &ahead]).await;
        storage.add(&[keyed(1, how)]).await.expect("add");
        assert_eq!(consumer.claim(&ClaimRequest::new(&one, &tasks, 1)).await.expect("claim").jobs.len(), 1);
        match how {
            "replaced" => drop(storage.add(&[keyed(2, how)]).await.expect("add")),
            _ => assert!(storage.admin().expect("admin").remove(how).await.expect("remove").is_some()),
        }
        consumer.deregister(&one).await.expect("deregister");
        let other = worker(&*consumer).await;
        let claimed = consumer.claim(&ClaimRequest::new(&other, &tasks, 9)).await.expect("claim").jobs;
        let numbers: Vec<i64> = claimed.iter().map(|job| job.payload.decode().expect("a number")).collect();
        assert_eq!(numbers, if how == "replaced" { vec![2] } else { vec![] }, "{how}");
        consumer.settle(&other, &completed(&claimed)).await.expect("settle");
    }
}
