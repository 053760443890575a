//! Claims whose walk has many parts.

use std::time::Duration;

use backfill_core::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use backfill_core::job::{Job, JobId, JobSpec};
use backfill_core::storage::{
    ClaimRef, ClaimRequest, ClaimedJob, Consumer, Outcome, Registration, Settlement, Storage, WorkerId,
};
use futures::FutureExt;
use tempfile::TempDir;

use crate::SqliteStorage;

const TASK: &str = "t";

/// A fresh file, walked over in parts of so many rows.
async fn in_parts_of(rows: u32) -> (TempDir, SqliteStorage) {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/jobs.db", directory.path().display());
    let jobs = SqliteStorage { part: rows, ..SqliteStorage::open(&url).expect("open") };
    jobs.migrate().await.expect("migrate");
    (directory, jobs)
}

async fn registered(jobs: &SqliteStorage) -> WorkerId {
    let worker = WorkerId::random();
    jobs.register(&Registration::new(&worker, &[TASK.to_owned()])).await.expect("register");
    worker
}

async fn add(jobs: &SqliteStorage, specs: impl IntoIterator<Item = JobSpec>) -> Vec<Job> {
    let specs: Vec<_> = specs.into_iter().map(|spec| spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a job")).collect();
    jobs.add(&specs).await.expect("add")
}

/// Jobs of a queue that is held.
async fn held(jobs: &SqliteStorage, count: usize) -> ClaimedJob {
    let worker = registered(jobs).await;
    add(jobs, (0..count).map(|_| JobSpec::new(TASK, 0).serial_queue("held").priority(-1))).await;
    let tasks = [TASK.to_owned()];
    let claimed = jobs.claim(&ClaimRequest::new(&worker, &tasks, 1)).await.expect("claim");
    claimed.jobs.into_iter().next().expect("the first")
}

#[tokio::test]
async fn a_walk_in_parts_takes_the_same_jobs_in_the_same_order_as_one_in_a_piece() {
    let mut taken = Vec::new();
    for rows in [1, 2, 3, 7, 1_000] {
        let (_directory, jobs) = in_parts_of(rows).await;
        held(&jobs, 10).await;
        // Priorities, times (some of them the same), queues, tasks of others, a limit of a task, sizes, and last attempts.
        let time = |n: i64| chrono::DateTime::from_timestamp(1_000 - n / 4, 0).expect("a time");
        let specs = (0..60_i64).map(|n| {
            let task = ["t", "u", "limited"][usize::try_from(n % 3).expect("small")];
            let spec = JobSpec::new(task, "x".repeat(usize::try_from(n).expect("small")));
            let spec = spec.priority(i16::try_from(n % 4 * 1_000).expect("small") - 2_000).run_at(time(n));
            let spec = if n % 5 == 0 { spec.serial_queue(format!("q{}", n % 2)) } else { spec };
            if n % 17 == 3 { spec.max_attempts(1) } else { spec }
        });
        add(&jobs, specs).await;
        let worker = registered(&jobs).await;
        let (tasks, limits) = (["t".to_owned(), "limited".to_owned()], [("limited".to_owned(), 3)]);
        let mut all = Vec::new();
        for (limit, bytes, slots, run_length) in
            [(4, 10_000, 9, 1), (9, 90, 9, 4), (30, 10_000, 2, 4), (90, 9_000, 90, 1)]
        {
            let request = ClaimRequest::new(&worker, &tasks, limit).limits(&limits).max_bytes(bytes);
            let request = request.free_slots(slots).run_length(run_length).full_scan(true);
            let claimed = jobs.claim(&request).await.expect("claim");
            let ids: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
            all.push((ids, claimed.more, claimed.for_free_slots));
        }
        assert!(all[0].0.len() == 4 && all[3].0.len() > 9, "{all:?}");
        taken.push(all);
    }
    assert!(taken.iter().all(|all| *all == taken[0]), "{taken:#?}");
}

#[tokio::test]
async fn others_write_between_the_parts_of_a_walk() {
    let (_directory, jobs) = in_parts_of(100).await;
    held(&jobs, 1_000).await;
    let free = add(&jobs, [JobSpec::new(TASK, 1)]).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    let request = ClaimRequest::new(&worker, &tasks, 10);
    let mut claim = jobs.claim(&request);
    for _ in 0..5 {
        assert!((&mut claim).now_or_never().is_none(), "it is far from its end");
        add(&jobs, [JobSpec::new("other", 1)]).await;
    }
    let claimed = claim.await.expect("claim");
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [free[0].id]);
    assert!(!claimed.more);
}

#[tokio::test]
async fn a_walk_that_takes_long_is_broken_off_and_the_next_claim_goes_on_from_there() {
    let (_directory, jobs) = in_parts_of(10).await;
    held(&jobs, 101).await;
    let free = add(&jobs, [JobSpec::new(TASK, 1), JobSpec::new(TASK, 2)]).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    // A part is too long already.
    let jobs = SqliteStorage { walk: Duration::ZERO, ..jobs };
    let request = ClaimRequest::new(&worker, &tasks, 10);
    let limits = [(TASK.to_owned(), 1)];
    let mut broken_off = 0;
    let claimed = loop {
        let claimed = jobs.claim(&request).await.expect("claim");
        if !claimed.jobs.is_empty() {
            break claimed;
        }
        assert_eq!((claimed.more, claimed.rescan_after), (false, Some(Duration::ZERO)));
        broken_off += 1;
    };
    assert!((10..=12).contains(&broken_off), "{broken_off}");
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [free[0].id, free[1].id]);
    let urgent = add(&jobs, [JobSpec::new(TASK, 3).priority(-9), JobSpec::new(TASK, 4)]).await;
    // Neither of these may pass anything by, and both come to their end.
    let claimed = jobs.claim(&request.limits(&limits)).await.expect("claim").jobs;
    assert_eq!(claimed[0].id, urgent[0].id);
    let claimed = jobs.claim(&request.full_scan(true)).await.expect("claim").jobs;
    assert_eq!(claimed[0].id, urgent[1].id);
}

#[tokio::test]
async fn a_queue_that_is_freed_before_the_place_of_a_walk_is_found_by_a_full_scan() {
    let (_directory, jobs) = in_parts_of(10).await;
    let first = held(&jobs, 100).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    let request = ClaimRequest::new(&worker, &tasks, 10);
    assert_eq!(jobs.claim(&request).await.expect("claim").jobs, []);
    let holder = WorkerId::named(first.locked_by.clone().expect("held"));
    let outcome = Outcome::completed();
    jobs.settle(&holder, &[Settlement::new(ClaimRef::of(&first), outcome)]).await.expect("settle");
    let claimed = jobs.claim(&request.full_scan(true)).await.expect("claim");
    assert_eq!(claimed.jobs.len(), 1);
}

#[tokio::test]
async fn a_walk_that_is_broken_off_comes_past_any_number_of_jobs_of_one_time() {
    let (_directory, jobs) = in_parts_of(10).await;
    let at = chrono::DateTime::from_timestamp(1_000, 0).expect("a time");
    let holder = registered(&jobs).await;
    let stuck = |n| JobSpec::new(TASK, n).serial_queue("held").run_at(at);
    add(&jobs, (0..101).map(stuck)).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    assert_eq!(jobs.claim(&ClaimRequest::new(&holder, &tasks, 1)).await.expect("claim").jobs.len(), 1);
    let free = add(&jobs, [JobSpec::new(TASK, 1)]).await;
    let jobs = SqliteStorage { walk: Duration::ZERO, ..jobs };
    let request = ClaimRequest::new(&worker, &tasks, 10);
    assert_eq!(jobs.claim(&request).await.expect("claim").rescan_after, Some(Duration::ZERO));
    let claimed = jobs.claim(&request).await.expect("claim").jobs;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [free[0].id]);
}
