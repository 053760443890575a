//! Cases about how jobs end.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::heartbeat::let_time_pass;
use super::{Subject, add, add_one, admin, claim, claim_one, failed, inspect, must_read, read, register, settle, spec};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{JobSpec, Payload, RunAt};
use crate::storage::{
    ClaimRef, INTERRUPTED, JobFilter, MAX_ERROR_BYTES, Outcome, Registration, Reschedule, Rescued, Settlement, Then,
    Watch,
};

/// A completed job is deleted, and its queue is free.
pub async fn completed_jobs_are_gone(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, vec![spec().serial_queue("q"), spec().serial_queue("q")]).await;
    let first = claim_one(&storage, &worker).await;
    assert_eq!(settle(&storage, &worker, &first, Outcome::completed()).await, [first.id]);
    assert!(read(&storage, first.id).await.is_none());
    claim_one(&storage, &worker).await;
}

/// What is written about a failure is what was said; the rest stays.
pub async fn failed_jobs_wait_as_told(storage: Subject) {
    let worker = register(&storage).await;
    let added = add_one(&storage, spec().serial_queue("q").key("k").flag("f")).await;
    let job = claim_one(&storage, &worker).await;
    let before = Utc::now();
    assert_eq!(settle(&storage, &worker, &job, failed("why", Duration::from_secs(100))).await, [job.id]);
    let left = must_read(&storage, job.id).await;
    let delay = left.run_at - before;
    assert!((delay - TimeDelta::seconds(100)).abs() < TimeDelta::seconds(5), "{delay}");
    assert_eq!((left.attempts, left.last_error.as_deref()), (1, Some("why")));
    assert_eq!((left.locked_at, left.locked_by), (None, None));
    assert_eq!((left.updated_at, left.key, left.flags), (added.updated_at, added.key, added.flags));

    let at = DateTime::from_timestamp(Utc::now().timestamp() - 60, 0).unwrap_or_default();
    admin(&storage).reschedule(&[job.id], &Reschedule::new().run_at(at)).await.expect("reschedule");
    let again = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &again, failed("why 2", at)).await;
    assert_eq!(must_read(&storage, job.id).await.run_at, at, "a time of the task's own is written as it is");
}

/// A job that is given up uses up its attempts.
pub async fn dead_jobs_stay_dead(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, spec()).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, Outcome::dead("never".to_owned())).await;
    let left = must_read(&storage, job.id).await;
    assert_eq!((left.attempts, left.last_error.as_deref(), left.locked_by), (25, Some("never"), None));
    assert!(claim(&storage, &worker, 1).await.is_empty());
}

/// Neither snoozing nor releasing uses an attempt.
pub async fn snoozed_and_returned_jobs_get_their_attempt_back(storage: Subject) {
    let worker = register(&storage).await;
    let added = add_one(&storage, spec().serial_queue("q")).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, Outcome::Released).await;
    assert_eq!(must_read(&storage, job.id).await, added, "as if it had never been claimed");

    let job = claim_one(&storage, &worker).await;
    let until = RunAt::In(Duration::from_secs(3600));
    settle(&storage, &worker, &job, Outcome::Snoozed { until }).await;
    let left = must_read(&storage, job.id).await;
    assert_eq!((left.attempts, &left.last_error), (0, &None));
    assert!(left.run_at > Utc::now() + TimeDelta::minutes(50));
}

/// That its worker had to end is no failure of the job's, even in its last attempt; another worker can have it at once.
pub async fn jobs_that_are_cut_off_are_ready_again_with_their_attempt(storage: Subject) {
    let (ends, goes_on) = (register(&storage).await, register(&storage).await);
    let added = add_one(&storage, spec().serial_queue("q").max_attempts(1)).await;
    let job = claim_one(&storage, &ends).await;
    assert_eq!(settle(&storage, &ends, &job, Outcome::interrupted("a word")).await, [job.id]);
    let left = must_read(&storage, job.id).await;
    assert_eq!(left.last_error.as_deref(), Some(format!("{INTERRUPTED}: a word").as_str()));
    assert_eq!((left.attempts, left.run_at, left.locked_by), (0, added.run_at, None), "its place in the line too");
    let again = claim_one(&storage, &goes_on).await;
    // An error of its own comes between: that was not the same trouble twice.
    settle(&storage, &goes_on, &again, failed("of its own", Duration::ZERO)).await;
    admin(&storage).reschedule(&[job.id], &Reschedule::new().attempts(0)).await.expect("reschedule");
    let again = claim_one(&storage, &goes_on).await;
    let payload = Payload::from_trusted("[2]".to_owned());
    settle(&storage, &goes_on, &again, Outcome::interrupted("").left(Some(payload.clone()))).await;
    let left = must_read(&storage, job.id).await;
    assert_eq!((left.attempts, left.last_error.as_deref(), left.payload), (0, Some(INTERRUPTED), payload));

    // One that may be running on still has to wait.
    let added = add_one(&storage, spec().priority(-1)).await;
    let job = claim_one(&storage, &goes_on).await;
    assert_eq!(job.id, added.id);
    let before = storage.now().await.expect("the time");
    settle(&storage, &goes_on, &job, Outcome::interrupted("").after(Duration::from_secs(60))).await;
    let left = must_read(&storage, job.id).await;
    assert!(left.run_at >= before + TimeDelta::seconds(60), "{}", left.run_at);
    assert_eq!(left.attempts, 0);
}

/// A job that brings its workers to an end, again and again, is stopped like one that kills them, and those beside it come back
/// apart from it.
pub async fn jobs_that_are_cut_off_again_and_again_run_out_of_attempts(storage: Subject) {
    let worker = register(&storage).await;
    let ids: Vec<_> =
        add(&storage, (0..20).map(|_| spec().max_attempts(3)).collect()).await.iter().map(|j| j.id).collect();
    // The first end of a worker costs nothing.
    for attempts in [0, 1, 2, 3_i16] {
        admin(&storage).reschedule(&ids, &Reschedule::new().run_in(Duration::ZERO)).await.expect("reschedule");
        let jobs = claim(&storage, &worker, 20).await;
        assert_eq!(jobs.len(), 20, "{attempts}");
        let before = storage.now().await.expect("the time");
        for job in &jobs {
            assert_eq!(settle(&storage, &worker, job, Outcome::interrupted("why")).await, [job.id]);
        }
        let after = storage.now().await.expect("the time");
        let bound = TimeDelta::from_std(Duration::from_secs_f64(Rescued::spread(attempts))).expect("minutes");
        let mut times = BTreeSet::new();
        for id in &ids {
            let left = must_read(&storage, *id).await;
            assert_eq!((left.attempts, left.locked_by), (attempts, None));
            assert!(left.run_at <= after + bound, "{attempts}: {} {after}", left.run_at);
            times.insert((left.run_at - before).num_seconds());
        }
        assert_eq!(times.len() > 3, attempts > 1, "{attempts}: {times:?}");
    }
    admin(&storage).reschedule(&ids, &Reschedule::new().run_in(Duration::ZERO)).await.expect("reschedule");
    assert!(claim(&storage, &worker, 20).await.is_empty(), "none is left");
}

/// A job whose key was taken while it ran, by a new job or by removal, never becomes available again.
pub async fn a_replaced_job_is_never_revived(storage: Subject) {
    let worker = register(&storage).await;
    let outcomes = [
        Outcome::Released,
        Outcome::snoozed(RunAt::In(Duration::ZERO)),
        failed("no", Duration::ZERO),
        Outcome::interrupted("no"),
        Outcome::dead("x".to_owned()),
    ];
    for outcome in outcomes {
        // With its attempts all used, the number of attempts alone does not tell that it was replaced.
        add_one(&storage, spec().key("k").max_attempts(1)).await;
        let job = claim_one(&storage, &worker).await;
        admin(&storage).remove("k").await.expect("remove");
        settle(&storage, &worker, &job, outcome.clone()).await;
        assert!(claim(&storage, &worker, 1).await.is_empty(), "{outcome:?}");
    }
}

/// The fence: once a claim is broken, its settlement changes nothing, neither job nor queue.
pub async fn a_broken_claim_settles_nothing(storage: Subject) {
    let (one, other) = (register(&storage).await, register(&storage).await);
    add(&storage, vec![spec().serial_queue("q"), spec().serial_queue("q")]).await;
    let paused = claim_one(&storage, &one).await;
    admin(&storage).unlock(&[one.to_string()]).await.expect("unlock");
    assert!(!storage.heartbeat(&one).await.expect("heartbeat"), "it counts as dead, and is told so");
    assert!(storage.register(&Registration::new(&one, &[])).await.expect("register again"));
    let held = claim_one(&storage, &other).await;
    assert_eq!(held.id, paused.id);
    for outcome in [
        Outcome::completed(),
        failed("late", Duration::ZERO),
        Outcome::dead("late".to_owned()),
        Outcome::snoozed(RunAt::In(Duration::ZERO)),
        Outcome::Released,
        Outcome::interrupted("late"),
    ] {
        assert!(settle(&storage, &one, &paused, outcome).await.is_empty());
        assert_eq!(must_read(&storage, held.id).await, held.job);
        assert!(claim(&storage, &one, 5).await.is_empty(), "the queue is still held");
    }
    assert_eq!(settle(&storage, &other, &held, Outcome::completed()).await, [held.id]);
    claim_one(&storage, &one).await;
}

/// The fence, of a worker that was declared dead: another has its jobs, and its late results change neither job nor queue.
pub async fn results_of_a_worker_that_was_declared_dead_change_nothing(storage: Subject) {
    let paused = register(&storage).await;
    add(&storage, vec![spec().serial_queue("q").priority(-1), spec().serial_queue("q")]).await;
    let lost = claim_one(&storage, &paused).await;
    let_time_pass().await;
    assert_eq!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue").len(), 1);
    let other = register(&storage).await;
    let held = claim_one(&storage, &other).await;
    assert_eq!((held.id, held.attempts), (lost.id, 2));
    for outcome in [Outcome::completed(), failed("late", Duration::ZERO), Outcome::dead("late"), Outcome::Released] {
        assert!(settle(&storage, &paused, &lost, outcome).await.is_empty());
        assert_eq!(must_read(&storage, held.id).await, held.job);
        assert!(claim(&storage, &other, 5).await.is_empty(), "the queue is still held");
    }
    assert_eq!(settle(&storage, &other, &held, Outcome::completed()).await, [held.id]);
    claim_one(&storage, &other).await;
}

/// The fence tells two claims of one worker apart.
pub async fn a_second_claim_by_the_same_worker_is_another_claim(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, spec().serial_queue("q")).await;
    let first = claim_one(&storage, &worker).await;
    admin(&storage).unlock(&[worker.to_string()]).await.expect("unlock");
    assert!(!storage.heartbeat(&worker).await.expect("heartbeat"), "it counts as dead, and is told so");
    assert!(storage.register(&Registration::new(&worker, &[])).await.expect("register again"));
    let second = claim_one(&storage, &worker).await;
    assert_eq!(first.id, second.id);
    assert!(settle(&storage, &worker, &first, Outcome::completed()).await.is_empty());
    assert_eq!(settle(&storage, &worker, &second, Outcome::completed()).await, [second.id]);
}

/// A settlement whose answer was lost may be sent again.
pub async fn settling_twice_is_settling_once(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, vec![spec(), spec()]).await;
    let jobs = claim(&storage, &worker, 2).await;
    settle(&storage, &worker, &jobs[0], Outcome::completed()).await;
    settle(&storage, &worker, &jobs[1], failed("once", Duration::from_secs(60))).await;
    let left = must_read(&storage, jobs[1].id).await;
    assert!(settle(&storage, &worker, &jobs[0], Outcome::completed()).await.is_empty());
    assert!(settle(&storage, &worker, &jobs[1], failed("twice", Duration::ZERO)).await.is_empty());
    assert_eq!(must_read(&storage, jobs[1].id).await, left);
}

/// NUL, nothing, and ten megabytes are all stored somehow.
pub async fn error_texts_never_break_the_write(storage: Subject) {
    let worker = register(&storage).await;
    let long = "é".repeat(5 * 1024 * 1024);
    for text in ["nul \0 inside", "", long.as_str()] {
        let added = add_one(&storage, spec()).await;
        let job = claim_one(&storage, &worker).await;
        assert_eq!(settle(&storage, &worker, &job, failed(text, Duration::from_secs(60))).await, [added.id]);
        let stored = must_read(&storage, added.id).await.last_error.unwrap_or_default();
        assert!(!stored.is_empty() && stored.len() < MAX_ERROR_BYTES + 100);
    }
}

/// A batch that failed in part keeps the items that are left.
pub async fn items_that_are_left_become_the_payload(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, JobSpec::new(super::TASK, [1, 2, 3])).await;
    let job = claim_one(&storage, &worker).await;
    let left = Payload::from_json("[2]").expect("json");
    let outcome =
        Outcome::Failed { error: "x".to_owned(), retry: RunAt::In(Duration::ZERO), payload: Some(left.clone()) };
    settle(&storage, &worker, &job, outcome).await;
    assert_eq!(must_read(&storage, job.id).await.payload, left);
}

/// Jobs that follow a job are added in the write of its result: once, however often that is sent, and not at all when the claim was
/// broken.
pub async fn what_follows_a_job_is_added_with_its_result_or_not_at_all(storage: Subject) {
    let worker = register(&storage).await;
    add(&storage, vec![spec(), spec()]).await;
    let claimed = claim(&storage, &worker, 2).await;
    let follow = |key: &str| {
        let jobs = [JobSpec::new("follows", key).key(key), JobSpec::new("follows", key)];
        Then::add(jobs.into_iter().map(|spec| spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("valid")).collect())
    };
    let done = Settlement::new(ClaimRef::of(&claimed[0]), Outcome::completed()).then(follow("a"));
    let retried = Settlement::new(ClaimRef::of(&claimed[1]), failed("no", Duration::from_secs(3600))).then(follow("b"));
    for expected in [2, 0] {
        let written = storage.settle(&worker, &[done.clone(), retried.clone()]).await.expect("settle");
        assert_eq!(written.applied.len(), expected);
        let jobs = inspect(&storage).jobs(&JobFilter::new().task("follows")).await.expect("jobs");
        let mut keys: Vec<Option<&str>> = jobs.iter().map(|job| job.key.as_deref()).collect();
        keys.sort_unstable();
        assert_eq!(keys, [None, None, Some("a"), Some("b")], "once each");
    }
    // Whose claim was broken starts nothing.
    add(&storage, vec![spec()]).await;
    let lost = claim_one(&storage, &worker).await;
    storage.release_untracked(&worker, &[]).await.expect("release");
    let late = Settlement::new(ClaimRef::of(&lost), Outcome::completed()).then(follow("c"));
    assert_eq!(storage.settle(&worker, &[late]).await.expect("settle").applied, []);
    assert_eq!(inspect(&storage).jobs(&JobFilter::new().task("follows")).await.expect("jobs").len(), 4);
}
