//! What is promised when the server is killed, forgets its scripts, has no memory left, is slow, or cuts connections. Each case has a server of
//! its own.

mod redis_server;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfill_core::job::{JobId, JobSpec, NewJob};
use backfill_core::storage::messages::{Applied, Changes, Holder, News, Take, Unit};
use backfill_core::storage::{
    ClaimRef, ClaimRequest, ClaimToken, ClaimedJob, Cleanup, Consumer, Inspect, JobFilter, Offer, Outcome,
    Registration, Settlement, Storage, Wakeup, Watch, WorkerId,
};
use backfill_redis::RedisStorage;
use futures::StreamExt;
use futures::stream::BoxStream;
use redis_server::{Server, signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

const TASK: &str = "task";
const WITHIN: Duration = Duration::from_secs(30);

async fn open(server: &Server) -> RedisStorage {
    let storage = RedisStorage::open(&server.url(), "faults").expect("open");
    storage.migrate().await.expect("migrate");
    storage
}

fn job(n: i64) -> NewJob {
    JobSpec::new(TASK, n).check(1_000_000).expect("a job")
}

async fn worker(storage: &dyn Consumer) -> WorkerId {
    let worker = WorkerId::random();
    assert!(storage.register(&Registration::new(&worker, &[TASK.to_owned()])).await.expect("register"));
    worker
}

async fn command(server: &Server, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(server.url()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connect");
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(&mut connection).await.expect("a command")
}

async fn all_ids(storage: &RedisStorage) -> HashSet<JobId> {
    storage.jobs(&JobFilter::new().limit(1_000_000)).await.expect("list").into_iter().map(|job| job.id).collect()
}

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

fn completed(jobs: &[ClaimedJob]) -> Vec<Settlement> {
    jobs.iter().map(|job| Settlement::new(ClaimRef::of(job), Outcome::completed())).collect()
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
    let adding = tokio::spawn({
        let storage = storage.clone();
        async move { storage.add(&[job(1)]).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!adding.is_finished());
    signal(server.pid(), "CONT");
    let added = tokio::time::timeout(WITHIN, adding).await.expect("in time").expect("no panic").expect("add");
    assert_eq!(all_ids(&storage).await, HashSet::from([added[0].id]));
}

/// A listener that waits for jobs to be handed off, and the worker whose it is.
async fn listening(
    consumer: &Arc<dyn Consumer>,
) -> (Arc<WorkerId>, watch::Sender<Option<Offer>>, BoxStream<'static, Wakeup>) {
    let worker = Arc::new(worker(&**consumer).await);
    let offers = watch::Sender::new(Some(Offer::new(Arc::clone(&worker), [TASK.to_owned()].into(), 1)));
    let mut wakeups = consumer.wakeups(Some(offers.subscribe()));
    let first = tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    (worker, offers, wakeups)
}

/// Adds until a job is handed off, and the wakeups say so.
async fn until_handed_off(storage: &RedisStorage, wakeups: &mut BoxStream<'static, Wakeup>) -> JobId {
    let begun = std::time::Instant::now();
    loop {
        let added = storage.add(&[job(1)]).await.expect("add").remove(0);
        let heard = tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time").expect("it never ends");
        if let Wakeup::HandedOff(handoff) = heard {
            assert_eq!(handoff.job.id, added.id);
            return added.id;
        }
        assert!(begun.elapsed() < WITHIN, "nothing is ever handed off");
    }
}

/// Nothing is handed off to a worker whose listener is gone, whatever it has offered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_ends_with_its_listener() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, _offers, mut wakeups) = listening(&consumer).await;
    let held = until_handed_off(&storage, &mut wakeups).await;
    // While that one is held no other is handed off, so that a worker which does not go on gets no more.
    assert_eq!(storage.add(&[job(2)]).await.expect("add")[0].locked_by, None);
    assert_eq!(consumer.release_untracked(&worker, &[]).await.expect("release"), 1);
    drop(wakeups);
    let (_, offers, wakeups) = listening(&consumer).await;
    drop((wakeups, offers));
    for n in 3..50 {
        let added = storage.add(&[job(n)]).await.expect("add").remove(0);
        if added.locked_by.is_none() {
            return;
        }
        // The server has not heard yet that the connection is closed.
        assert_ne!(added.id, held);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("jobs are handed off to a worker that does not listen");
}

/// What was released before it was heard of is nobody's, and must not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_released_before_it_was_heard_of_is_not_told() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, offers, mut wakeups) = listening(&consumer).await;
    for round in 2..20 {
        let id = until_handed_off(&storage, &mut wakeups).await;
        let held = storage.job(id).await.expect("read").expect("a job");
        let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
        assert_eq!(consumer.settle(&worker, &[result]).await.expect("settle").applied, [id]);
        // Nobody polls the stream while this one is handed off and released.
        let unheard = storage.add(&[job(3)]).await.expect("add").remove(0);
        assert_eq!(unheard.locked_by.as_deref(), Some(worker.as_str()), "it is handed off");
        assert_eq!(consumer.release_untracked(&worker, &[]).await.expect("release"), 1);
        storage.add(&[job(4), job(5)]).await.expect("add");
        let mut heard = Vec::new();
        while heard.last() != Some(&Wakeup::JobsAdded(2)) && heard.last() != Some(&Wakeup::JobsAdded(3)) {
            heard.push(tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time").expect("it never ends"));
        }
        assert!(!heard.iter().any(|wakeup| matches!(wakeup, Wakeup::HandedOff(_))), "{heard:?}");
        offers.send_replace(Some(Offer::new(Arc::clone(&worker), [TASK.to_owned()].into(), round)));
    }
}

fn token(job: &backfill_core::job::Job) -> ClaimToken {
    ClaimToken::from_number(job.locked_at.expect("it is held").timestamp_micros())
}

/// A listener that was slow for so long that the stream has forgotten what it missed is told that anything may have changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_missed_entries_is_told_so() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let mut news = storage.messages().expect("messages").news();
    assert_eq!(tokio::time::timeout(WITHIN, news.next()).await.expect("in time"), Some(News::Listening));
    // Nobody polls it while many entries come and go.
    let other = JobSpec::new("other", 1).check(100).expect("a job");
    for _ in 0..3_000 {
        storage.add(std::slice::from_ref(&other)).await.expect("add");
    }
    let mut missed = false;
    let ends = tokio::time::Instant::now() + WITHIN;
    while !missed && tokio::time::Instant::now() < ends {
        let told = tokio::time::timeout(WITHIN, news.next()).await.expect("in time");
        missed = told == Some(News::Changed(Changes::anywhere()));
    }
    assert!(missed, "what was forgotten before it was read is told as anything");
}

/// Jobs with a forbidden flag cost a claim nothing, however many stand before the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_flags_are_passed_by_at_once() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let flagged = JobSpec::new(TASK, 1).flag("slow").check(100).expect("a job");
    let both = JobSpec::new(TASK, 1).flag("slow").flag("fine").check(100).expect("a job");
    let fine = JobSpec::new(TASK, 2).flag("fine").check(100).expect("a job");
    storage.add(&vec![flagged; 50_000]).await.expect("add");
    storage.add(&[both, fine, job(3)]).await.expect("add");
    let (tasks, forbidden) = ([TASK.to_owned()], ["slow".to_owned()]);
    command(&server, &["CONFIG", "RESETSTAT"]).await;
    let request = ClaimRequest::new(&worker, &tasks, 10).forbidden_flags(&forbidden);
    let claimed = consumer.claim(&request).await.expect("claim").jobs;
    let numbers: Vec<i64> = claimed.iter().map(|job| job.payload.decode().expect("a number")).collect();
    assert_eq!(numbers, [2, 3]);
    let stats: String = redis::from_redis_value(command(&server, &["INFO", "commandstats"]).await).expect("a text");
    let ranges = stats.lines().find_map(|line| line.strip_prefix("cmdstat_zrangebylex:calls=")).expect("the command");
    let calls: u32 = ranges.split(',').next().expect("a number").parse().expect("a number");
    assert!(calls < 20, "{calls} ranges were read");
    assert_eq!(consumer.settle(&worker, &completed(&claimed)).await.expect("settle").applied.len(), 2);
    // Who takes all of them reads no list by itself.
    let lists = (0..500).map(|n| JobSpec::new(TASK, 4).flag(format!("customer {n}")).check(100).expect("a job"));
    storage.add(&lists.collect::<Vec<_>>()).await.expect("add");
    command(&server, &["CONFIG", "RESETSTAT"]).await;
    assert_eq!(consumer.claim(&ClaimRequest::new(&worker, &tasks, 10)).await.expect("claim").jobs.len(), 10);
    assert!(ranges_read(&server).await < 20);
}

async fn ranges_read(server: &Server) -> u32 {
    let stats: String = redis::from_redis_value(command(server, &["INFO", "commandstats"]).await).expect("a text");
    let ranges = stats.lines().find_map(|line| line.strip_prefix("cmdstat_zrangebylex:calls=")).expect("the command");
    ranges.split(',').next().expect("a number").parse().expect("a number")
}

/// Of a serial queue whose task is full nothing is read, however many queues there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_a_full_task_cost_a_claim_nothing() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let queued = |n: i32| JobSpec::new(TASK, n).serial_queue(format!("q{n}")).check(100).expect("a job");
    storage.add(&(0..5_000).map(queued).collect::<Vec<_>>()).await.expect("add");
    storage.add(&[JobSpec::new("other", 1).check(100).expect("a job")]).await.expect("add");
    let (tasks, full) = ([TASK.to_owned(), "other".to_owned()], [(TASK.to_owned(), 0)]);
    command(&server, &["CONFIG", "RESETSTAT"]).await;
    let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, 10).limits(&full)).await.expect("claim").jobs;
    assert_eq!(claimed.iter().map(|job| job.task.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(ranges_read(&server).await < 20);
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

/// The index of groups is made when it is first wanted, of what is there by then; and what is due later comes in its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_were_there_before_are_taken_in_line() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let messages = storage.messages().expect("messages");
    let of = |group: i32, n: i32| JobSpec::new(TASK, (group, n)).serial_queue(format!("g{group}"));
    let jobs: Vec<NewJob> = (0..2_500).map(|n| of(n % 50, n).check(100).expect("a job")).collect();
    storage.add(&jobs).await.expect("add");
    storage.add(&[of(99, 0).run_in(Duration::from_millis(300)).check(100).expect("a job")]).await.expect("add");
    let lines = [(TASK.to_owned(), 500)];
    let mut seen: std::collections::BTreeMap<i32, Vec<i32>> = std::collections::BTreeMap::new();
    let ends = tokio::time::Instant::now() + WITHIN;
    while seen.values().map(Vec::len).sum::<usize>() < 2_501 {
        assert!(tokio::time::Instant::now() < ends, "{}", seen.len());
        let request = Take::new(Holder::Lease { name: "a case", lasts: WITHIN }, &lines).in_line();
        let taken = messages.take(&request).await.expect("take").jobs;
        let units: Vec<Unit> =
            taken.iter().map(|job| Unit::new().settle(job.hold.clone(), Outcome::completed())).collect();
        for job in &taken {
            let (group, n): (i32, i32) = job.payload.decode().expect("two numbers");
            seen.entry(group).or_default().push(n);
        }
        assert!(messages.apply(&units).await.expect("apply").iter().all(Applied::is_done));
    }
    assert!(seen.values().all(|seen| seen.is_sorted()), "{seen:?}");
    // What is remembered of groups goes with them.
    storage.admin().expect("admin").cleanup(&Cleanup::new().queues()).await.expect("cleanup");
    for key in ["turns", "groups", "gdue", "gheads", "glines", "gheld", "queues", "heads", "qheads"] {
        let there = command(&server, &["EXISTS", &format!("{{backfill:faults}}:{key}")]).await;
        assert_eq!(there, redis::Value::Int(0), "{key}");
    }
}

/// What is published reaches every replica, and must be heard by nobody who does not get the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_off_to_who_listens_to_another_server() {
    let master = Server::start(&["--appendonly", "no"]);
    let port = master.port.to_string();
    let replica = Server::start(&["--appendonly", "no", "--replicaof", "127.0.0.1", &port]);
    let storage = open(&master).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let client = redis::Client::open(replica.url()).expect("a client");
    let mut heard = client.get_async_pubsub().await.expect("connect");
    heard.subscribe("{backfill:faults}:handoff:x").await.expect("subscribe");
    while command(&master, &["WAIT", "1", "100"]).await != redis::Value::Int(1) {}
    let offer = format!("\0\0\0\0\0\0\0\0{{backfill:faults}}:handoff:x\0{TASK}\0");
    command(&master, &["HSET", "{backfill:faults}:offers", worker.as_str(), &offer]).await;
    assert_eq!(storage.add(&[job(1)]).await.expect("add")[0].locked_by, None);
    command(&master, &["PUBLISH", "{backfill:faults}:handoff:x", "the end"]).await;
    let message = tokio::time::timeout(WITHIN, heard.on_message().next()).await.expect("in time").expect("a message");
    assert_eq!(message.get_payload_bytes(), b"the end", "the job was published");
}

/// A proxy that lets nothing through any more, either way, on connections that have subscribed, and tells nobody.
async fn silencing_proxy(to: u16, silent: Arc<AtomicBool>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, silent) =
                (tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("connect"), Arc::clone(&silent));
            let subscribed = Arc::new(AtomicBool::new(false));
            let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
            for (mut from, mut to) in [(client_in, server_out), (server_in, client_out)] {
                let (silent, subscribed) = (Arc::clone(&silent), Arc::clone(&subscribed));
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(length @ 1..) = from.read(&mut bytes).await {
                        if bytes[..length].windows(9).any(|part| part == b"SUBSCRIBE") {
                            subscribed.store(true, Ordering::Relaxed);
                        }
                        if silent.load(Ordering::Relaxed) && subscribed.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        if to.write_all(&bytes[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    port
}

/// A subscription that has died without a word is noticed, however much is told meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_died_without_a_word_is_noticed() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let silent = Arc::new(AtomicBool::new(false));
    let port = silencing_proxy(server.port, Arc::clone(&silent)).await;
    let behind = RedisStorage::open(&format!("redis://127.0.0.1:{port}"), "faults").expect("open");
    let (_, _offers, mut wakeups) = listening(&behind.consumer()).await;
    until_handed_off(&storage, &mut wakeups).await;
    silent.store(true, Ordering::Relaxed);
    let adding = tokio::spawn(async move {
        loop {
            storage.add(&[job(1), job(2)]).await.expect("add");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let lost = async { while !matches!(wakeups.next().await, Some(Wakeup::ListenerLost { .. })) {} };
    tokio::time::timeout(WITHIN, lost).await.expect("it is noticed");
    adding.abort();
}

/// What is heard while it is not known whether it was released waits until that is known, and is told if it was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_off_after_a_refused_or_dropped_release_is_told() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, offers, mut wakeups) = listening(&consumer).await;
    let id = until_handed_off(&storage, &mut wakeups).await;
    let held = storage.job(id).await.expect("read").expect("a job");
    let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
    consumer.settle(&worker, &[result]).await.expect("settle");
    command(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let error = consumer.release_untracked(&worker, &[]).await.expect_err("it is refused");
    assert!(error.is_refusal(), "{error}");
    command(&server, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    until_handed_off(&storage, &mut wakeups).await;

    // One that is dropped belongs to an identity that is given up.
    let mut dropped = consumer.release_untracked(&worker, &[]);
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    consumer.deregister(&worker).await.expect("deregister");
    let other = Arc::new(self::worker(&*consumer).await);
    offers.send_replace(Some(Offer::new(Arc::clone(&other), [TASK.to_owned()].into(), 2)));
    until_handed_off(&storage, &mut wakeups).await;
}

/// A job in its last attempt is not handed off: it would be dead without having run, if its worker died before it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_its_last_attempt_is_not_handed_off() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, _offers, mut wakeups) = listening(&consumer).await;
    until_handed_off(&storage, &mut wakeups).await;
    consumer.release_untracked(&worker, &[]).await.expect("release");
    let (_worker, _offers, mut wakeups) = listening(&consumer).await;
    let handed_off = until_handed_off(&storage, &mut wakeups).await;
    let held = storage.job(handed_off).await.expect("read").expect("a job");
    let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
    let holder = WorkerId::named(held.locked_by.clone().expect("it is held"));
    consumer.settle(&holder, &[result]).await.expect("settle");
    let last = JobSpec::new(TASK, 1).max_attempts(1).check(100).expect("a job");
    let added = storage.add(&[last]).await.expect("add").remove(0);
    assert_eq!((added.attempts, added.locked_by), (0, None));
}
