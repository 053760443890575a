//! Asserting on what was added.

use std::time::Duration;

use backfill::job::JobState;
use backfill::testing::{TestQueue, job, job_named, within};
use backfill::{BackfillClient, JobSpec, Priority};
use chrono::{SubsecRound, TimeDelta, Utc};
use serde_json::json;

use crate::{SendInvoice, Welcome, on_each, place_order, welcome};

on_each! {
    async fn each_field_is_matched(queue: TestQueue) {
        let jobs = queue.client();
        let at = (Utc::now() + TimeDelta::days(3)).trunc_subsecs(6);
        let spec = JobSpec::new("tidy", json!({ "deep": { "a": 1, "b": 2 }, "list": [1, 2] }));
        jobs.add(spec).serial_queue("mail").key("welcome 7").priority(Priority::FAST).flag("b").flag("a").max_attempts(3)
            .run_at(at).await.expect("add");
        let all = queue.jobs().await;
        let tidy = || job_named("tidy");
        let found = all.one(
            tidy().payload_has(json!({ "deep": { "b": 2 } })).queue("mail").key("welcome 7").priority(Priority::FAST)
                .flags(["b", "a"]).max_attempts(3).attempts(0).due_at(at).due_in(within("3d", "1m")).state(JobState::Scheduled),
        );
        assert_eq!((found.payload["list"][1].as_u64(), found.key.as_deref()), (Some(2), Some("welcome 7")));
        all.one(tidy().payload_with(|payload| payload["deep"]["a"] == 1));
        all.one(tidy().payload_is(json!({ "list": [1, 2], "deep": { "b": 2, "a": 1 } })));
        for other in [
            job_named("tydi"),
            tidy().payload_has(json!({ "deep": { "b": 3 } })),
            tidy().payload_is(json!({ "list": [1, 2] })),
            tidy().payload_with(|payload| payload["deep"].is_null()),
            tidy().queue("post"),
            tidy().key("welcome 8"),
            tidy().priority(Priority(9)),
            tidy().flags(["a"]),
            tidy().max_attempts(25),
            tidy().attempts(1),
            tidy().due_at(at + TimeDelta::microseconds(1)),
            tidy().due_in(within("2d", "1m")),
            tidy().state(JobState::Ready),
            tidy().last_error(""),
        ] {
            all.none(other);
        }
    }

    async fn typed_jobs_come_with_their_payload(queue: TestQueue) {
        place_order(&queue.client(), 17).await.expect("order");
        let invoice = queue.jobs().await.one(job::<SendInvoice>().due_in(within("1h", "30s")));
        assert_eq!(invoice.payload, SendInvoice { order: 17 });
        assert_eq!(queue.jobs().await.all(job::<Welcome>()).len(), 0);
        assert_eq!(queue.jobs().await.count(job_named("charge_card").queue("bank"), 1)[0].payload, 17);
    }

    async fn only_what_was_added_meanwhile_is_seen(queue: TestQueue) {
        let jobs = queue.client();
        place_order(&jobs, 17).await.expect("order");
        jobs.add(welcome("ada@example.com")).key("kept").await.expect("add");
        let (added, new) = queue.during(async {
            jobs.add(welcome("eve@example.com")).await?;
            // A job that is replaced counts as added.
            jobs.add(JobSpec::new("charge_card", 18)).key("charge 17").await
        }).await;
        assert_eq!(added.expect("adds").revision, 1);
        assert_eq!(new.len(), 2);
        assert_eq!(new.one(job::<Welcome>()).payload, welcome("eve@example.com"));
        assert_eq!(new.one(job_named("charge_card")).payload, 18);
        new.none(job::<SendInvoice>());
        let ((), nothing) = queue.during(async {}).await;
        nothing.assert_empty();
    }

    async fn a_snapshot_is_the_same_at_each_run(queue: TestQueue) {
        let jobs = queue.client();
        jobs.add(welcome("ada@example.com")).priority(5).flag("slow").await.expect("add");
        place_order(&jobs, 17).await.expect("order");
        let expected = r#"charge_card 17 queue "bank", key "charge 17"
send_invoice {"order":17} in 1h
welcome {"to":"ada@example.com"} priority 5, flags ["slow"]
"#;
        assert_eq!(queue.jobs().await.snapshot(), expected);
        // The same jobs in another order, at another time.
        jobs.remove("charge 17").await.expect("remove");
        jobs.add(JobSpec::new("charge_card", 17)).serial_queue("bank").key("charge 17").await.expect("add");
        queue.advance("10m").await;
        assert_eq!(queue.jobs().await.snapshot(), expected);
    }

    async fn jobs_of_others_are_waited_for(queue: TestQueue) {
        let jobs = queue.client();
        let adding = tokio::spawn(async move { jobs.add(welcome("ada@example.com")).await });
        let found = queue.wait_for(job::<Welcome>(), "60s").await;
        adding.await.expect("no panic").expect("add");
        let jobs = queue.client();
        let id = found.id;
        let removing = tokio::spawn(async move { jobs.complete(&[id]).await });
        queue.wait_for_none(job::<Welcome>(), "60s").await;
        removing.await.expect("no panic").expect("complete");
        queue.assert_no_jobs_left().await;
    }

    async fn a_queue_holds_more_jobs_than_a_page(queue: TestQueue) {
        let jobs = queue.client();
        jobs.add_many((0..1_100_u64).map(|order| SendInvoice { order })).await.expect("add");
        assert_eq!(queue.jobs().await.count(job::<SendInvoice>(), 1_100).len(), 1_100);
    }
}

#[tokio::test]
async fn queues_share_nothing() {
    let (one, other) = (TestQueue::memory(), TestQueue::memory());
    place_order(&one.client(), 17).await.expect("order");
    other.assert_no_jobs_left().await;
    assert_eq!(one.jobs().await.len(), 2);
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn a_schema_goes_with_its_queue_even_if_the_test_fails() {
    let pool = sqlx::PgPool::connect(&crate::server()).await.expect("the test server");
    let schema_of = |jobs: &BackfillClient| jobs.postgres().expect("PostgreSQL").schema().to_owned();
    let queue = TestQueue::postgres(&pool).await;
    let other = TestQueue::postgres(&pool).await;
    let schemas = [schema_of(&queue.client()), schema_of(&other.client())];
    assert_ne!(schemas[0], schemas[1]);
    drop(queue);
    let panicking = tokio::spawn(async move {
        let _other = other;
        panic!("the test fails");
    });
    assert!(panicking.await.is_err());
    let left: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname = any ($1)")
        .bind(schemas.as_slice())
        .fetch_one(&pool)
        .await
        .expect("count");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_file_goes_with_its_queue() {
    let queue = TestQueue::sqlite().await;
    let path = queue.client().any_storage().sqlite().expect("SQLite").path().to_owned();
    assert!(path.exists());
    queue.client().add(welcome("ada@example.com")).run_in(Duration::from_secs(1)).await.expect("add");
    drop(queue);
    assert!(!path.exists() && !path.parent().expect("a directory").exists());
}
