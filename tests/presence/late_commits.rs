//! Transactions of others that are open while a worker releases what it holds: claims that commit late, and locks on its jobs.

use std::time::Duration;

use backfill::storage::{ClaimRequest, Registration, Watch, WorkerId};
use backfill::{BackfillClient, JobSpec};
use sqlx::PgPool;

use crate::support::{ask, client, soon, sql, until};

#[tokio::test]
async fn a_key_that_is_taken_in_a_transaction_begun_before_the_claim_keeps_its_job_from_being_revived() {
    let (client, pool, _) = client().await;
    let storage = client.storage().consumer();
    let (id, tasks) = (WorkerId::random(), ["t".to_owned()]);
    storage.register(&Registration::new(&id, &tasks)).await.expect("register");
    let job = client.add(JobSpec::new("t", 1).key("k")).await.expect("add");
    let mut theirs = pool.begin().await.expect("begin");
    sqlx::query("select now()").execute(&mut *theirs).await.expect("it begins");
    assert_eq!(storage.claim(&ClaimRequest::new(&id, &tasks, 9)).await.expect("claim").jobs.len(), 1);
    let later = Duration::from_hours(1);
    client.add(JobSpec::new("t", 2).key("k").run_in(later)).within(&mut *theirs).await.expect("add");
    theirs.commit().await.expect("commit");
    assert_eq!(storage.release_untracked(&id, &[]).await.expect("release"), 1);
    let left = client.job(job.id).await.expect("read").expect("it is kept");
    assert_eq!((left.attempts, left.locked_by), (left.max_attempts, None), "it never runs again");
}

/// A claim whose connection we have given up, and which the server is still working on.
struct LateClaim {
    tx: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl LateClaim {
    async fn begin(pool: &PgPool, schema: &str, id: &WorkerId) -> Self {
        let mut tx = pool.begin().await.expect("begin");
        let claim = format!(
            "select id from \"{schema}\".backfill_pools where id = '{id}' for key share;
             update \"{schema}\"._private_jobs set locked_by = '{id}', locked_at = now(), attempts = attempts + 1"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(claim)).execute(&mut *tx).await.expect("claim");
        Self { tx }
    }

    /// Commits once somebody waits for it.
    async fn commit_when_waited_for(self, pool: &PgPool, schema: &str) {
        let pattern = format!("%{schema}%backfill_pools%");
        until("somebody waits for the claim", || async {
            let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1";
            sqlx::query_scalar::<_, i64>(waiting).bind(&pattern).fetch_one(pool).await.expect("activity") == 1
        })
        .await;
        self.tx.commit().await.expect("commit");
    }
}

#[tokio::test]
async fn a_claim_that_commits_after_we_gave_it_up_leaves_nothing_locked() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().consumer();
    client.add(JobSpec::new("t", ())).await.expect("add");
    let id = WorkerId::random();
    storage.register(&Registration::new(&id, &[])).await.expect("register");

    let late = LateClaim::begin(&pool, &schema, &id).await;
    assert!(
        storage.rescue(&Watch::new(Duration::ZERO)).await.expect("rescue").is_empty(),
        "a worker that claims is alive"
    );
    let (released, ()) = tokio::join!(storage.release_untracked(&id, &[]), late.commit_when_waited_for(&pool, &schema));
    assert_eq!(released.expect("release"), 1);
    assert_eq!(client.counts().await.expect("counts").ready, 1);

    let late = LateClaim::begin(&pool, &schema, &id).await;
    let (deregistered, ()) = tokio::join!(storage.deregister(&id), late.commit_when_waited_for(&pool, &schema));
    deregistered.expect("deregister");
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (1, 0));
    storage.register(&Registration::new(&id, &[])).await.expect("register");
    let late = LateClaim::begin(&pool, &schema, &id).await;
    let names = [id.to_string()];
    let (unlocked, ()) = tokio::join!(
        storage.require_admin().expect("admin").unlock(&names),
        late.commit_when_waited_for(&pool, &schema)
    );
    assert_eq!(unlocked.expect("unlock"), 1);
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (1, 0));
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "0");
}

#[tokio::test]
async fn a_worker_that_ends_while_somebody_locks_one_of_its_jobs_frees_the_others_and_is_removed_later() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().consumer();
    client.add(JobSpec::new("t", 1)).await.expect("add");
    client.add(JobSpec::new("t", 2).serial_queue("q")).await.expect("add");
    let (id, tasks) = (WorkerId::random(), ["t".to_owned()]);
    storage.register(&Registration::new(&id, &[])).await.expect("register");
    let claimed = storage.claim(&ClaimRequest::new(&id, &tasks, 2)).await.expect("claim").jobs;
    assert_eq!(claimed.len(), 2);
    let mut theirs = pool.begin().await.expect("begin");
    let lock = format!("select from \"{schema}\"._private_jobs where id = {} for update", claimed[0].id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *theirs).await.expect("lock");

    soon("nobody is waited for", storage.deregister(&id)).await.expect("deregister");
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (1, 1));
    assert_eq!(ask(&pool, &schema, "select seen_at = 'epoch' from S.backfill_pools").await, "true");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_at is not null").await,
        "0"
    );
    let rescued = storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert!(rescued.is_empty(), "{rescued:?}");
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "1");
    theirs.rollback().await.expect("rollback");
    // Another one has not just looked for it in vain.
    let storage =
        BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("a client").storage().consumer();
    until("the other one is free too", || async {
        storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
        client.counts().await.expect("counts").running == 0
    })
    .await;
    let pools = || ask(&pool, &schema, "select count(*) from S.backfill_pools");
    assert_eq!(pools().await, "0");

    // One that holds a queue is not forgotten either, or the queue would be held for four hours.
    storage.register(&Registration::new(&id, &[])).await.expect("register");
    let hold = format!("update S._private_job_queues set locked_by = '{id}', locked_at = now()");
    sql(&pool, &schema, &hold).await;
    storage.deregister(&id).await.expect("deregister");
    assert_eq!(pools().await, "1");
    storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    assert_eq!(pools().await, "0");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_at is not null").await,
        "0"
    );
}
