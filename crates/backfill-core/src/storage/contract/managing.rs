//! Cases about the administrative verbs.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;

use super::{
    Subject, TASK, add, add_one, admin, claim, claim_one, failed, inspect, must_read, read, register, settle, spec,
    transfer,
};
use crate::job::{JobId, JobSpec, JobState, Priority};
use crate::storage::{Cleaned, Cleanup, Effort, JobFilter, Outcome, QueueList, Registration, Reschedule, WorkerId};

/// Removing by key.
pub async fn remove_deletes_waiting_jobs_and_takes_the_key_of_running_ones(storage: Subject) {
    let worker = register(&storage).await;
    assert!(admin(&storage).remove("nobody").await.expect("remove").is_none());
    let waiting = add_one(&storage, spec().key("k")).await;
    assert_eq!(admin(&storage).remove("k").await.expect("remove"), Some(waiting.clone()));
    assert!(read(&storage, waiting.id).await.is_none());

    let running = add_one(&storage, spec().key("k")).await;
    claim_one(&storage, &worker).await;
    let removed = admin(&storage).remove("k").await.expect("remove").expect("a job");
    assert_eq!((removed.id, removed.key, removed.attempts), (running.id, None, 25));
    assert_eq!(must_read(&storage, running.id).await.locked_by.as_deref(), Some(worker.as_str()));
    assert!(admin(&storage).remove("k").await.expect("remove").is_none());
}

/// Jobs that somebody runs are not touched.
pub async fn complete_and_fail_leave_running_jobs_alone(storage: Subject) {
    let worker = register(&storage).await;
    let jobs = add(&storage, vec![spec().priority(-1), spec(), spec()]).await;
    claim_one(&storage, &worker).await;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let failed = admin(&storage).discard(&ids[..2], "because").await.expect("discard");
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].id, failed[0].attempts, failed[0].last_error.as_deref()), (ids[1], 25, Some("because")));
    let completed = admin(&storage).complete(&ids).await.expect("complete");
    assert_eq!(completed.iter().map(|job| job.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(must_read(&storage, ids[0]).await.attempts, 1);
}

/// Zero is a value like any other.
pub async fn reschedule_sets_zero_and_revives(storage: Subject) {
    let worker = register(&storage).await;
    let job = add_one(&storage, spec().priority(7).max_attempts(1)).await;
    let running = claim_one(&storage, &worker).await;
    assert!(
        admin(&storage).reschedule(&[job.id], &Reschedule::new().attempts(0)).await.expect("reschedule").is_empty()
    );
    settle(&storage, &worker, &running, failed("no", Duration::from_secs(900))).await;

    let at = DateTime::from_timestamp(Utc::now().timestamp() - 5, 0).unwrap_or_default();
    let change = Reschedule::new().priority(0).attempts(0).run_at(at);
    let changed = admin(&storage).reschedule(&[job.id], &change).await.expect("reschedule");
    assert_eq!((changed[0].priority, changed[0].attempts, changed[0].run_at), (Priority(0), 0, at));
    assert_eq!(changed[0].last_error.as_deref(), Some("no"), "the error is kept");
    let running = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &running, failed("no", Duration::ZERO)).await;
    admin(&storage).reschedule(&[job.id], &Reschedule::new().max_attempts(2)).await.expect("reschedule");
    claim_one(&storage, &worker).await;

    // By the storage's own clock.
    let other = add_one(&storage, spec().run_in(Duration::from_secs(3600))).await;
    let before = storage.now().await.expect("the time");
    let changed = admin(&storage).reschedule(&[other.id], &Reschedule::new().run_in(Duration::from_secs(60))).await;
    let run_at = changed.expect("reschedule")[0].run_at;
    let after = storage.now().await.expect("the time");
    let minute = TimeDelta::seconds(60);
    assert!((before + minute..=after + minute).contains(&run_at), "{before} {run_at} {after}");
    admin(&storage).reschedule(&[other.id], &Reschedule::new().run_in(Duration::ZERO)).await.expect("reschedule");
    assert_eq!(claim_one(&storage, &worker).await.id, other.id);
}

/// Everything that a worker holds is free.
pub async fn unlock_releases_jobs_and_queues(storage: Subject) {
    let (dead, alive) = (register(&storage).await, register(&storage).await);
    add(&storage, vec![spec().serial_queue("a"), spec(), spec().serial_queue("a"), spec().serial_queue("b")]).await;
    let held = claim(&storage, &dead, 2).await;
    let kept = claim_one(&storage, &alive).await;
    assert_eq!(admin(&storage).unlock(&[dead.to_string(), dead.to_string()]).await.expect("unlock"), 2);
    assert_eq!(must_read(&storage, kept.id).await, kept.job);
    let mut again = claim(&storage, &alive, 10).await;
    again.retain(|job| held.iter().any(|other| other.id == job.id));
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|job| job.attempts == 2), "the attempt was used");
}

/// A worker that is unlocked claims nothing after that, and what it claimed at that moment is free too: nothing stays locked under a
/// name that nobody looks after.
pub async fn a_worker_that_is_unlocked_while_it_claims_holds_nothing(storage: Subject) {
    for _ in 0..5 {
        let worker = register(&storage).await;
        add(&storage, (0..60).map(|n| spec().serial_queue(format!("q{}", n % 40))).collect()).await;
        let mut claimers = JoinSet::new();
        for _ in 0..4 {
            let (storage, worker) = (storage.clone(), worker.clone());
            claimers.spawn(async move { while !claim(&storage, &worker, 3).await.is_empty() {} });
        }
        tokio::task::yield_now().await;
        admin(&storage).unlock(&[worker.to_string()]).await.expect("unlock");
        while let Some(ended) = claimers.join_next().await {
            ended.expect("no panic");
        }
        assert!(!storage.heartbeat(&worker).await.expect("heartbeat"));
        let workers = inspect(&storage).workers(Effort::Exact).await.expect("workers");
        assert!(!workers.iter().any(|held| held.id == worker.as_str()), "{workers:?}");
        assert_eq!(inspect(&storage).counts().await.expect("counts").running, 0);
    }
}

/// Cleaning up takes what nothing needs.
pub async fn cleanup_deletes_only_what_is_unused(storage: Subject) {
    let worker = register(&storage).await;
    let names: Vec<String> = ["kept", "unused"].map(str::to_owned).to_vec();
    storage.register(&Registration::new(&WorkerId::random(), &names)).await.expect("register");
    let dead = add_one(&storage, JobSpec::new(TASK, 1).serial_queue("gone").max_attempts(1).priority(-1)).await;
    let waiting = add_one(&storage, JobSpec::new("waiting", 1).serial_queue("used")).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, failed("no", Duration::ZERO)).await;
    admin(&storage).reschedule(&[dead.id], &Reschedule::new().attempts(9)).await.expect("past the maximum");

    assert_eq!(admin(&storage).cleanup(&Cleanup::new()).await.expect("cleanup"), Cleaned::default());
    let first = admin(&storage).cleanup(&Cleanup::new().tasks(["kept"]).queues()).await.expect("cleanup");
    assert_eq!(first, Cleaned { dead_jobs: 0, tasks: 1, queues: 0 });
    let second = admin(&storage).cleanup(&Cleanup::new().dead_jobs().tasks(["kept"]).queues()).await.expect("cleanup");
    assert_eq!(second, Cleaned { dead_jobs: 1, tasks: 1, queues: 1 });
    assert!(read(&storage, dead.id).await.is_none());
    assert_eq!(must_read(&storage, waiting.id).await, waiting);
    // Names that were forgotten are simply new again.
    add_one(&storage, spec().serial_queue("gone")).await;
    assert_eq!(claim_one(&storage, &worker).await.queue.as_deref(), Some("gone"));
}

/// One job in each state, found and counted.
pub async fn jobs_are_listed_and_counted_by_state(storage: Subject) {
    let worker = register(&storage).await;
    let dead = add_one(&storage, spec().max_attempts(1).priority(-9)).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, Outcome::dead("x".to_owned())).await;
    let failing = add_one(&storage, spec().priority(-8)).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, failed("x", Duration::from_secs(900))).await;
    let running = add_one(&storage, spec()).await;
    claim_one(&storage, &worker).await;
    let ready = add_one(&storage, JobSpec::new("other", 1).serial_queue("q").key("k")).await;
    let scheduled = add_one(&storage, spec().run_in(Duration::from_secs(900))).await;

    let by_state = [
        (JobState::Dead, dead.id),
        (JobState::Retrying, failing.id),
        (JobState::Running, running.id),
        (JobState::Ready, ready.id),
        (JobState::Scheduled, scheduled.id),
    ];
    let list = |filter: JobFilter| {
        let storage = storage.clone();
        async move { inspect(&storage).jobs(&filter).await.expect("list").iter().map(|job| job.id).collect::<Vec<_>>() }
    };
    for (state, id) in by_state {
        assert_eq!(list(JobFilter::new().state(state)).await, [id], "{state}");
    }
    let counts = inspect(&storage).counts().await.expect("counts");
    assert_eq!((counts.dead, counts.retrying, counts.running, counts.ready, counts.scheduled), (1, 1, 1, 1, 1));
    assert_eq!(list(JobFilter::new().task("other")).await, [ready.id]);
    assert_eq!(list(JobFilter::new().queue("q")).await, [ready.id]);
    assert_eq!(list(JobFilter::new().key("k")).await, [ready.id]);
    assert_eq!(list(JobFilter::new().limit(2)).await, [dead.id, failing.id]);
    assert_eq!(list(JobFilter::new().after(failing.id).limit(1)).await, [running.id]);
}

/// However jobs change meanwhile, a count sees each once.
pub async fn counts_add_up_while_jobs_change(storage: Subject) {
    add(&storage, (0..60).map(|_| spec()).collect()).await;
    let changing = {
        let storage = storage.clone();
        async move {
            let worker = register(&storage).await;
            for _ in 0..40 {
                for job in claim(&storage, &worker, 7).await {
                    settle(&storage, &worker, &job, Outcome::Released).await;
                }
            }
        }
    };
    let changing = tokio::spawn(changing);
    let mut counted = 0;
    while !changing.is_finished() || counted == 0 {
        assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 60);
        let by_task = inspect(&storage).tasks(Effort::Exact).await.expect("tasks");
        assert_eq!(by_task.iter().map(|task| task.jobs.total()).sum::<u64>(), 60);
        counted += 1;
        tokio::task::yield_now().await;
    }
    changing.await.expect("the changes");
}

/// The last id grows with what is added, and does not shrink with what is done.
pub async fn the_last_id_tells_what_was_ever_added(storage: Subject) {
    let last = async || inspect(&storage).last_id().await.expect("the last id");
    let Some(before) = last().await else { return };
    let ids: Vec<_> = add(&storage, (0..3).map(|_| spec()).collect()).await.iter().map(|job| job.id).collect();
    let after = last().await.expect("it was told before");
    assert!(
        after.number() >= before.number() + 3 && after >= ids.iter().copied().max().expect("three"),
        "{before} {ids:?} {after}"
    );
    admin(&storage).complete(&ids).await.expect("complete");
    assert_eq!(last().await, Some(after));
}

/// What an administrator sees.
pub async fn queues_tasks_and_workers_are_told(storage: Subject) {
    let worker = register(&storage).await;
    let idle = register(&storage).await;
    let ready = add(&storage, vec![spec().serial_queue("b"), spec().serial_queue("b"), JobSpec::new("other", 1)]).await;
    let held = claim_one(&storage, &worker).await;
    assert_eq!(held.id, ready[0].id);

    let queues = inspect(&storage).queues(&QueueList::all(Effort::Exact)).await.expect("queues");
    assert_eq!(queues.len(), 1);
    assert_eq!((queues[0].name.as_str(), queues[0].jobs.running, queues[0].jobs.ready), ("b", 1, 1));
    assert_eq!(queues[0].locked_by.as_deref(), Some(worker.as_str()));
    assert_eq!(queues[0].locked_at, held.locked_at);

    let tasks = inspect(&storage).tasks(Effort::Exact).await.expect("tasks");
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), [TASK, "other"]);
    assert_eq!((tasks[0].jobs.running, tasks[0].jobs.ready, tasks[0].jobs.total()), (1, 1, 2));
    assert_eq!(tasks[1].oldest_ready, Some(ready[2].run_at));

    let workers = inspect(&storage).workers(Effort::Exact).await.expect("workers");
    let told = |id: &WorkerId| workers.iter().find(|worker| worker.id == id.as_str()).expect("it is told").clone();
    let (busy, idle) = (told(&worker), told(&idle));
    assert_eq!((busy.jobs, busy.queues, busy.oldest_lock), (1, 1, held.locked_at));
    assert_eq!((idle.jobs, idle.queues, idle.oldest_lock), (0, 0, None));
    assert!(busy.seen_at.is_some() && busy.started_at.is_some());
    assert!(busy.last_seen_ago.is_some_and(|ago| ago < Duration::from_secs(60)));
    assert_eq!(workers.len(), 2);
}

/// What no job may have is refused before anything is changed, wherever the jobs are.
pub async fn reschedule_refuses_what_no_job_may_have(storage: Subject) {
    let job = add_one(&storage, spec()).await;
    let far = Duration::from_secs(200 * 366 * 24 * 3600);
    for change in [
        Reschedule::new().attempts(-5),
        Reschedule::new().attempts(i16::MIN),
        Reschedule::new().max_attempts(0),
        Reschedule::new().max_attempts(-1),
        Reschedule::new().run_in(far),
        Reschedule::new().run_in(Duration::MAX),
        Reschedule::new().run_at(DateTime::<Utc>::MAX_UTC),
        Reschedule::new().run_at(DateTime::<Utc>::MIN_UTC),
    ] {
        let error = admin(&storage).reschedule(&[job.id], &change).await.expect_err("no job may have that");
        assert!(matches!(error, crate::error::Error::InvalidJob { .. }), "{change:?}: {error}");
    }
    assert_eq!(must_read(&storage, job.id).await, job);
    let change = Reschedule::new().attempts(i16::MAX).max_attempts(i16::MAX).priority(i16::MIN);
    assert_eq!(admin(&storage).reschedule(&[job.id], &change).await.expect("reschedule").len(), 1);
}

/// Who only wants to look need not hold the payloads.
pub async fn lists_are_read_without_payloads_or_so_many_bytes_of_them(storage: Subject) {
    let large = || JobSpec::new("large", "x".repeat(1_000));
    let jobs = add(&storage, vec![spec().key("k"), large(), spec(), spec()]).await;
    let listed = inspect(&storage).jobs(&JobFilter::new().without_payloads()).await.expect("list");
    assert_eq!(listed.len(), 4);
    for (listed, job) in listed.iter().zip(&jobs) {
        assert_eq!(listed.payload, crate::job::Payload::empty());
        assert_eq!(crate::job::Job { payload: job.payload.clone(), ..listed.clone() }, *job);
    }
    let page = async |after| {
        let filter = JobFilter { after, ..JobFilter::new().max_bytes(100) };
        inspect(&storage).jobs(&filter).await.expect("list").iter().map(|job| job.id).collect::<Vec<_>>()
    };
    let all: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(page(None).await, all[..1]);
    assert_eq!(page(Some(all[0])).await, all[1..2], "a single larger one comes alone");
    assert_eq!(page(Some(all[1])).await, all[2..]);
    let none = inspect(&storage).jobs(&JobFilter::new().without_payloads().max_bytes(1)).await.expect("list");
    assert_eq!(none.len(), 4, "what is not read does not count");
}

/// Large payloads take another way into some storages; they come back as they were, and in their order.
pub async fn large_payloads_are_stored_among_small_ones(storage: Subject) {
    let sizes = [10, 100_000, 10, 2_000_000, 3, 70_000];
    let specs = sizes.iter().map(|size| JobSpec::new("large", "y\"".repeat(*size)));
    let jobs = add(&storage, specs.collect()).await;
    let listed = inspect(&storage).jobs(&JobFilter::new()).await.expect("list");
    assert_eq!(listed, jobs);
    for (job, size) in listed.iter().zip(sizes) {
        assert_eq!(job.payload.decode::<String>().expect("JSON").len(), size * 2);
    }
    let worker = register(&storage).await;
    let taken = transfer(&storage).reserve("move-1", None, 10, u64::MAX).await.expect("reserve");
    transfer(&storage)
        .delete_reserved("move-1", &jobs.iter().map(|job| job.id).collect::<Vec<_>>())
        .await
        .expect("delete");
    transfer(&storage).import(&worker, "move-1", &taken).await.expect("import");
    let arrived = inspect(&storage).jobs(&JobFilter::new()).await.expect("list");
    assert!(arrived.iter().map(|job| &job.payload).eq(jobs.iter().map(|job| &job.payload)), "in their order");
}
