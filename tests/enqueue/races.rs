//! Adding beside others: keys that are claimed at this moment, and names that somebody else introduces.

use backfill::{Error, JobKeyMode, JobSpec};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{client, soon, until};

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
