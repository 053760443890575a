//! Claims whose walk has many parts, and those that pass jobs by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backfill_core::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use backfill_core::job::{Job, JobId, JobSpec};
use backfill_core::storage::{
    Admin, ClaimRef, ClaimRequest, ClaimToken, Claimed, ClaimedJob, Consumer, Outcome, Reached, Registration,
    Reschedule, Settlement, Storage, Transfer, Wakeup, Walk, Watch, WorkerId,
};
use chrono::{TimeDelta, Utc};
use futures::{FutureExt, StreamExt};
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

fn long_ago() -> chrono::DateTime<Utc> {
    chrono::DateTime::from_timestamp(1_000, 0).expect("a time")
}

/// A job that no claim holds.
fn unheld(job: Job) -> ClaimedJob {
    ClaimedJob::new(job, ClaimToken::from_number(0))
}

/// Jobs of a queue that is held, which have been ready for long.
async fn held(jobs: &SqliteStorage, count: i64) -> ClaimedJob {
    let worker = registered(jobs).await;
    let at = |n| long_ago() + TimeDelta::milliseconds(n);
    add(jobs, (0..count).map(|n| JobSpec::new(TASK, 0).serial_queue("held").priority(-1).run_at(at(n)))).await;
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
    // Limits of tasks change nothing of that; and what must pass nothing by comes to its end.
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
    let at = long_ago();
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

/// As if half a minute's walk in vain had gone over all that is there: that is passed by for long.
fn passes_all_by(jobs: &SqliteStorage, request: &ClaimRequest<'_>) {
    jobs.cursor.forget();
    let start = jobs.cursor.begin(request, crate::file::time(jobs.file.now()), Instant::now());
    let walk = Walk { took: Duration::from_secs(30), is_long: true, reached: Reached::End };
    jobs.cursor.end(&start, request, &mut Claimed::default(), &walk, Instant::now());
}

/// Counts what the file's engine does for those who write, in hundreds of its steps. No clock has a say in that.
async fn count_steps(jobs: &SqliteStorage) -> Arc<AtomicU64> {
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let counting = jobs.file.writer.write("count steps", move |connection| {
        Box::pin(async move {
            connection.lock_handle().await?.set_progress_handler(100, move || {
                counted.fetch_add(1, Ordering::Relaxed);
                true
            });
            Ok(())
        })
    });
    counting.await.expect("count");
    steps
}

#[tokio::test]
async fn between_its_passes_an_idle_worker_does_a_twentieth_of_their_work_however_often_it_looks() {
    let (_directory, jobs) = in_parts_of(crate::claim::PART).await;
    held(&jobs, 60_000).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    let (limits, held_too) = ([(TASK.to_owned(), 5)], || JobSpec::new(TASK, 0).serial_queue("held").priority(-2));
    let steps = count_steps(&jobs).await;
    for limits in [&[][..], &limits] {
        let jobs = SqliteStorage { cursor: Arc::default(), ..jobs.clone() };
        let request = ClaimRequest::new(&worker, &tasks, 10).limits(limits);
        let mut looks = 0;
        let pass = loop {
            looks += 1;
            let before = steps.load(Ordering::Relaxed);
            let claimed = jobs.claim(&request).await.expect("claim");
            assert_eq!(claimed.jobs, []);
            if claimed.rescan_after.is_some() {
                break steps.load(Ordering::Relaxed) - before;
            }
        };
        assert!(looks <= 3 && pass > 60_000 / 100, "{looks} looks, the last of {pass} steps");
        passes_all_by(&jobs, &request);
        let mut between = 0;
        for look in 0..100 {
            if look % 10 == 0 {
                // It is woken for what it cannot take either.
                add(&jobs, [held_too()]).await;
            }
            let before = steps.load(Ordering::Relaxed);
            let claimed = jobs.claim(&request).await.expect("claim");
            assert_eq!(
                (claimed.jobs, claimed.rescan_after.is_some_and(|pause| pause > Duration::from_secs(60))),
                (vec![], true)
            );
            between += steps.load(Ordering::Relaxed) - before;
        }
        assert!(between <= pass / 20, "{between} steps between passes of {pass}");
        // A run that ends when idle looks at all once, and knows then.
        let claimed = jobs.claim(&request.full_scan(true)).await.expect("claim");
        assert_eq!((claimed.jobs, claimed.rescan_after), (vec![], None));
    }
}

#[tokio::test]
async fn new_jobs_are_seen_by_each_claim_wherever_they_stand() {
    let (_directory, jobs) = in_parts_of(10).await;
    held(&jobs, 100).await;
    let (worker, tasks) = (registered(&jobs).await, [TASK.to_owned()]);
    let request = ClaimRequest::new(&worker, &tasks, 10);
    let spec = |n: usize| JobSpec::new(TASK, n);
    passes_all_by(&jobs, &request);
    for specs in [
        vec![spec(1).priority(-9)],
        vec![spec(2).priority(-1), spec(3)],
        vec![spec(4).serial_queue("q").priority(i16::MIN), spec(5).priority(i16::MAX)],
    ] {
        let new = add(&jobs, specs).await;
        let claimed = jobs.claim(&request).await.expect("claim").jobs;
        let claimed: Vec<JobId> = claimed.iter().map(|job| job.id).collect();
        assert_eq!(claimed, new.iter().map(|job| job.id).collect::<Vec<_>>());
    }
    // A time in the past is none of the ways in which a job is new, so whoever adds it tells.
    let mut wakeups = jobs.wakeups(None);
    assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
    passes_all_by(&jobs, &request);
    let past = add(&jobs, [spec(6).run_at(Utc::now() - TimeDelta::days(1)).priority(-3)]).await;
    assert!(matches!(wakeups.next().await, Some(Wakeup::JobsAdded(_))));
    assert_eq!(jobs.claim(&request).await.expect("claim").jobs[0].id, past[0].id);
}

/// The file as another process sees it.
fn other_process(jobs: &SqliteStorage) -> SqliteStorage {
    SqliteStorage::open(&format!("sqlite://{}", jobs.path().display())).expect("open")
}

/// What makes a job takeable that was not, done by another process that holds the job and its queue.
#[derive(Clone, Copy, Debug)]
enum Act {
    SettlesTheFirst,
    GivesBack,
    Deregisters,
    ForgetsIt,
    IsUnlocked,
    IsRescued,
    HasNoRowForHours,
    Reschedules,
    CompletesTheFirst,
    DiscardsTheFirst,
    RemovesTheFirst,
    MovesJobsHere,
}

#[tokio::test]
async fn whoever_makes_passed_by_jobs_takeable_tells_all_other_processes() {
    use Act::{
        CompletesTheFirst, Deregisters, DiscardsTheFirst, ForgetsIt, GivesBack, HasNoRowForHours, IsRescued,
        IsUnlocked, MovesJobsHere, RemovesTheFirst, Reschedules, SettlesTheFirst,
    };
    let tasks = [TASK.to_owned()];
    for act in [
        SettlesTheFirst,
        GivesBack,
        Deregisters,
        ForgetsIt,
        IsUnlocked,
        IsRescued,
        HasNoRowForHours,
        Reschedules,
        CompletesTheFirst,
        DiscardsTheFirst,
        RemovesTheFirst,
        MovesJobsHere,
    ] {
        let (_directory, jobs) = in_parts_of(10).await;
        // The first of its queue is held, or for nobody.
        let first = match act {
            Reschedules => {
                let later = JobSpec::new(TASK, 0).serial_queue("held").run_in(Duration::from_secs(3_600));
                unheld(add(&jobs, [later]).await.remove(0))
            }
            CompletesTheFirst | DiscardsTheFirst | RemovesTheFirst => {
                let first = JobSpec::new("nobody's", 0).serial_queue("held").run_at(long_ago()).key("k");
                let first = add(&jobs, [first]).await.remove(0);
                add(&jobs, (0..50).map(|n| JobSpec::new(TASK, n).serial_queue("held").run_at(long_ago()))).await;
                unheld(first)
            }
            _ => held(&jobs, 50).await,
        };
        let holder = WorkerId::named(first.locked_by.clone().unwrap_or_default());
        let worker = registered(&jobs).await;
        let request = ClaimRequest::new(&worker, &tasks, 10);
        let mut wakeups = jobs.wakeups(None);
        assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
        passes_all_by(&jobs, &request);
        let nothing = jobs.claim(&request).await.expect("claim");
        assert_eq!(nothing.jobs, [], "{act:?}");

        let other = other_process(&jobs);
        let settle = async |outcome| {
            other.settle(&holder, &[Settlement::new(ClaimRef::of(&first), outcome)]).await.expect("settle");
        };
        let sql = async |text: &'static str| {
            let change = other.file.writer.write("change", move |connection| {
                Box::pin(async move { sqlx::raw_sql(text).execute(connection).await.map(drop) })
            });
            change.await.expect("change");
        };
        match act {
            SettlesTheFirst => settle(Outcome::completed()).await,
            GivesBack => settle(Outcome::Released).await,
            Deregisters => other.deregister(&holder).await.expect("deregister"),
            ForgetsIt => drop(other.release_untracked(&holder, &[]).await.expect("release")),
            IsUnlocked => drop(other.unlock(&[holder.to_string()]).await.expect("unlock")),
            IsRescued => {
                sql("update backfill_pools set seen_at = 0 where id in (select locked_by from backfill_jobs)").await;
                // Of the test's other worker nothing is heard for as long as a busy machine takes.
                let silence = Duration::from_secs(3_600);
                let rescued = other.rescue(&Watch::new(silence).contact(silence)).await.expect("rescue");
                assert_eq!(rescued.len(), 1);
            }
            HasNoRowForHours => {
                sql("delete from backfill_pools where id in (select locked_by from backfill_jobs);
                     update backfill_jobs set locked_at = 1 where locked_by is not null;
                     update backfill_queues set locked_at = 1 where locked_by is not null;")
                .await;
                other.release_stale().await.expect("release");
            }
            Reschedules => {
                let past = Reschedule::default().run_at(Utc::now() - TimeDelta::days(1));
                other.reschedule(&[first.id], &past).await.expect("reschedule");
            }
            CompletesTheFirst => drop(other.complete(&[first.id]).await.expect("complete")),
            DiscardsTheFirst => drop(other.discard(&[first.id], "no").await.expect("discard")),
            RemovesTheFirst => drop(other.remove("k").await.expect("remove")),
            MovesJobsHere => {
                let mut moved = Job::new(1, TASK, first.payload.clone(), Utc::now() - TimeDelta::days(1));
                moved.run_at = moved.created_at;
                other.import(&holder, "move-1", &[moved]).await.expect("import");
            }
        }
        // Nobody has to wait: the next claim after the wakeup looks from the start.
        let woken = tokio::time::timeout(Duration::from_secs(60), wakeups.next()).await;
        assert!(matches!(woken, Ok(Some(Wakeup::JobsAdded(_)))), "{act:?}: {woken:?}");
        let claimed = jobs.claim(&request).await.expect("claim").jobs;
        assert_eq!(claimed.len(), 1, "{act:?}");
    }
}

#[tokio::test]
async fn a_freed_queue_wakes_nobody_who_has_passed_nothing_by() {
    let (_directory, jobs) = in_parts_of(10).await;
    let first = held(&jobs, 3).await;
    let holder = WorkerId::named(first.locked_by.clone().expect("held"));
    let mut wakeups = jobs.wakeups(None);
    assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
    let outcome = Outcome::completed();
    other_process(&jobs).settle(&holder, &[Settlement::new(ClaimRef::of(&first), outcome)]).await.expect("settle");
    // What is heard next is not that.
    add(&jobs, (0..7).map(|n| JobSpec::new(TASK, n))).await;
    assert_eq!(wakeups.next().await, Some(Wakeup::JobsAdded(7)));
}
