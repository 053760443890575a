//! What may be added, and reading what another producer added.

use backfill::{BackfillClient, Error, JobContext, JobSpec, Priority, Worker, task_fn};

use crate::support::{ask, client, soon, sql};

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_sent() {
    let (client, pool, schema) = client().await;
    let mut tx = pool.begin().await.expect("begin");
    let mut unserialisable = std::collections::HashMap::new();
    unserialisable.insert((1, 2), 3);
    let year_60000 = chrono::DateTime::from_timestamp(1_831_000_000_000, 0).expect("a time");
    let cases = [
        (JobSpec::new("", 1), "task name"),
        (JobSpec::new("x".repeat(129), 1), "129 characters; at most 128"),
        (JobSpec::new("t", 1).serial_queue("q".repeat(200)), "200 characters; at most 128"),
        (JobSpec::new("t", 1).serial_queue(""), "must not be empty"),
        (JobSpec::new("t", 1).key(""), "job key"),
        (JobSpec::new("t", 1).key("k".repeat(600)), "600 characters; at most 512"),
        (JobSpec::new("t", 1).max_attempts(0), "max_attempts \"0\" must be from 1 to 32767"),
        (JobSpec::new("t", 1).max_attempts(40_000), "40000"),
        (JobSpec::new("t", 1).run_at(year_60000), "9999"),
        (JobSpec::new("t", unserialisable), "could not be serialised"),
        (JobSpec::new("t", "x".repeat(9 * 1024 * 1024)), "8388608"),
    ];
    for (spec, says) in cases {
        let error = client.add_many([JobSpec::new("fine", 1), spec]).within(&mut tx).await.expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = client
        .add_many([JobSpec::new("t", 1).key("same"), JobSpec::new("u", 2).key("same")])
        .within(&mut tx)
        .await
        .expect_err("one key twice");
    assert!(matches!(error, Error::DuplicateKey { key } if key == "same"));
    assert!(Priority::try_from(40_000_i64).expect_err("no i16").to_string().contains("40000"));
    // The caller's transaction is unharmed, and nothing was written, not even a name.
    assert_eq!(sqlx::query_scalar::<_, i32>("select 1").fetch_one(&mut *tx).await.expect("alive"), 1);
    tx.commit().await.expect("commit");
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "0");
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_tasks").await, "0");
}

#[tokio::test]
async fn the_payload_cap_is_configurable() {
    let (_, pool, schema) = client().await;
    let build = |bytes| BackfillClient::builder().pool(pool.clone()).schema(&schema).max_payload_bytes(bytes).build();
    let small = build(10).await.expect("build");
    assert!(matches!(
        small.add(JobSpec::new("t", "123456789")).await,
        Err(Error::PayloadTooLarge { bytes: 11, limit: 10, .. })
    ));
    let large = build(64 * 1024 * 1024).await.expect("build");
    let job = large.add(JobSpec::new("t", "x".repeat(50 * 1024 * 1024))).await.expect("50 MB");
    assert_eq!(large.job(job.id).await.expect("read").expect("the job").payload.as_str().len(), 50 * 1024 * 1024 + 2);
    assert!(matches!(build(1 << 40).await, Err(Error::InvalidClient(_))));
}

#[tokio::test]
async fn whatever_another_producer_wrote_is_read() {
    let (client, pool, schema) = client().await;
    sql(
        &pool,
        &schema,
        r#"
alter table S._private_jobs alter column id restart with 9007199254740995;
select S.add_job('odd', '{ "b":1, "a" : 9007199254740993.000, "b":"\u0000" }');
select S.add_job('null', 'null'::json);
select S.add_job('flags', flags := array['b','a']);
select S.add_job('deep', (repeat('[', 5000) || repeat(']', 5000))::json);
select S.add_job('huge', '1e400');
update S._private_jobs set flags = '[1]', run_at = '-infinity', attempts = -5 where id = 9007199254740997;
insert into S._private_jobs (task_id, run_at, priority, max_attempts) select id, 'infinity', -32768, 32767 from S._private_tasks where identifier = 'null';
insert into S._private_jobs (task_id, run_at) select id, '294276-12-31' from S._private_tasks where identifier = 'null';
"#,
    )
    .await;
    let jobs = client.jobs(&backfill::JobFilter::new()).await.expect("read all");
    assert_eq!(jobs[0].id.number(), 9_007_199_254_740_995);
    assert_eq!(jobs[0].payload.as_str(), r#"{ "b":1, "a" : 9007199254740993.000, "b":"\u0000" }"#);
    assert_eq!(jobs[1].payload.as_str(), "null");
    assert_eq!(jobs.len(), 7);

    // A worker fails what its handlers cannot decode, and runs the rest.
    let odd = task_fn("odd", |payload: serde_json::Map<String, serde_json::Value>, _: JobContext| async move {
        assert_eq!(payload["b"], "\0");
    });
    let plain = |name: &str| task_fn(name, |(): (), _: JobContext| async {});
    let worker = Worker::builder(client.clone())
        .task(odd)
        .task(plain("null"))
        .task(plain("flags"))
        .task(task_fn("deep", |_: serde_json::Value, _: JobContext| async {}))
        .task(task_fn("huge", |_: f64, _: JobContext| async {}))
        .build()
        .expect("worker");
    let summary = soon("the run ends", worker.run_until_idle()).await.expect("run");
    assert_eq!((summary.completed, summary.failed), (3, 2));
    let failed = client.jobs(&backfill::JobFilter::new().task("deep")).await.expect("read");
    assert!(failed[0].last_error.as_deref().is_some_and(|text| text.contains("recursion limit")), "{failed:?}");
}
