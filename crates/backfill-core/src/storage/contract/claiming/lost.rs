//! Claims whose answer nobody heard.

use std::time::Duration;

use super::super::{Subject, add, add_one, admin, claim, claim_one, must_read, register, spec};
use crate::job::JobId;
use crate::storage::Reschedule;

/// After a claim whose answer was lost, a worker releases what it does not know it holds.
pub async fn a_claim_whose_answer_was_lost_is_released(storage: Subject) {
    let (worker, other) = (register(&storage).await, register(&storage).await);
    add(&storage, vec![spec(), spec().serial_queue("a"), spec().serial_queue("b"), spec().key("k").max_attempts(1)])
        .await;
    let known = claim(&storage, &worker, 2).await;
    let lost = claim(&storage, &worker, 9).await;
    assert_eq!((known.len(), lost.len()), (2, 2));
    let of_other = add_one(&storage, spec()).await;
    claim_one(&storage, &other).await;
    let holds: Vec<JobId> = known.iter().map(|job| job.id).collect();
    assert_eq!(storage.release_untracked(&worker, &holds).await.expect("release"), 2);
    for job in &lost {
        let job = must_read(&storage, job.id).await;
        assert_eq!((job.attempts, job.locked_by), (0, None));
    }
    for job in &known {
        assert_eq!(must_read(&storage, job.id).await, job.job);
    }
    assert!(must_read(&storage, of_other.id).await.locked_by.is_some());
    assert_eq!(claim(&storage, &other, 9).await.len(), 2, "the queue is free too");

    // A job that was removed meanwhile is not revived.
    add_one(&storage, spec().key("gone").max_attempts(1)).await;
    claim_one(&storage, &worker).await;
    admin(&storage).remove("gone").await.expect("remove");
    assert_eq!(storage.release_untracked(&worker, &holds).await.expect("release"), 1);
    assert!(claim(&storage, &other, 9).await.is_empty());
}

/// A job whose claim was not answered gets its attempt back, also the last one, and whatever was changed about it before.
pub async fn a_job_that_never_ran_never_becomes_dead(storage: Subject) {
    for way in ["release_untracked", "deregister"] {
        for changed in [false, true] {
            let worker = register(&storage).await;
            let job = add_one(&storage, spec().max_attempts(1)).await;
            if changed {
                admin(&storage).reschedule(&[job.id], &Reschedule::new().priority(5)).await.expect("reschedule");
            }
            let claimed = claim_one(&storage, &worker).await;
            assert_eq!(claimed.attempts, 1);
            if way == "deregister" {
                storage.deregister(&worker).await.expect("deregister");
            } else {
                assert_eq!(storage.release_untracked(&worker, &[]).await.expect("release"), 1);
            }
            let free = must_read(&storage, job.id).await;
            assert_eq!((free.attempts, free.locked_by, free.last_error), (0, None, None), "{way}, changed: {changed}");
            assert_eq!(admin(&storage).complete(&[job.id]).await.expect("complete").len(), 1);
        }
    }
    // Whoever takes the key of a running job does so after it was claimed.
    for way in ["remove", "replace"] {
        let worker = register(&storage).await;
        let job = add_one(&storage, spec().key("k").max_attempts(1)).await;
        admin(&storage).reschedule(&[job.id], &Reschedule::new().priority(-5)).await.expect("reschedule");
        assert_eq!(claim_one(&storage, &worker).await.id, job.id);
        if way == "remove" {
            admin(&storage).remove("k").await.expect("remove");
        } else {
            add_one(&storage, spec().key("k").run_in(Duration::from_hours(1))).await;
        }
        storage.deregister(&worker).await.expect("deregister");
        let left = must_read(&storage, job.id).await;
        assert_eq!((left.attempts, left.locked_by), (1, None), "{way}: it never runs again");
    }
}
