//! What keeps ready jobs from being taken: bytes, last attempts, limits of tasks, and flags.

use super::super::{Subject, TASK, add, register, spec};
use crate::job::JobSpec;
use crate::storage::{ClaimRequest, Registration, WorkerId};

/// Large jobs are claimed by their bytes, so that what is claimed ahead fits into memory; one job always is.
pub async fn a_claim_takes_about_as_many_bytes_as_it_may(storage: Subject) {
    let worker = register(&storage).await;
    let large = || JobSpec::new(TASK, "x".repeat(10_000));
    add(&storage, vec![large(), large(), spec(), large(), large().serial_queue("q"), large()]).await;
    let tasks = [TASK.to_owned()];
    let request = |bytes| ClaimRequest::new(&worker, &tasks, 100).max_bytes(bytes);
    let claimed = storage.claim(&request(25_000)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (3, true), "two large ones, a small one, and there is more");
    let claimed = storage.claim(&request(1)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (1, true), "one always");
    // (What was looked at and left is no less ready.)
    let claimed = storage.claim(&request(20_100)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (2, false));
    assert!(claimed.jobs[0].queue.is_some());
    // The same where every job may be taken as it is. (With its quotes, such a payload has 10 002 bytes.)
    add(&storage, (0..6).map(|_| large()).collect()).await;
    let claimed = storage.claim(&request(30_005)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (2, true));
    let claimed = storage.claim(&request(10_001)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (1, true), "one always");
    let claimed = storage.claim(&request(30_006)).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (3, false), "to the byte");
}

/// A job in its last attempt is taken only if it can start: if the worker died before, it would be dead without having run. And
/// nothing behind it is taken before it.
pub async fn last_attempts_are_taken_for_free_slots_only(storage: Subject) {
    let worker = register(&storage).await;
    let last = || spec().max_attempts(1);
    add(&storage, vec![spec(), last(), spec(), last(), spec()]).await;
    let tasks = [TASK.to_owned()];
    let request = |slots| ClaimRequest::new(&worker, &tasks, 100).free_slots(slots);
    let mut taken = Vec::new();
    for (slots, expected, left) in [(1, 1, true), (0, 0, true), (2, 2, true), (1, 2, false)] {
        let claimed = storage.claim(&request(slots)).await.expect("claim");
        assert_eq!((claimed.jobs.len(), claimed.for_free_slots), (expected, left), "{slots} slots");
        assert!(!left || claimed.more, "there is more");
        taken.extend(claimed.jobs.into_iter().map(|job| job.id));
    }
    assert!(taken.is_sorted(), "in their order");
}

/// Bytes of jobs that cannot be taken anyway count for nothing: of a serial queue, and beyond the limit of a task.
pub async fn only_what_can_be_taken_counts_by_its_bytes(storage: Subject) {
    let worker = register(&storage).await;
    let large = |task: &str| JobSpec::new(task, "x".repeat(10_000));
    let tasks = ["limited".to_owned()];
    storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect("register");
    add(&storage, (0..5).map(|_| large(TASK).serial_queue("q")).collect()).await;
    add(&storage, (0..5).map(|_| large("limited")).collect()).await;
    add(&storage, vec![spec(), spec(), spec()]).await;
    let (tasks, limits) = ([TASK.to_owned(), "limited".to_owned()], [("limited".to_owned(), 1)]);
    let request = ClaimRequest::new(&worker, &tasks, 100).limits(&limits).max_bytes(25_000);
    let claimed = storage.claim(&request).await.expect("claim");
    assert_eq!((claimed.jobs.len(), claimed.more), (5, false), "one of the queue, one of the task, and the rest");
}

/// A job with any forbidden flag stays, whatever else it has; no flags always pass.
pub async fn forbidden_flags_are_left_alone(storage: Subject) {
    let worker = register(&storage).await;
    let jobs =
        add(&storage, vec![spec().flag("a").flag("b"), spec().flag("b"), spec().flag("c").serial_queue("q"), spec()])
            .await;
    let tasks = [TASK.to_owned()];
    let ids = |flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (storage, worker, tasks) = (storage.clone(), worker.clone(), tasks.clone());
        async move {
            let request = ClaimRequest::new(&worker, &tasks, 10).forbidden_flags(&flags);
            let jobs = storage.claim(&request).await.expect("claim").jobs;
            jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(ids(&["a", "c", "unknown"]).await, [jobs[1].id, jobs[3].id]);
    assert_eq!(ids(&["c"]).await, [jobs[0].id]);
    assert_eq!(ids(&[]).await, [jobs[2].id]);
}

/// Of a task with a limit no more is taken than that, and what is left of the claim goes to others.
pub async fn limits_of_tasks_hold_and_leave_room_for_others(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, (0..20).map(|_| spec().priority(-1)).collect()).await;
    add(&storage, (0..5).map(|_| spec().priority(-1).serial_queue("q")).collect()).await;
    add(&storage, (0..5).map(|_| JobSpec::new("other", 1)).collect()).await;
    let tasks = [TASK.to_owned(), "other".to_owned()];
    let taken = |limit, rooms: Vec<(String, usize)>| {
        let (storage, worker, tasks) = (storage.clone(), worker.clone(), tasks.clone());
        async move {
            let claimed =
                storage.claim(&ClaimRequest::new(&worker, &tasks, limit).limits(&rooms)).await.expect("claim");
            let of = |task: &str| claimed.jobs.iter().filter(|job| job.task == task).count();
            (of(TASK), of("other"), claimed.more)
        }
    };
    let room = |room| vec![(TASK.to_owned(), room)];
    // The claim need not see past the jobs that it may not take, but then it says that there is more.
    let (limited, other, more) = taken(4, room(3)).await;
    assert!(limited == 3 && (other == 1 || more), "{limited} {other} {more}");
    let (limited, others, _) = taken(100, room(2)).await;
    assert_eq!((limited, others), (2, 5 - other));
    assert_eq!(taken(100, room(0)).await.0, 0);
    assert_eq!(taken(100, vec![("other".to_owned(), 1)]).await.0, 16);
}
