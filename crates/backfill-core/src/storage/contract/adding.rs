//! Cases about storing jobs.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Subject, TASK, add, add_one, admin, claim, claim_one, failed, inspect, must_read, register, settle, spec};
use crate::job::{JobKeyMode, JobSpec, Payload, Priority};
use crate::storage::Outcome;

fn in_an_hour() -> DateTime<Utc> {
    // Whole microseconds, which is what PostgreSQL keeps.
    DateTime::from_timestamp_micros((Utc::now() + TimeDelta::hours(1)).timestamp_micros()).unwrap_or_default()
}

/// Answers come in the order of the inputs, whatever their tasks, queues, keys and modes.
pub async fn answers_are_paired_with_their_inputs(storage: Subject) {
    add_one(&storage, JobSpec::new("old", "old").key("k3")).await;
    let names = ["zulu", "alpha", "mike", "bravo", "yankee", "charlie", "x-ray"];
    let specs = |n: usize| {
        let mut spec = JobSpec::new(names[n % names.len()], n);
        if n.is_multiple_of(3) {
            spec = spec.key(format!("k{n}"));
        }
        if n.is_multiple_of(5) {
            spec = spec.serial_queue(format!("q{}", n % 2));
        }
        match n % 4 {
            0 => spec.key_mode(JobKeyMode::PreserveRunAt),
            1 => spec.key_mode(JobKeyMode::UnsafeDedupe),
            _ => spec,
        }
    };
    let stored = add(&storage, (0..200).map(specs).collect()).await;
    assert_eq!(stored.len(), 200);
    for (n, job) in stored.iter().enumerate() {
        assert_eq!(job.payload.as_str(), n.to_string());
        assert_eq!(job.task, names[n % names.len()]);
        assert_eq!(job.key, n.is_multiple_of(3).then(|| format!("k{n}")));
        assert_eq!(job.queue, n.is_multiple_of(5).then(|| format!("q{}", n % 2)));
        assert_eq!(must_read(&storage, job.id).await, *job);
    }
    assert!(add(&storage, vec![]).await.is_empty());
}

/// What is left out has Graphile's defaults.
pub async fn defaults_are_graphiles(storage: Subject) {
    let job = add_one(&storage, JobSpec::new(TASK, ())).await;
    assert_eq!(job.payload.as_str(), "{}");
    assert_eq!((job.priority, job.attempts, job.max_attempts, job.revision), (Priority(0), 0, 25, 0));
    assert_eq!(
        (&job.queue, &job.key, &job.last_error, &job.locked_at, &job.locked_by),
        (&None, &None, &None, &None, &None)
    );
    assert!(job.flags.is_empty());
    assert!((job.run_at - job.created_at).abs() < TimeDelta::seconds(1));

    let later = add_one(&storage, spec().run_in(Duration::from_secs(90)).flag("b").flag("a").flag("b")).await;
    assert!((later.run_at - later.created_at - TimeDelta::seconds(90)).abs() < TimeDelta::seconds(1));
    assert_eq!(later.flags, ["a", "b"]);
}

/// Replacing is not patching: what the new job leaves out goes back to its default.
pub async fn replace_updates_a_waiting_job_entirely(storage: Subject) {
    let worker = register(&storage).await;
    let first = add_one(
        &storage,
        spec().key("k").serial_queue("q").priority(-3).max_attempts(3).flag("f").run_at(in_an_hour()),
    )
    .await;
    let second = add_one(&storage, JobSpec::new(TASK, [1]).key("k")).await;
    assert_eq!((second.id, second.revision), (first.id, 1));
    assert_eq!((second.priority, second.max_attempts, &second.queue), (Priority(0), 25, &None));
    assert!(second.flags.is_empty());
    assert_eq!(second.created_at, first.created_at);
    assert!(second.run_at <= Utc::now() + TimeDelta::seconds(1));

    let claimed = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &claimed, failed("no", Duration::ZERO)).await;
    let third = add_one(&storage, JobSpec::new("other", "x").key("k").serial_queue("q2")).await;
    assert_eq!((third.id, third.attempts, &third.last_error), (first.id, 0, &None));
    assert_eq!((third.task.as_str(), third.queue.as_deref()), ("other", Some("q2")));
}

/// `PreserveRunAt` keeps the time of a job that was never tried.
pub async fn preserve_run_at_keeps_the_time_of_an_untried_job_only(storage: Subject) {
    let worker = register(&storage).await;
    let at = in_an_hour();
    let again = || spec().key("k").key_mode(JobKeyMode::PreserveRunAt).priority(2);
    add_one(&storage, spec().key("k").run_at(at)).await;
    let kept = add_one(&storage, again()).await;
    assert_eq!((kept.run_at, kept.priority, kept.revision), (at, Priority(2), 1));

    add_one(&storage, spec().key("k")).await;
    let claimed = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &claimed, failed("no", at)).await;
    let tried = add_one(&storage, again()).await;
    assert!(tried.run_at < at, "a job waiting for its retry gets the new time");
}

/// `UnsafeDedupe` changes nothing but the revision, whatever the job is doing.
pub async fn unsafe_dedupe_keeps_whatever_is_there(storage: Subject) {
    let worker = register(&storage).await;
    let dedupe =
        || JobSpec::new("other", "new").key("k").key_mode(JobKeyMode::UnsafeDedupe).serial_queue("q").priority(9);
    let first = add_one(&storage, spec().key("k").key_mode(JobKeyMode::UnsafeDedupe)).await;
    assert_eq!(first.revision, 0);
    let mut running = None;
    for revision in 1..=3 {
        if revision == 2 {
            running = Some(claim_one(&storage, &worker).await);
        }
        if let (3, Some(running)) = (revision, &running) {
            settle(&storage, &worker, running, Outcome::dead("x".to_owned())).await;
        }
        let before = must_read(&storage, first.id).await;
        let answer = add_one(&storage, dedupe()).await;
        assert_eq!(answer.revision, revision);
        let mut expected = before;
        expected.revision = revision;
        expected.updated_at = answer.updated_at;
        assert_eq!(answer, expected);
    }
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 1);
}

/// A running job cannot be changed any more: it goes on, but its failure is final, and a new job does the new work.
pub async fn replacing_a_running_job_leaves_it_keyless_and_without_retry(storage: Subject) {
    let worker = register(&storage).await;
    let old = add_one(&storage, spec().key("k")).await;
    let running = claim_one(&storage, &worker).await;
    let new = add_one(&storage, JobSpec::new(TASK, "new").key("k")).await;
    assert_ne!(new.id, old.id);
    let left = must_read(&storage, old.id).await;
    assert_eq!((left.key, left.attempts, left.locked_by.is_some()), (None, 25, true));
    settle(&storage, &worker, &running, failed("no", Duration::ZERO)).await;
    let claimed = claim(&storage, &worker, 10).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [new.id]);
}

/// A dead job loses its key to a new one, and stays.
pub async fn replacing_a_dead_job_adds_a_new_one(storage: Subject) {
    let worker = register(&storage).await;
    let old = add_one(&storage, spec().key("k").max_attempts(1)).await;
    let running = claim_one(&storage, &worker).await;
    settle(&storage, &worker, &running, failed("no", Duration::ZERO)).await;
    let new = add_one(&storage, spec().key("k")).await;
    assert_ne!(new.id, old.id);
    let left = must_read(&storage, old.id).await;
    assert_eq!((left.key, left.last_error.as_deref()), (None, Some("no")));
}

/// Two arrays become one, old items first; anything else is replaced.
pub async fn array_payloads_are_joined(storage: Subject) {
    let array = |n: [i32; 2]| JobSpec::new(TASK, n).key("k");
    add_one(&storage, array([1, 2])).await;
    let joined = add_one(&storage, array([3, 4])).await;
    let items: Vec<i32> = joined.payload.decode().expect("an array");
    assert_eq!(items, [1, 2, 3, 4]);
    let replaced = add_one(&storage, JobSpec::new(TASK, "text").key("k")).await;
    assert_eq!(replaced.payload.as_str(), "\"text\"");
}

/// However many add under one key at once, each is answered, and one waiting job has the key.
pub async fn concurrent_adds_under_one_key_leave_one_job(storage: Subject) {
    let mut adds = tokio::task::JoinSet::new();
    for n in 0..40 {
        let storage = storage.clone();
        adds.spawn(async move {
            let worker = register(&storage).await;
            let job = add_one(&storage, JobSpec::new(TASK, n).key("k")).await;
            assert_eq!(job.key.as_deref(), Some("k"));
            if n % 4 == 0 {
                for job in claim(&storage, &worker, 1).await {
                    settle(&storage, &worker, &job, Outcome::completed()).await;
                }
            }
        });
    }
    while let Some(result) = adds.join_next().await {
        result.expect("no add fails");
    }
    // One more, and the key leads to it alone.
    let last = add_one(&storage, JobSpec::new(TASK, "last").key("k")).await;
    let waiting = inspect(&storage).jobs(&crate::storage::JobFilter::new().key("k")).await.expect("list");
    assert_eq!(waiting, [last]);
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 1, "nothing was left behind");
}

/// Strings are data: nothing in them is ever anything else.
pub async fn hostile_strings_round_trip(storage: Subject) {
    let hostile = [
        "'; drop table jobs; --",
        "graphile_worker._private_jobs",
        "\"quoted\" \\ back$$slash$$",
        "{}[],\"\\u0000",
        "$1 ?2 :3 %s %I",
        "NULL",
        "\u{202e}rtl \u{1f980} \u{fffd} ünï",
        "line\nbreak\ttab\r",
        " ",
    ];
    let worker = register(&storage).await;
    for text in hostile {
        let spec = JobSpec::new(text, text).serial_queue(text).key(text).flag(text);
        let job = add_one(&storage, spec).await;
        assert_eq!((job.task.as_str(), job.queue.as_deref(), job.key.as_deref()), (text, Some(text), Some(text)));
        assert_eq!(job.flags, [text]);
        assert_eq!(job.payload.decode::<String>().expect("text"), text);
        let tasks = [text.to_owned()];
        let claimed = storage.claim(&crate::storage::ClaimRequest::new(&worker, &tasks, 5)).await.expect("claim").jobs;
        assert_eq!(claimed.len(), 1);
        settle(&storage, &worker, &claimed[0], failed(text, Duration::ZERO)).await;
        assert_eq!(must_read(&storage, job.id).await.last_error.as_deref(), Some(text));
        assert_eq!(admin(&storage).remove(text).await.expect("remove").map(|job| job.id), Some(job.id));
    }
    let odd = r#"{ "b" : 1, "a":9007199254740993, "b":"\u0000" }"#;
    let payload = Payload::from_json(odd).expect("json");
    let job = add_one(&storage, JobSpec::with_payload(TASK, payload)).await;
    assert_eq!(must_read(&storage, job.id).await.payload.as_str(), odd, "kept byte for byte");
}
