//! Cases about the order of serial queues, and about runs of their jobs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use tokio::task::JoinSet;

use super::{Subject, TASK, add, add_one, admin, claim, claim_one, failed, register, settle, spec};
use crate::job::{Job, JobId, JobSpec};
use crate::storage::{ClaimRef, ClaimRequest, ClaimedJob, Outcome, Registration, Settlement, Wakeup, WorkerId};

/// Another task than [`TASK`].
const OTHER: &str = "other";

fn number(job: &Job) -> i32 {
    job.payload.decode().expect("a number")
}

/// A claim of runs of up to so many jobs, of these tasks.
async fn claim_runs(storage: &Subject, worker: &WorkerId, tasks: &[&str], limit: usize, run: usize) -> Vec<ClaimedJob> {
    let tasks: Vec<String> = tasks.iter().map(|&task| task.to_owned()).collect();
    storage.claim(&ClaimRequest::new(worker, &tasks, limit).run_length(run)).await.expect("claim").jobs
}

/// Settles runs: each queue is released with its last job.
async fn complete_runs(storage: &Subject, worker: &WorkerId, jobs: &[ClaimedJob]) {
    let last: HashMap<Option<&str>, JobId> = jobs.iter().map(|job| (job.queue.as_deref(), job.id)).collect();
    let settled: Vec<Settlement> = jobs
        .iter()
        .map(|job| {
            let claim = ClaimRef::of(job);
            let is_last = last[&job.queue.as_deref()] == job.id;
            Settlement::new(if is_last { claim } else { claim.keeping_queue() }, Outcome::completed())
        })
        .collect();
    assert_eq!(storage.settle(worker, &settled).await.expect("settle").applied.len(), jobs.len());
}

/// Eight claimers, a backlog with priorities, retries, and tasks that only some of them serve: of each queue, jobs are claimed in their
/// order, whoever claims them.
pub async fn serial_queues_keep_their_order_under_contention(storage: Subject) {
    const QUEUES: usize = 6;
    const EACH: usize = 50;
    let specs = (0..QUEUES * EACH).map(|n| {
        let task = if n % 5 == 0 { OTHER } else { TASK };
        // More urgent ones come later, too.
        let priority = [0, 3, -2][n / QUEUES % 3];
        JobSpec::new(task, n).serial_queue(format!("q{}", n % QUEUES)).priority(priority)
    });
    // Between them, jobs without a queue, which claimers contend for.
    let plain = (0..100).map(|_| spec());
    let jobs = add(&storage, specs.chain(plain).collect()).await;
    let expected = |queue: &str| {
        let mut jobs: Vec<&Job> = jobs.iter().filter(|job| job.queue.as_deref() == Some(queue)).collect();
        jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    let started: Arc<Mutex<HashMap<String, Vec<JobId>>>> = Arc::default();
    let done: Arc<Mutex<HashSet<JobId>>> = Arc::default();
    let mut claimers = JoinSet::new();
    for n in 0..8 {
        let (storage, started, done) = (storage.clone(), started.clone(), done.clone());
        let total = jobs.len();
        claimers.spawn(async move {
            let worker = register(&storage).await;
            let tasks: &[&str] = if n % 2 == 0 { &[TASK] } else { &[OTHER, TASK] };
            while done.lock().expect("lock").len() < total {
                let jobs = claim_runs(&storage, &worker, tasks, 1 + n, 1 + n % 3).await;
                let runs: HashMap<Option<&str>, JobId> =
                    jobs.iter().map(|job| (job.queue.as_deref(), job.id)).collect();
                for job in jobs.iter().filter(|job| job.attempts == 1) {
                    if let Some(queue) = &job.queue {
                        // The queue is held, so nobody else writes to this list.
                        started.lock().expect("lock").entry(queue.clone()).or_default().push(job.id);
                    }
                }
                tokio::task::yield_now().await;
                for job in &jobs {
                    let fails = job.attempts == 1 && job.id.number() % 7 == 0;
                    let outcome = if fails { failed("again", Duration::ZERO) } else { Outcome::completed() };
                    let is_last = job.queue.is_none() || runs[&job.queue.as_deref()] == job.id;
                    let claim = ClaimRef::of(job);
                    let claim = if is_last { claim } else { claim.keeping_queue() };
                    let settled = storage.settle(&worker, &[Settlement::new(claim, outcome)]).await.expect("settle");
                    assert_eq!(settled.applied, [job.id], "nobody else had it");
                    assert!(fails || done.lock().expect("lock").insert(job.id), "a job ran twice");
                }
            }
        });
    }
    while let Some(result) = claimers.join_next().await {
        result.expect("a claimer");
    }
    let started = started.lock().expect("lock");
    for (queue, started) in started.iter() {
        assert_eq!(*started, expected(queue), "the order of {queue}");
    }
    assert_eq!(started.len(), QUEUES);
}

/// A worker gets the first ready job of a queue, or none: not one that stands behind a job of another task, a forbidden one, or one that
/// could not be found in time.
pub async fn nothing_of_a_queue_is_taken_before_its_first_job(storage: Subject) {
    let worker = register(&storage).await;
    let tasks = [OTHER.to_owned()];
    storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect("register");
    add(&storage, vec![JobSpec::new(OTHER, 0).serial_queue("a"), JobSpec::new(TASK, 1).serial_queue("a")]).await;
    add(&storage, vec![spec().serial_queue("b").flag("slow"), spec().serial_queue("b")]).await;
    let flags = ["slow".to_owned()];
    let tasks = [TASK.to_owned()];
    let request = ClaimRequest::new(&worker, &tasks, 10).forbidden_flags(&flags).run_length(3);
    assert!(storage.claim(&request).await.expect("claim").jobs.is_empty());
    // What is not ready yet does not count.
    add(&storage, vec![JobSpec::new(OTHER, 2).serial_queue("c").run_in(Duration::from_secs(60))]).await;
    let ready = add_one(&storage, spec().serial_queue("c")).await;
    assert_eq!(
        storage.claim(&request).await.expect("claim").jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
        [ready.id]
    );
    assert_eq!(claim_runs(&storage, &worker, &[OTHER, TASK], 10, 1).await.len(), 2, "a's first and b's first");
}

/// Behind a backlog of one queue a claim may begin where others found something; of that queue it still takes the oldest.
pub async fn a_queues_backlog_is_never_overtaken_by_its_newest(storage: Subject) {
    const BACKLOG: i32 = 20_000;
    let (one, other) = (register(&storage).await, register(&storage).await);
    let of_queue = |n: i32| JobSpec::new(TASK, n).serial_queue("q");
    for chunk in 0..4 {
        add(&storage, (0..BACKLOG / 4).map(|n| of_queue(chunk * BACKLOG / 4 + n)).collect()).await;
    }
    add(&storage, (0..100).map(|_| JobSpec::new(TASK, -1)).collect()).await;
    add_one(&storage, of_queue(BACKLOG)).await;
    add(&storage, (0..100).map(|_| JobSpec::new(TASK, -1)).collect()).await;
    let held = claim_one(&storage, &one).await;
    assert_eq!(number(&held), 0);
    // Nobody is promised that one claim finds them behind so many that cannot be taken.
    let mut found = 0;
    for _ in 0..20 {
        found += claim(&storage, &other, 10).await.iter().inspect(|job| assert_eq!(job.queue, None)).count();
    }
    assert!(found >= 50, "{found} are found behind the backlog");
    settle(&storage, &one, &held, Outcome::completed()).await;
    for _ in 0..3 {
        for job in claim(&storage, &other, 150).await.iter().filter(|job| job.queue.is_some()) {
            assert_eq!(number(job), 1, "the first that is left");
        }
    }
}

/// A run is the queue's next jobs without a gap, as many as asked for, and counts as one. The queue is held until the last one is
/// settled.
pub async fn a_run_is_the_next_jobs_of_a_queue_under_one_hold(storage: Subject) {
    let (one, other) = (register(&storage).await, register(&storage).await);
    let tasks = [OTHER.to_owned()];
    storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect("register");
    let of = |task: &str, n: i32| JobSpec::new(task, n).serial_queue("q");
    let ago = Utc::now() - TimeDelta::minutes(1);
    let mut specs: Vec<JobSpec> = (0..5).map(|n| of(TASK, n)).collect();
    specs.push(of(OTHER, 5));
    specs.push(of(TASK, 6).max_attempts(1));
    specs.extend([of(TASK, 7), of(TASK, -1).priority(-1).run_at(ago), JobSpec::new(TASK, 100), of(TASK, 8)]);
    specs.extend([JobSpec::new(TASK, 101).serial_queue("r"), JobSpec::new(TASK, 102).serial_queue("s")]);
    add(&storage, specs).await;
    let numbers = |jobs: &[ClaimedJob]| jobs.iter().map(|job| number(job)).collect::<Vec<_>>();

    let run = claim_runs(&storage, &one, &[TASK], 3, 3).await;
    assert_eq!(numbers(&run), [-1, 0, 1, 100, 101], "three of the queue count as one");
    assert!(run.iter().all(|job| job.attempts == 1 && job.locked_by.as_deref() == Some(one.as_str())));
    let (of_queue, rest): (Vec<ClaimedJob>, Vec<ClaimedJob>) =
        run.into_iter().partition(|job| job.queue.as_deref() == Some("q"));
    complete_runs(&storage, &one, &rest[1..]).await;
    settle(&storage, &one, &rest[0], Outcome::completed()).await;
    let rest = claim_runs(&storage, &other, &[TASK], 9, 3).await;
    assert_eq!(numbers(&rest), [102], "the queue is held");
    for job in &of_queue[..2] {
        let claim = ClaimRef::of(job).keeping_queue();
        storage.settle(&one, &[Settlement::new(claim, Outcome::completed())]).await.expect("settle");
        assert!(claim_runs(&storage, &other, &[TASK], 9, 3).await.is_empty(), "until the last one is settled");
    }
    settle(&storage, &one, &of_queue[2], Outcome::completed()).await;

    let run = claim_runs(&storage, &other, &[TASK], 9, 9).await;
    assert_eq!(numbers(&run), [2, 3, 4], "up to a job of a task that is not served");
    complete_runs(&storage, &other, &run).await;
    let run = claim_runs(&storage, &other, &[TASK, OTHER], 9, 9).await;
    assert_eq!(numbers(&run), [5], "and up to one in its last attempt, which may not have to wait");
    complete_runs(&storage, &other, &run).await;
    let run = claim_runs(&storage, &other, &[TASK, OTHER], 9, 9).await;
    assert_eq!(numbers(&run), [6, 7, 8]);

    // Whatever is released of it goes back to its place.
    let back: Vec<Settlement> =
        run[1..].iter().map(|job| Settlement::new(ClaimRef::of(job).keeping_queue(), Outcome::Released)).collect();
    storage.settle(&other, &back).await.expect("settle");
    assert!(claim_runs(&storage, &one, &[TASK], 9, 9).await.is_empty(), "still held");
    settle(&storage, &other, &run[0], failed("no", Duration::from_secs(60))).await;
    assert_eq!(numbers(&claim_runs(&storage, &one, &[TASK], 9, 9).await), [7, 8]);
}

/// A run is bounded by its bytes, and of a task with a limit of its own it is one job.
pub async fn a_run_is_bounded_like_any_claim(storage: Subject) {
    let worker = register(&storage).await;
    let tasks = ["limited".to_owned()];
    storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect("register");
    let large = |task: &str| JobSpec::new(task, "x".repeat(10_000)).serial_queue(task);
    add(&storage, (0..5).map(|_| large(TASK)).collect()).await;
    add(&storage, (0..5).map(|_| large("limited")).collect()).await;
    let (tasks, limits) = ([TASK.to_owned(), "limited".to_owned()], [("limited".to_owned(), 4)]);
    let request = ClaimRequest::new(&worker, &tasks, 100).run_length(50);
    let claimed = storage.claim(&request.max_bytes(25_000)).await.expect("claim").jobs;
    assert_eq!(claimed.iter().filter(|job| job.task == TASK).count(), 2, "as many bytes as were asked for");
    complete_runs(&storage, &worker, &claimed).await;
    let claimed = storage.claim(&request.limits(&limits)).await.expect("claim").jobs;
    let count = |task: &str| claimed.iter().filter(|job| job.task == task).count();
    assert_eq!((count(TASK), count("limited")), (3, 1));
}

/// The next job of a queue that was freed may be for another worker, which has heard of nothing: it is woken, at the latest when the one that
/// freed it claims again.
pub async fn a_freed_queue_wakes_whoever_serves_its_next_job(storage: Subject) {
    let within = Duration::from_secs(20);
    let mut wakeups = storage.wakeups(None);
    let first = tokio::time::timeout(within, wakeups.next()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    let worker = WorkerId::random();
    assert!(storage.register(&Registration::new(&worker, &[TASK.to_owned()])).await.expect("register"));
    let of = |task: &str| JobSpec::new(task, 1).serial_queue("q");
    add(&storage, vec![of(TASK), of(OTHER)]).await;
    let mut woken = async || {
        let woken = async { while !matches!(wakeups.next().await, Some(Wakeup::JobsAdded(_))) {} };
        tokio::time::timeout(within, woken).await.expect("in time");
    };
    woken().await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, Outcome::completed()).await;
    assert!(claim(&storage, &worker, 5).await.is_empty());
    woken().await;
}

/// What stands behind the first job of a queue, which may be for nobody, can be taken when that is gone. Whoever has passed it by hears of it.
pub async fn taking_the_first_job_of_a_queue_away_wakes_a_listener(storage: Subject) {
    let within = Duration::from_secs(20);
    let worker = register(&storage).await;
    for verb in ["complete", "discard", "remove"] {
        let of = |task: &str, key: &str| JobSpec::new(task, 1).serial_queue(verb).key(format!("{verb} {key}"));
        let jobs = add(&storage, vec![of(OTHER, "first"), of(TASK, "second")]).await;
        assert!(claim(&storage, &worker, 5).await.is_empty());
        let mut wakeups = storage.wakeups(None);
        let first = tokio::time::timeout(within, wakeups.next()).await.expect("in time");
        assert_eq!(first, Some(Wakeup::Listening));
        match verb {
            "complete" => drop(admin(&storage).complete(&[jobs[0].id]).await.expect("complete")),
            "discard" => drop(admin(&storage).discard(&[jobs[0].id], "no").await.expect("discard")),
            _ => drop(admin(&storage).remove(&format!("{verb} first")).await.expect("remove")),
        }
        let woken = async { while !matches!(wakeups.next().await, Some(Wakeup::JobsAdded(_))) {} };
        tokio::time::timeout(within, woken).await.expect(verb);
        assert_eq!(claim(&storage, &worker, 5).await.len(), 1, "{verb}");
    }
}
