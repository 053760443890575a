//! What must not grow with what waits.

use std::collections::BTreeMap;
use std::time::Duration;

use backfill_core::job::{JobSpec, NewJob};
use backfill_core::storage::messages::{Applied, Holder, Take, Unit};
use backfill_core::storage::{ClaimRequest, Cleanup, Outcome, Storage};

use crate::redis_scene::{TASK, WITHIN, command, job};
use crate::redis_server::Server;
use crate::{completed, open, worker};

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
    let mut seen: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
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
