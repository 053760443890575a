//! Cases about moving jobs from one storage to another.

use std::time::Duration;

use super::{
    Subject, add, add_one, admin, claim, claim_one, failed, inspect, must_read, read, register, settle, spec, transfer,
};
use crate::job::{Job, JobId, JobSpec};
use crate::storage::{Cleanup, Reschedule, Watch};

const TRANSFER: &str = "move-1";

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// Neither workers nor sweeps nor administrators touch what is being moved; released, it is as it was.
pub async fn what_is_reserved_is_out_of_reach_until_it_is_released(storage: Subject) {
    let worker = register(&storage).await;
    let running = add_one(&storage, spec().priority(-1)).await;
    claim_one(&storage, &worker).await;
    let dead = add_one(&storage, spec().max_attempts(1).priority(-1)).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, failed("no", Duration::ZERO)).await;
    let mut waiting =
        add(&storage, vec![spec().serial_queue("q"), spec().run_in(Duration::from_secs(900)), spec().key("k")]).await;
    waiting.sort_by_key(|job| job.id);

    let taken = transfer(&storage).reserve(TRANSFER, None, 100, u64::MAX).await.expect("reserve");
    assert_eq!(ids(&taken), ids(&waiting), "what waits, by id; neither what runs nor what is dead");
    assert!(taken.iter().all(|job| job.attempts == 0 && job.locked_by.as_deref() == Some(TRANSFER)));
    assert!(claim(&storage, &worker, 10).await.is_empty());
    assert_eq!(storage.release_stale().await.expect("sweep"), 0);
    assert!(storage.rescue(&Watch::new(Duration::from_secs(900))).await.expect("rescue").is_empty());
    assert_eq!(storage.release_untracked(&worker, &[running.id]).await.expect("release"), 0);
    let all = ids(&waiting);
    assert!(admin(&storage).complete(&all).await.expect("complete").is_empty());
    assert!(admin(&storage).reschedule(&all, &Reschedule::new().priority(1)).await.expect("reschedule").is_empty());
    admin(&storage).cleanup(&Cleanup::new().queues().tasks(Vec::<String>::new())).await.expect("cleanup");

    assert_eq!(admin(&storage).unlock(&[TRANSFER.to_owned()]).await.expect("release"), 3);
    for job in &waiting {
        assert_eq!(must_read(&storage, job.id).await, *job);
    }
    assert!(read(&storage, dead.id).await.is_some());
    assert_eq!(claim(&storage, &worker, 10).await.len(), 2);
}

/// A transfer finds what it reserved before beside what is new, page by page.
pub async fn a_move_that_was_interrupted_goes_on(storage: Subject) {
    let jobs = add(&storage, (0..5).map(|_| spec()).collect()).await;
    assert_eq!(transfer(&storage).reserve(TRANSFER, None, 3, u64::MAX).await.expect("reserve").len(), 3);
    assert_eq!(transfer(&storage).delete_reserved(TRANSFER, &[jobs[0].id]).await.expect("delete"), 1);
    assert_eq!(
        transfer(&storage).delete_reserved("move-2", &[jobs[1].id]).await.expect("delete"),
        0,
        "somebody else's"
    );
    assert_eq!(transfer(&storage).delete_reserved(TRANSFER, &[jobs[4].id]).await.expect("delete"), 0, "not reserved");
    let page = transfer(&storage).reserve(TRANSFER, None, 3, u64::MAX).await.expect("reserve");
    assert_eq!(ids(&page), ids(&jobs[1..4]));
    let rest = transfer(&storage).reserve(TRANSFER, Some(jobs[3].id), 3, u64::MAX).await.expect("reserve");
    assert_eq!(ids(&rest), ids(&jobs[4..]));
    assert!(transfer(&storage).reserve("move-2", None, 3, u64::MAX).await.expect("reserve").is_empty());
}

/// Large jobs come in chunks that are held easily.
pub async fn what_is_reserved_is_bounded_by_bytes(storage: Subject) {
    let large = || JobSpec::new("large", "x".repeat(1_000));
    let mut specs: Vec<JobSpec> = (0..4).map(|_| spec()).collect();
    specs.insert(2, large());
    specs.push(large());
    let jobs = add(&storage, specs).await;
    let all = ids(&jobs);
    let mut chunks = Vec::new();
    let mut after = None;
    loop {
        let taken = transfer(&storage).reserve(TRANSFER, after, 3, 500).await.expect("reserve");
        let Some(last) = taken.last() else { break };
        after = Some(last.id);
        chunks.push(ids(&taken));
    }
    assert_eq!(chunks, [&all[..2], &all[2..3], &all[3..5], &all[5..]], "a large one goes alone");
    assert_eq!(transfer(&storage).reserve(TRANSFER, None, 3, 0).await.expect("reserve").len(), 1, "never none");
}

/// A job that comes again, because nobody knows whether it came, is not stored again.
pub async fn jobs_arrive_as_they_were_and_once(storage: Subject) {
    let worker = register(&storage).await;
    // Made here, to have jobs that have lived.
    let lived = add_one(&storage, spec().serial_queue("q").key("k").flag("f").priority(3).max_attempts(7)).await;
    let job = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &job, failed("why", Duration::from_secs(900))).await;
    let odd = r#"{ "b" : 1, "a":9007199254740993, "b":"\u0000" }"#;
    let payload = crate::job::Payload::from_json(odd).expect("json");
    let odd = add_one(&storage, JobSpec::with_payload("odd", payload)).await;
    let taken = transfer(&storage).reserve(TRANSFER, None, 10, u64::MAX).await.expect("reserve");
    assert_eq!(ids(&taken), [lived.id, odd.id]);
    transfer(&storage).delete_reserved(TRANSFER, &ids(&taken)).await.expect("delete");
    admin(&storage).cleanup(&Cleanup::new().queues().tasks(Vec::<String>::new())).await.expect("cleanup");

    for _ in 0..2 {
        assert_eq!(transfer(&storage).import(&worker, TRANSFER, &taken).await.expect("import"), ids(&taken));
    }
    let stored = inspect(&storage).jobs(&crate::storage::JobFilter::new()).await.expect("list");
    assert_eq!(stored.len(), 2);
    for (stored, came) in stored.iter().zip(&taken) {
        let mut expected = came.clone();
        expected.id = stored.id;
        expected.locked_at = None;
        expected.locked_by = None;
        assert_eq!(*stored, expected);
    }
    assert!(stored[0].id > odd.id, "under numbers of their own");
    assert_eq!((stored[0].attempts, stored[0].last_error.as_deref()), (1, Some("why")));
    // Another transfer's jobs have the same numbers and are others.
    let other = Job::new(lived.id, "other", odd.payload.clone(), odd.created_at);
    assert_eq!(transfer(&storage).import(&worker, "move-2", &[other]).await.expect("import"), [lived.id]);
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 3);
    // What was done meanwhile does not come back.
    admin(&storage).complete(&ids(&stored)).await.expect("complete");
    assert_eq!(transfer(&storage).import(&worker, TRANSFER, &taken).await.expect("import"), ids(&taken));
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 1);
    transfer(&storage).forget_imports(TRANSFER).await.expect("forget");
    transfer(&storage).import(&worker, TRANSFER, &taken).await.expect("import");
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 3);
}

/// A run that was declared dead stores nothing more: another may have moved the same jobs, and forgotten them.
pub async fn a_run_that_was_declared_dead_stores_nothing(storage: Subject) {
    let run = register(&storage).await;
    add(&storage, vec![spec()]).await;
    let taken = transfer(&storage).reserve(TRANSFER, None, 10, u64::MAX).await.expect("reserve");
    admin(&storage).unlock(&[run.to_string()]).await.expect("declared dead");
    let error = transfer(&storage).import(&run, TRANSFER, &taken).await.expect_err("it is not registered").to_string();
    assert!(error.contains(run.as_str()) && error.contains("declared dead"), "{error}");
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 1);
}

/// The job that has the key here stays, and so does the other where it is.
pub async fn a_taken_key_keeps_its_job_where_it_is(storage: Subject) {
    let worker = register(&storage).await;
    add_one(&storage, JobSpec::new("here", 1).key("k")).await;
    let now = add_one(&storage, spec()).await;
    let job = |id: i64, key: Option<&str>| {
        let mut job = Job::new(id, "moved", now.payload.clone(), now.created_at);
        job.key = key.map(str::to_owned);
        job
    };
    let jobs = [job(1, Some("k")), job(2, None), job(3, Some("other"))];
    assert_eq!(transfer(&storage).import(&worker, TRANSFER, &jobs).await.expect("import"), [2.into(), 3.into()]);
    admin(&storage).remove("k").await.expect("remove");
    assert_eq!(
        transfer(&storage).import(&worker, TRANSFER, &jobs).await.expect("import"),
        [1.into(), 2.into(), 3.into()],
        "now it can come"
    );
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 4);
}
