//! Cases about heartbeats.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;

use super::{Subject, TASK, add, add_one, admin, claim, inspect, must_read, register, spec};
use crate::storage::{Effort, Registration, Reschedule, Rescued, Watch, WorkerId, WorkerInfo, WorkerStatus};

/// No heartbeat is older than no time at all, unless time has passed since it was sent.
pub(super) async fn let_time_pass() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// What a dead worker held is free, with its attempt used and the reason told; its queue too.
pub async fn workers_without_heartbeats_are_rescued(storage: Subject) {
    let dead = register(&storage).await;
    add(&storage, vec![spec().serial_queue("q"), spec(), spec().serial_queue("q")]).await;
    let held = claim(&storage, &dead, 2).await;
    assert_eq!(held.len(), 2);
    let_time_pass().await;
    let rescued = storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert_eq!(rescued.len(), 1);
    assert_eq!((rescued[0].worker.as_str(), rescued[0].jobs), (dead.as_str(), 2));
    for job in &held {
        let job = must_read(&storage, job.id).await;
        assert_eq!((job.attempts, job.locked_by), (1, None));
        assert!(job.last_error.is_some_and(|text| text.contains(dead.as_str())));
    }
    assert!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue").is_empty(), "once is enough");
    let alive = register(&storage).await;
    assert_eq!(claim(&storage, &alive, 10).await.len(), 2);
}

/// Jobs that die with a worker again and again come back apart from each other, so that one that kills it takes ever fewer of the
/// others with it.
pub async fn jobs_that_died_twice_come_back_apart(storage: Subject) {
    let jobs: Vec<_> = add(&storage, (0..20).map(|_| spec().max_attempts(9)).collect()).await;
    for death in 1..=3_i16 {
        // Whatever waits for its time is due now.
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        admin(&storage).reschedule(&ids, &Reschedule::new().run_in(Duration::ZERO)).await.expect("reschedule");
        let dead = register(&storage).await;
        assert_eq!(claim(&storage, &dead, 20).await.len(), 20);
        let_time_pass().await;
        let before = storage.now().await.expect("the time");
        storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
        let after = storage.now().await.expect("the time");
        let bound = TimeDelta::from_std(Duration::from_secs_f64(Rescued::spread(death))).expect("minutes");
        let mut times = BTreeSet::new();
        for job in &jobs {
            let run_at = must_read(&storage, job.id).await.run_at;
            assert!(run_at <= after + bound, "{death}: {run_at} {after}");
            times.insert((run_at - before).num_seconds());
        }
        assert_eq!(times.len() > 3, death > 1, "{death}: {times:?}");
    }
}

/// Workers that send heartbeats are none of the rescuer's business; those that deregister leave nothing behind.
pub async fn workers_with_heartbeats_or_deregistered_are_left_alone(storage: Subject) {
    let (alive, stopped) = (register(&storage).await, register(&storage).await);
    add(&storage, vec![spec(), spec()]).await;
    for worker in [&alive, &stopped] {
        assert_eq!(claim(&storage, worker, 1).await.len(), 1);
    }
    storage.deregister(&stopped).await.expect("deregister");
    let counts = inspect(&storage).counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (1, 1), "what it still held is released");
    let_time_pass().await;
    assert!(storage.rescue(&Watch::new(Duration::from_secs(60))).await.expect("rescue").is_empty());
    assert!(storage.heartbeat(&alive).await.expect("heartbeat"));
    assert_eq!(inspect(&storage).counts().await.expect("counts").running, 1);
}

/// A worker that was declared dead finds out at its next heartbeat, and claims nothing until it has a new identity.
pub async fn a_rescued_worker_learns_it(storage: Subject) {
    let worker = register(&storage).await;
    assert!(storage.heartbeat(&worker).await.expect("heartbeat"));
    let_time_pass().await;
    storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert!(!storage.heartbeat(&worker).await.expect("heartbeat"));
    add_one(&storage, spec()).await;
    assert!(claim(&storage, &worker, 1).await.is_empty());
    assert!(claim(&storage, &WorkerId::random(), 1).await.is_empty(), "nor does one that never registered");
    assert_eq!(claim(&storage, &register(&storage).await, 1).await.len(), 1);
}

/// An identity is given to one worker: who asks for it next is refused, and what the first holds stays its own.
pub async fn an_identity_is_given_once(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, spec()).await;
    let held = claim(&storage, &worker, 1).await;
    assert!(!storage.register(&Registration::new(&worker, &[])).await.expect("heartbeat"));
    assert_eq!(must_read(&storage, held[0].id).await, held[0].job);
    assert!(storage.heartbeat(&worker).await.expect("heartbeat"), "the first is still there");

    let (other, tasks) = (WorkerId::random(), ["registered".to_owned(), "registered too".to_owned()]);
    assert!(storage.register(&Registration::new(&other, &tasks)).await.expect("register"));
    let names = inspect(&storage).task_names().await.expect("task names");
    assert!(tasks.iter().all(|task| names.contains(task)), "{names:?}");
    let more = ["named nevertheless".to_owned()];
    assert!(!storage.register(&Registration::new(&other, &more)).await.expect("register"), "it is taken");
    assert!(inspect(&storage).task_names().await.expect("task names").contains(&more[0]));
    assert!(storage.heartbeat(&other).await.expect("heartbeat"));
}

/// Of the deadline that a worker has registered and the one that is asked for, the longer counts; and none counts that whoever asks
/// could not have heard.
pub async fn the_longer_of_two_deadlines_counts(storage: Subject) {
    let register_with = async |dead_after: Duration| {
        let worker = WorkerId::random();
        let registration = Registration::new(&worker, &[]).dead_after(dead_after);
        assert!(storage.register(&registration).await.expect("register"));
        worker
    };
    let (short, hour) = (Duration::from_millis(2), Duration::from_hours(1));
    let (long, short_lived) = (register_with(hour).await, register_with(short).await);
    add(&storage, vec![spec(), spec()]).await;
    for worker in [&long, &short_lived] {
        assert_eq!(claim(&storage, worker, 1).await.len(), 1);
    }
    let_time_pass().await;
    assert!(storage.rescue(&Watch::new(hour)).await.expect("rescue").is_empty(), "whoever looks asks for more");
    let watch = Watch::new(Duration::from_millis(1));
    let away = storage.rescue(&watch.contact(Duration::from_millis(1))).await.expect("rescue");
    assert!(away.is_empty(), "whoever looks was away itself: {away:?}");
    let rescued = storage.rescue(&watch.contact(short)).await.expect("rescue");
    assert_eq!(rescued.len(), 1, "{rescued:?}");
    assert_eq!(rescued[0].worker, short_lived.as_str());
    assert!(storage.heartbeat(&long).await.expect("heartbeat"), "it asks for more itself");
    assert!(!storage.heartbeat(&short_lived).await.expect("heartbeat"));
    assert_eq!(inspect(&storage).counts().await.expect("counts").running, 1);
}

/// A worker tells its tasks when it registers and whenever they change, and the names can be claimed at once.
pub async fn workers_tell_which_tasks_they_run(storage: Subject) {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let worker = WorkerId::random();
    assert!(storage.register(&Registration::new(&worker, &names(&["b", "a"]))).await.expect("register"));
    let other = register(&storage).await;
    let told = |workers: Vec<WorkerInfo>, id: &WorkerId| {
        let worker = workers.into_iter().find(|worker| worker.id == id.as_str()).expect("it is registered");
        assert!(worker.seen_at.is_some());
        worker.tasks
    };
    for workers in [
        inspect(&storage).serving().await.expect("serving"),
        inspect(&storage).workers(Effort::Exact).await.expect("workers"),
    ] {
        assert_eq!(told(workers.clone(), &worker), Some(names(&["a", "b"])));
        assert_eq!(told(workers, &other), Some(Vec::new()));
    }
    assert!(storage.serve(&worker, &names(&[TASK, "a"])).await.expect("serve"));
    assert_eq!(told(inspect(&storage).serving().await.expect("serving"), &worker), Some(names(&["a", TASK])));
    assert_eq!(told(inspect(&storage).serving().await.expect("serving"), &other), Some(Vec::new()));
    assert!(inspect(&storage).task_names().await.expect("names").contains(&TASK.to_owned()));
    let job = add_one(&storage, spec()).await;
    assert_eq!(claim(&storage, &worker, 1).await.first().map(|job| job.id), Some(job.id));
    let stranger = WorkerId::random();
    assert!(!storage.serve(&stranger, &names(&["a"])).await.expect("serve"));
    storage.deregister(&other).await.expect("deregister");
    assert_eq!(inspect(&storage).serving().await.expect("serving").len(), 1, "strangers are not registered by it");
}

/// What a worker says of itself is kept as it said it, until it says something else; and nothing is kept of one that is not registered.
pub async fn what_a_worker_says_of_itself_is_kept(storage: Subject) {
    let worker = register(&storage).await;
    let told = async || {
        let workers = inspect(&storage).serving().await.expect("serving");
        let named = workers.into_iter().filter(|info| info.id == worker.as_str());
        named.map(|info| info.status).collect::<Vec<_>>()
    };
    assert_eq!(told().await, [None]);
    let mut status = WorkerStatus::new(10);
    for hold in [Some("full"), None] {
        status.hold = hold.map(str::to_owned);
        status.running = 3;
        status.limits.insert("caf\u{e9}".to_owned(), 2);
        status.forbidden_flags = vec!["slow".to_owned()];
        storage.report(&worker, &status).await.expect("report");
        assert_eq!(told().await, [Some(status.clone())]);
        assert!(storage.heartbeat(&worker).await.expect("heartbeat"));
    }
    assert_eq!(inspect(&storage).workers(Effort::Exact).await.expect("workers")[0].status, Some(status.clone()));
    storage.report(&WorkerId::random(), &status).await.expect("of nobody");
    assert_eq!(inspect(&storage).serving().await.expect("serving").len(), 1);
}
