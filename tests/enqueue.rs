//! Adding jobs to PostgreSQL.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use backfill::{
    BackfillClient, Cleanup, Error, JobContext, JobKeyMode, JobSpec, Payload, Priority, TaskPayload, Worker, task_fn,
};
use futures::StreamExt;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use support::{ask, client, database, pool, soon, sql, until};

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct SendInvoice {
    order: u64,
}

async fn send_invoice(invoice: SendInvoice) -> Result<(), String> {
    if invoice.order == 18 { Ok(()) } else { Err(format!("order {}", invoice.order)) }
}

#[tokio::test]
async fn a_job_added_in_a_transaction_exists_when_it_commits_and_never_when_it_rolls_back() {
    // A database of its own, in which nobody else notifies.
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let mut wakeups = client.storage().consumer().wakeups(None);
    soon("listening", wakeups.next()).await;

    let mut tx = pool.begin().await.expect("begin");
    let lost = client.add(SendInvoice { order: 17 }).within(&mut tx).await.expect("add");
    let also = client.add_many([JobSpec::new("a", 1), JobSpec::new("b", 2)]).within(&mut tx).await.expect("add");
    assert_eq!(also.len(), 2);
    assert!(client.job(lost.id).await.expect("read").is_none(), "others do not see it yet");
    tx.rollback().await.expect("rollback");
    assert_eq!(client.counts().await.expect("counts").total(), 0);

    let mut tx = pool.begin().await.expect("begin");
    let kept = client.add(SendInvoice { order: 18 }).within(&mut tx).await.expect("add");
    assert!(futures::poll!(wakeups.next()).is_pending(), "nobody is woken before the commit");
    tx.commit().await.expect("commit");
    assert_eq!(soon("a wakeup", wakeups.next()).await, Some(backfill::storage::Wakeup::JobsAdded(1)));
    assert_eq!(client.job(kept.id).await.expect("read"), Some(kept));
    let worker = Worker::builder(client).task(send_invoice).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
}

#[tokio::test]
async fn jobs_are_added_on_any_connection_or_transaction_of_the_callers() {
    let (client, pool, _) = client().await;
    let two = || [JobSpec::new("a", 1).key("x"), JobSpec::new("b", 2).key_mode(JobKeyMode::UnsafeDedupe)];
    let mut conn = pool.acquire().await.expect("acquire");
    client.add(JobSpec::new("t", 1)).within(&mut *conn).await.expect("a connection");
    client.add_many(two()).within(&mut *conn).await.expect("a connection");
    client.add_many(two()).within(&mut conn).await.expect("a pool's connection");
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let mut tx = pool.begin().await.expect("begin");
        sqlx::query(AssertSqlSafe(format!("set transaction isolation level {isolation}")))
            .execute(&mut *tx)
            .await
            .expect("set");
        client.add_many(two()).within(&mut tx).await.expect(isolation);
        client.add(JobSpec::new("new task", 1).serial_queue("new queue")).within(&mut tx).await.expect(isolation);
        tx.commit().await.expect("commit");
    }
    // Each batch stores "b" anew and updates "a".
    assert_eq!(client.counts().await.expect("counts").total(), 1 + 3 + 1 + 5);
}

#[tokio::test]
async fn memory_has_no_transactions_and_says_so() {
    let mut conn = pool().await.acquire().await.expect("acquire");
    let error = BackfillClient::in_memory().add(JobSpec::new("t", 1)).within(&mut conn).await.expect_err("memory");
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("memory"), "{error}");
}

#[tokio::test]
async fn a_batch_of_100_000_is_paired_with_its_inputs_and_stored_whole() {
    let (client, pool, schema) = client().await;
    let spec = |n: usize| {
        let spec = JobSpec::new(format!("task{}", n % 13), n).priority([0_i16, 1, 2, 3, 4][n % 5]);
        match n % 10 {
            0 => spec.key(format!("key{n}")),
            1 => spec.serial_queue(format!("queue{}", n % 97)),
            _ => spec,
        }
    };
    let stored = client.add_many((0..100_000).map(spec)).await.expect("add");
    assert_eq!(stored.len(), 100_000);
    for (n, job) in stored.iter().enumerate() {
        assert_eq!(
            (job.payload.as_str(), job.task.as_str()),
            (n.to_string().as_str(), format!("task{}", n % 13).as_str())
        );
        assert_eq!(job.key, (n % 10 == 0).then(|| format!("key{n}")));
    }
    assert_eq!(stored.iter().map(|job| job.id).collect::<HashSet<_>>().len(), 100_000);
    // One transaction: one moment of creation, and the order of the input is the order of the times.
    assert_eq!(ask(&pool, &schema, "select count(distinct created_at) from S._private_jobs").await, "1");
    assert!(stored.windows(2).all(|pair| pair[0].run_at < pair[1].run_at));
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs where run_at > now()").await, "0");
    // Names were not tried again and again, which would burn ids of a 32-bit sequence.
    assert_eq!(ask(&pool, &schema, "select max(id) from S._private_tasks").await, "13");
}

#[tokio::test]
async fn a_batch_that_fails_stores_nothing() {
    let (client, ..) = client().await;
    let nul = |key: &str| JobSpec::with_payload("t", Payload::from_json(r#"["\u0000"]"#).expect("json")).key(key);
    client.add(nul("k")).await.expect("as text it is fine");
    let batch = (0..7_000).map(|n| JobSpec::new("t", n)).chain([nul("k")]);
    let error = client.add_many(batch).await.expect_err("joining arrays goes through jsonb, which cannot hold a NUL");
    assert!(!error.is_transient(), "{error}");
    assert_eq!(client.counts().await.expect("counts").total(), 1);
}

/// Another transaction that has claimed the keyed job and not committed yet.
async fn claim_begun(pool: &PgPool, schema: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut claim = pool.begin().await.expect("begin");
    let update = format!(
        "update \"{schema}\"._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1 where key = 'k'"
    );
    sqlx::query(AssertSqlSafe(update)).execute(&mut *claim).await.expect("claim");
    claim
}

/// Until an add in this schema waits for somebody's lock.
async fn add_waits(pool: &PgPool, schema: &str) {
    let pattern = format!("%new_task as (%{schema}%");
    until("the add waits", || async {
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid <> pg_backend_pid() and query like $1";
        sqlx::query_scalar::<_, i64>(waiting).bind(&pattern).fetch_one(pool).await.expect("activity") == 1
    })
    .await;
}

#[tokio::test]
async fn a_key_whose_job_is_claimed_at_this_moment_never_loses_the_new_job() {
    for mode in [JobKeyMode::Replace, JobKeyMode::PreserveRunAt] {
        for batch in [1, 3] {
            let (client, pool, schema) = client().await;
            let old = client.add(JobSpec::new("t", "old").key("k")).await.expect("add");
            let specs: Vec<JobSpec> = (0..batch)
                .map(|n| if n == 0 { JobSpec::new("t", "new").key("k").key_mode(mode) } else { JobSpec::new("t", n) })
                .collect();
            let claim = claim_begun(&pool, &schema).await;
            let adder = client.clone();
            let adding = tokio::spawn(async move { adder.add_many(specs).await });
            add_waits(&pool, &schema).await;
            claim.commit().await.expect("commit");
            let stored = soon("the add ends", adding).await.expect("no panic").expect("add");
            assert_eq!(stored.len(), batch);
            assert_ne!(stored[0].id, old.id);
            assert_eq!((stored[0].payload.as_str(), stored[0].key.as_deref()), ("\"new\"", Some("k")));
            let left = client.job(old.id).await.expect("read").expect("the running job");
            assert_eq!((left.key, left.attempts), (None, 25));
        }
    }
}

#[tokio::test]
async fn names_that_somebody_else_is_just_introducing_do_not_lose_jobs() {
    let (client, pool, schema) = client().await;
    let mut other = pool.begin().await.expect("begin");
    client.add(JobSpec::new("new task", 1).serial_queue("new queue")).within(&mut *other).await.expect("add");
    let adder = client.clone();
    let specs = || {
        [
            JobSpec::new("old", 0),
            JobSpec::new("new task", 1).serial_queue("new queue"),
            JobSpec::new("old", 2),
            JobSpec::new("old", 3).serial_queue("new queue"),
        ]
    };
    let adding = tokio::spawn(async move { adder.add_many(specs()).await });
    add_waits(&pool, &schema).await;
    other.commit().await.expect("commit");
    let stored = soon("the add ends", adding).await.expect("no panic").expect("add");
    let payloads: Vec<&str> = stored.iter().map(|job| job.payload.as_str()).collect();
    assert_eq!(payloads, ["0", "1", "2", "3"]);
    assert_eq!(stored[3].queue.as_deref(), Some("new queue"));
    assert_eq!(client.counts().await.expect("counts").total(), 5);
}

#[tokio::test]
async fn many_first_users_of_the_same_names_all_succeed() {
    let (client, ..) = client().await;
    let adds = (0..16).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            client
                .add_many((0..20).map(|m| JobSpec::new(format!("t{}", (n + m) % 20), m).serial_queue(format!("q{m}"))))
                .await
        })
    });
    for added in futures::future::join_all(adds).await {
        assert_eq!(added.expect("no panic").expect("add").len(), 20);
    }
    assert_eq!(client.counts().await.expect("counts").total(), 320);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_with_the_same_keys_in_any_order_all_succeed() {
    let (client, ..) = client().await;
    let adds = (0..8).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut keys: Vec<u32> = (0..40).collect();
                if n % 2 == 0 {
                    keys.reverse();
                }
                let stored =
                    client.add_many(keys.into_iter().map(|key| JobSpec::new("t", key).key(format!("k{key}")))).await?;
                assert!(stored.iter().all(|job| job.key.as_deref() == Some(&format!("k{}", job.payload))));
            }
            Ok::<_, Error>(())
        })
    });
    for added in futures::future::join_all(adds).await {
        added.expect("no panic").expect("no deadlock");
    }
    assert_eq!(client.counts().await.expect("counts").total(), 40);
}

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

#[tokio::test]
async fn a_schema_behind_a_serializable_default_works() {
    let (pool, url) = database().await;
    let name = url.rsplit('/').next().expect("a name");
    sql(&pool, "", &format!("alter database {name} set default_transaction_isolation = 'serializable'")).await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let adds = (0..20).map(|n| client.add(JobSpec::new("t", n)).into_future());
    // Serializable transactions may fail and be tried again by their owner: that is the contract of the level.
    let added = futures::future::join_all(adds).await;
    let failures: Vec<_> = added.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failures.iter().all(|error| error.is_transient()), "{failures:?}");
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |_: i32, _: JobContext| async {}))
        .poll_interval(Duration::from_millis(20))
        .handle_signals(false)
        .build()
        .expect("worker");
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    until("all jobs are done", || async { client.counts().await.is_ok_and(|counts| counts.total() == 0) }).await;
    handle.shutdown();
    soon("the worker ends", running).await.expect("no panic").expect("run");
}

/// Compiles only if adding in a transaction can be part of a future that a web server runs on any thread.
#[tokio::test]
async fn adding_in_a_transaction_is_send() {
    fn spawnable<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
        future
    }
    let (client, pool, _) = client().await;
    let added = spawnable(async move {
        let mut tx = pool.begin().await.expect("begin");
        client.add(JobSpec::new("t", 1)).within(&mut tx).await.expect("add");
        client.add_many([JobSpec::new("t", 2)]).within(&mut tx).await.expect("add");
        tx.commit().await.expect("commit");
        client.counts().await.expect("counts").total()
    });
    assert_eq!(added.await, 2);
}

/// The driver's own `begin`, dropped half-way, leaves its connection in the pool with the transaction open; what is done there
/// later seems to succeed and is never committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_dropped_at_any_moment_leave_no_transaction_open() {
    let (_, url) = database().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "s").await.expect("migrate");
    let other = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    for polls in 0..200 {
        // Dropped after so many looks at it, wherever it is then.
        let mut adding = client.add_many([JobSpec::new("t", ()), JobSpec::new("t", ())]).into_future();
        for _ in 0..polls {
            if futures::poll!(&mut adding).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(adding);
        let accepted = client.add(JobSpec::new("accepted", ())).await.expect("add").id;
        let seen = ask(&other, "s", &format!("select count(*) from S._private_jobs where id = {accepted}")).await;
        assert_eq!(seen, "1", "what was accepted is there, for everybody (dropped after {polls} looks)");
    }
    let odd = "select count(*) from S._private_jobs j join S._private_tasks t on t.id = task_id where identifier = 't'";
    let odd: i64 = ask(&other, "s", odd).await.parse().expect("a number");
    assert_eq!(odd % 2, 0, "a batch is stored whole or not at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_adds_that_meet_are_stored_together_and_answered_one_by_one() {
    let (client, pool, schema) = client().await;
    for task in 0..7 {
        client.add(JobSpec::new(format!("t{task}"), ()).key("k")).await.expect("its name is known");
    }
    client.remove("k").await.expect("remove");
    let adding = (0..500).map(|n| {
        let client = client.clone();
        let spec = JobSpec::new(format!("t{}", n % 7), n).priority(3).flag(format!("f{}", n % 2));
        tokio::spawn(async move {
            (n, client.add(if n % 3 == 0 { spec.serial_queue("q") } else { spec }).await.expect("add"))
        })
    });
    for added in adding.collect::<Vec<_>>() {
        let (n, job) = added.await.expect("no panic");
        assert_eq!(job, client.job(job.id).await.expect("read").expect("stored"), "it is answered as it is stored");
        assert_eq!((job.payload.as_str(), job.task), (n.to_string().as_str(), format!("t{}", n % 7)));
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "500");
    let transactions = "select count(distinct xmin::text) < 400 from S._private_jobs";
    assert_eq!(ask(&pool, &schema, transactions).await, "true", "many share a transaction");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_is_refused_harms_none_of_those_it_is_stored_with() {
    let (client, pool, schema) = client().await;
    let refuse = "create function S.refuse() returns trigger language plpgsql as $f$ begin
                    if new.payload::text = '13' then raise exception 'unlucky'; end if; return new;
                  end $f$;
                  create trigger refuse after insert on S._private_jobs for each row execute function S.refuse()";
    sql(&pool, &schema, refuse).await;
    let known = client.add(JobSpec::new("t", ())).await.expect("its name is known");
    client.complete(&[known.id]).await.expect("complete");
    let adding = (0..200).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.add(JobSpec::new("t", n % 40)).await })
    });
    let mut refused = 0;
    for added in adding.collect::<Vec<_>>() {
        match added.await.expect("no panic") {
            Ok(job) => assert_ne!(job.payload.as_str(), "13"),
            Err(error) => {
                assert!(error.to_string().contains("unlucky"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 5);
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "195");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_that_are_given_up_leave_nobody_waiting() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("its name is known");
    for round in 0..50 {
        let mut adding: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.add(JobSpec::new("t", n)).await })
            })
            .collect();
        // Not a wait: in each round they are given up a little later on their way.
        tokio::time::sleep(Duration::from_micros(round * 20)).await;
        for given_up in adding.drain(..10) {
            given_up.abort();
        }
        for kept in adding {
            soon("it is stored", kept).await.expect("no panic").expect("add");
        }
    }
}

#[tokio::test]
async fn an_add_that_waits_for_another_transaction_holds_no_other_add_up() {
    let (client, pool, _) = client().await;
    for known in ["t", "u"] {
        client.add(JobSpec::new(known, ())).await.expect("add");
    }
    let mut first_user = pool.begin().await.expect("begin");
    client.add(JobSpec::new("new", ()).serial_queue("new")).within(&mut *first_user).await.expect("add");
    let waiting = |spec: JobSpec| {
        let client = client.clone();
        tokio::spawn(async move { client.add(spec).await })
    };
    let blocked = [waiting(JobSpec::new("new", ())), waiting(JobSpec::new("t", ()).serial_queue("new"))];
    // The first user of the names itself adds other jobs before it commits.
    for _ in 0..20 {
        soon("it is stored", client.add(JobSpec::new("u", ()))).await.expect("add");
    }
    first_user.commit().await.expect("commit");
    for blocked in blocked {
        soon("it is stored too", blocked).await.expect("no panic").expect("add");
    }
}

#[tokio::test]
async fn an_add_that_is_not_polled_holds_no_other_add_up() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let mut adding = futures::stream::iter(0..10).map(|n| client.add(JobSpec::new("t", n)).into_future()).buffered(4);
    while let Some(added) = soon("the next is stored", adding.next()).await {
        added.expect("add");
        soon("it is stored", client.add(JobSpec::new("t", ()))).await.expect("add");
    }
}

#[test]
fn a_runtime_that_ends_while_jobs_are_added_ends() {
    // As a program does that is stopped: what waits to be stored is dropped with the runtime, and so is what would store it.
    let begin =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for round in 0..40 {
        let runtime = begin();
        let client = runtime.block_on(async {
            let client = client().await.0;
            client.add(JobSpec::new("t", 0)).await.expect("the task is known then");
            client
        });
        for n in 0..20 {
            let client = client.clone();
            runtime.spawn(async move {
                loop {
                    client.add(JobSpec::new("t", n)).await.expect("add");
                }
            });
        }
        // At different points of what they do.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1 + round % 5)).await });
        drop(runtime);
    }
}

#[tokio::test]
async fn adds_go_on_while_unused_task_names_are_looked_for() {
    let names = "select identifier from graphile_worker._private_tasks order by 1";
    adds_go_on_during(Cleanup::new().tasks(["last"]), names, "first;last;soon replaced with;soon used").await;
}

#[tokio::test]
async fn adds_go_on_while_unused_queues_are_looked_for() {
    let names = "select queue_name from graphile_worker._private_job_queues order by 1";
    adds_go_on_during(Cleanup::new().queues(), names, "first;soon replaced with;soon used").await;
}

/// Names that are used while somebody looks for unused ones are kept, and whoever uses them does not wait.
async fn adds_go_on_during(what: Cleanup, names: &str, left: &str) {
    let (admin, url) = database().await;
    let client = BackfillClient::with_pool(admin.clone()).await.expect("migrate");
    client.add(JobSpec::new("first", 1).key("k").serial_queue("first")).await.expect("add");
    for name in ["unused", "soon used", "soon replaced with"] {
        let job = client.add(JobSpec::new(name, 1).serial_queue(name)).await.expect("add");
        client.complete(&[job.id]).await.expect("complete");
    }
    client.add(JobSpec::new("last", 1)).await.expect("add");
    // Whoever reads the first job, as this role, waits until the gate is opened.
    let role = support::unique("role");
    let gate = format!(
        "create role {role} login;
         grant usage on schema graphile_worker to {role};
         grant select, insert, update, delete on all tables in schema graphile_worker to {role};
         create function gate(bigint) returns boolean language plpgsql as $$
         begin if $1 = 1 then perform pg_advisory_lock_shared(42); perform pg_advisory_unlock_shared(42); end if; return true; end $$;
         create policy gate on graphile_worker._private_jobs to {role} using (gate(id));
         create policy names on graphile_worker._private_tasks to {role} using (true);
         create policy names on graphile_worker._private_job_queues to {role} using (true)"
    );
    sql(&admin, "", &gate).await;
    let pool = PgPool::connect(&url.replace("//postgres@", &format!("//{role}@"))).await.expect("log in");
    let cleaner = BackfillClient::builder().pool(pool).migrate(false).build().await.expect("a client");
    let mut holder = admin.acquire().await.expect("connect");
    sqlx::raw_sql("select pg_advisory_lock(42)").execute(&mut *holder).await.expect("close the gate");
    let cleaning = tokio::spawn(async move { cleaner.cleanup(&what).await });
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())";
    until("the jobs are being read", || async { ask(&admin, "", waits).await == "1" }).await;
    let used = JobSpec::new("soon used", 1).serial_queue("soon used");
    let replaced = JobSpec::new("soon replaced with", 1).serial_queue("soon replaced with").key("k");
    soon("adding", client.add(used)).await.expect("add");
    soon("replacing", client.add(replaced)).await.expect("replace");
    sqlx::raw_sql("select pg_advisory_unlock(42)").execute(&mut *holder).await.expect("open the gate");
    let cleaned = soon("cleaning", cleaning).await.expect("no panic").expect("cleanup");
    assert_eq!(ask(&admin, "", names).await, left);
    assert_eq!(cleaned.tasks + cleaned.queues, 1, "only what no job has");
    sql(&admin, "", &format!("drop owned by {role}; drop role {role}")).await;
}
