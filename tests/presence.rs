//! Who a worker is: its locks, its heartbeat, and what becomes of its claims without it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::storage::{ClaimRequest, Registration, Watch, WorkerId};
use backfill::worker::Event;
use backfill::{BackfillClient, JobContext, JobSpec, Summary, Worker, task_fn};
use sqlx::PgPool;
use support::faulty::{Faults, Faulty};
use support::running::{Running, empty};
use support::{ask, client, soon, sql, until};
use tokio::sync::{Semaphore, mpsc};

/// What another worker does when one has sent no heartbeat for too long.
async fn declare_dead(client: &BackfillClient, pool: &PgPool, schema: &str) {
    until("it is declared dead", || async {
        // Its next heartbeat may come between these two.
        let long_ago = "update S.backfill_pools set seen_at = seen_at - interval '2 hours', dead_after = null";
        sql(pool, schema, long_ago).await;
        !client.storage().consumer().rescue(&Watch::new(Duration::from_secs(1))).await.expect("rescue").is_empty()
    })
    .await;
}

#[tokio::test]
async fn locks_have_graphiles_shape() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (seen, looked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (seen, looked) = (seen.clone(), looked.clone());
        task_fn("t", move |(): (), _: JobContext| {
            let (seen, looked) = (seen.clone(), looked.clone());
            async move {
                seen.add_permits(1);
                looked.acquire().await.expect("open").forget();
            }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(handler));
    seen.acquire().await.expect("it runs").forget();
    let same = "select job.locked_by ~ '^pool-[0-9a-f]{18}$' and job.locked_by = queue.locked_by and job.locked_at = queue.locked_at
                and pool.id = job.locked_by and job.attempts = 1
                from S._private_jobs job, S._private_job_queues queue, S.backfill_pools pool";
    assert_eq!(ask(&pool, &schema, same).await, "true");
    looked.add_permits(1);
    empty(&client).await;
    running.end().await;
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "0", "it deregistered");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_by is not null").await,
        "0"
    );
}

#[tokio::test]
async fn a_worker_that_was_declared_dead_settles_nothing_and_goes_on_as_somebody_else() {
    let (client, pool, schema) = client().await;
    let job = client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let handler = task_fn("t", move |(): (), ctx: JobContext| {
        let started = started_tx.clone();
        async move {
            started.send(ctx.job().clone()).expect("open");
            if ctx.job().attempts == 1 {
                ctx.cancelled().await;
            }
        }
    });
    let builder = Worker::builder(client.clone())
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(Duration::from_hours(1))
        .poll_interval(Duration::from_millis(20));
    let running = Running::start(builder);
    let first = soon("the first start", started.recv()).await.expect("a start");
    declare_dead(&client, &pool, &schema).await;
    let second = soon("the second start", started.recv()).await.expect("a start");
    assert_eq!((second.id, second.attempts), (job.id, 2));
    assert_ne!(first.locked_by, second.locked_by);
    assert!(second.last_error.is_some_and(|text| text.contains("heartbeats")));
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.stale), (1, 1), "the first start's result came too late");
}

#[tokio::test]
async fn a_worker_that_is_declared_dead_while_it_ends_asks_its_jobs_to_end_at_once() {
    let (client, pool, schema) = client().await;
    let job = client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let handler = task_fn("t", move |(): (), ctx: JobContext| {
        let started = started_tx.clone();
        async move {
            started.send(()).expect("open");
            ctx.cancelled().await;
        }
    });
    // Nothing else would end the job before the test gives up.
    let hour = Duration::from_hours(1);
    let builder = Worker::builder(client.clone())
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(hour)
        .cancel_after(hour)
        .grace(hour);
    let running = Running::start(builder);
    soon("the start", started.recv()).await.expect("a start");
    running.handle.shutdown();
    declare_dead(&client, &pool, &schema).await;
    let summary = soon("its end", running.ended()).await.expect("run");
    assert_eq!((summary.completed, summary.stale), (0, 1), "it settles nothing that it no longer owns");
    let free = client.job(job.id).await.expect("read").expect("it is kept");
    assert_eq!((free.attempts, free.locked_by), (1, None), "others may run it");
    assert_eq!(
        ask(&pool, &schema, "select count(*) from S._private_job_queues where locked_by is not null").await,
        "0"
    );
}

#[tokio::test]
async fn a_worker_whose_claim_was_broken_by_force_cannot_settle_what_another_now_runs() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", ()).serial_queue("q")).await.expect("add");
    let (started_tx, mut started) = mpsc::unbounded_channel();
    let gates = Arc::new([Semaphore::new(0), Semaphore::new(0)]);
    let worker = |who: usize| {
        let (started, gates) = (started_tx.clone(), gates.clone());
        let handler = task_fn("t", move |(): (), ctx: JobContext| {
            let (started, gates) = (started.clone(), gates.clone());
            async move {
                started.send((who, ctx.job().clone())).expect("open");
                gates[who].acquire().await.expect("open").forget();
            }
        });
        Running::start(Worker::builder(client.clone()).task(handler))
    };
    let one = worker(0);
    let (_, first) = soon("the first start", started.recv()).await.expect("a start");
    one.handle.shutdown();
    let other = worker(1);
    assert_eq!(client.unlock(first.locked_by.clone()).await.expect("unlock"), 1);
    let (who, second) = soon("the second start", started.recv()).await.expect("a start");
    assert_eq!((who, second.id, second.attempts), (1, first.id, 2));

    gates[0].add_permits(1);
    let summary = one.ended().await.expect("run");
    assert_eq!((summary.completed, summary.stale), (0, 1));
    assert_eq!(client.job(second.id).await.expect("read").expect("still there"), second, "untouched");
    let queue = "select locked_by from S._private_job_queues";
    assert_eq!(Some(ask(&pool, &schema, queue).await), second.locked_by);
    gates[1].add_permits(1);
    empty(&client).await;
    assert_eq!(other.end().await.completed, 1);
}

#[tokio::test]
async fn the_jobs_of_a_dead_worker_are_run_by_another() {
    let (client, ..) = client().await;
    let dead = WorkerId::random();
    client.storage().consumer().register(&Registration::new(&dead, &["t".to_owned()])).await.expect("register");
    client
        .add_many([JobSpec::new("t", ()).serial_queue("q"), JobSpec::new("t", ()).serial_queue("q")])
        .await
        .expect("add");
    let request = ["t".to_owned()];
    let held = client.storage().consumer().claim(&ClaimRequest::new(&dead, &request, 5)).await.expect("claim").jobs;
    assert_eq!(held.len(), 1);
    let builder = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .heartbeat_every(Duration::from_millis(50))
        .dead_after(Duration::from_millis(200))
        .poll_interval(Duration::from_hours(1));
    let running = Running::start(builder);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 2);
}

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

/// A job that a worker holds which was last seen two hours ago.
async fn held_by_a_dead_worker(client: &BackfillClient, pool: &PgPool, schema: &str) -> WorkerId {
    let (dead, tasks) = (WorkerId::random(), ["t".to_owned()]);
    client.storage().consumer().register(&Registration::new(&dead, &tasks)).await.expect("register");
    client.add(JobSpec::new("t", ())).await.expect("add");
    assert_eq!(
        client.storage().consumer().claim(&ClaimRequest::new(&dead, &tasks, 1)).await.expect("claim").jobs.len(),
        1
    );
    let old = format!("update S.backfill_pools set seen_at = now() - interval '2 hours' where id = '{dead}'");
    sql(pool, schema, &old).await;
    dead
}

/// A run that ends when idle, whose only job ends when this query answers true.
async fn run_until_idle_or(client: &BackfillClient, schema: &str, dead_after: Duration, query: String) -> Summary {
    client.add(JobSpec::new("wait", ())).await.expect("add");
    let (pool, schema) = (support::pool().await, schema.to_owned());
    let wait = task_fn("wait", move |(): (), _: JobContext| {
        let (pool, schema, query) = (pool.clone(), schema.clone(), query.clone());
        async move { until("what the job waits for", || async { ask(&pool, &schema, &query).await == "true" }).await }
    });
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .task(wait)
        .heartbeat_every(Duration::from_millis(50))
        .dead_after(dead_after)
        .handle_signals(false)
        .build()
        .expect("a worker");
    soon("the run ends", worker.run_until_idle()).await.expect("run")
}

#[tokio::test]
async fn a_run_that_ends_declares_nobody_dead_before_it_would_have_heard_them() {
    let (client, pool, schema) = client().await;
    let dead = held_by_a_dead_worker(&client, &pool, &schema).await;
    // It has looked after others at each of its heartbeats.
    let seen = format!(
        "select coalesce(bool_or(seen_at - started_at > interval '250 ms' and dead_after = interval '15 seconds'), false)
         from S.backfill_pools where id <> '{dead}'"
    );
    let summary = run_until_idle_or(&client, &schema, Duration::from_secs(15), seen).await;
    assert_eq!(summary.completed, 1);
    assert_eq!(ask(&pool, &schema, "select id from S.backfill_pools").await, dead.as_str());
    assert_eq!(client.counts().await.expect("counts").running, 1, "the other may be alive and cut off");
}

#[tokio::test]
async fn a_run_that_outlasts_its_dead_after_frees_the_jobs_of_the_dead() {
    let (client, pool, schema) = client().await;
    let dead = held_by_a_dead_worker(&client, &pool, &schema).await;
    let gone = format!("select not exists (select from S.backfill_pools where id = '{dead}')");
    let summary = run_until_idle_or(&client, &schema, Duration::from_millis(300), gone).await;
    assert_eq!(summary.completed, 2);
}

#[tokio::test]
async fn locks_of_unregistered_workers_are_released_after_four_hours_only() {
    let (client, pool, schema) = client().await;
    client.add_many([JobSpec::new("t", 1).serial_queue("q"), JobSpec::new("t", 2)]).await.expect("add");
    let lock = |hours: &str| {
        format!(
            "update S._private_jobs set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}', attempts = 1;
             update S._private_job_queues set locked_by = 'pool-of-node', locked_at = now() - interval '{hours}'"
        )
    };
    sql(&pool, &schema, &lock("3 hours 59 minutes")).await;
    assert_eq!(client.storage().consumer().release_stale().await.expect("sweep"), 0);
    assert!(client.storage().consumer().rescue(&Watch::new(Duration::from_secs(1))).await.expect("rescue").is_empty());
    sql(&pool, &schema, &lock("4 hours 1 minute")).await;
    assert_eq!(client.storage().consumer().release_stale().await.expect("sweep"), 2);
    let worker =
        Worker::builder(client.clone()).task(task_fn("t", |_: u8, _: JobContext| async {})).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 2);
}

#[tokio::test]
async fn locks_of_registered_workers_are_left_to_their_heartbeats() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 1).serial_queue("q")).await.expect("add");
    let (storage, id) = (client.storage().consumer(), WorkerId::random());
    storage.register(&Registration::new(&id, &[])).await.expect("register");
    let lock = format!("locked_by = '{id}', locked_at = now() - interval '5 hours'");
    sql(&pool, &schema, &format!("update S._private_jobs set {lock}; update S._private_job_queues set {lock}")).await;
    assert_eq!(storage.release_stale().await.expect("sweep"), 0, "a job may run for longer than four hours");
    assert_eq!(client.counts().await.expect("counts").running, 1);
    sql(&pool, &schema, "delete from S.backfill_pools").await;
    assert_eq!(storage.release_stale().await.expect("sweep"), 1);
}

#[tokio::test]
async fn jobs_are_freed_however_little_time_the_role_gives_its_statements() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let short = (*pool.connect_options()).clone().options([("statement_timeout", "200ms")]);
    let short = PgPool::connect_with(short).await.expect("connect");
    let storage = backfill::storage::postgres::PostgresStorage::new(short, &schema).expect("a schema");
    let storage: &dyn backfill::storage::Consumer = &storage;
    let id = WorkerId::random();
    let lock = format!("update S._private_jobs set locked_by = '{id}', locked_at = now(), attempts = 1");
    // As slow as a large table.
    let slow = "create function S.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.6); return new; end $$;
                create trigger slow before update on S._private_jobs for each row when (old.locked_by is not null)
                execute function S.slow()";
    sql(&pool, &schema, slow).await;
    for way in ["rescue", "release_untracked", "deregister", "sweep"] {
        storage.register(&Registration::new(&id, &[])).await.expect("register");
        sql(&pool, &schema, &lock).await;
        match way {
            "rescue" => {
                assert_eq!(storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue")[0].jobs, 1);
            }
            "release_untracked" => assert_eq!(storage.release_untracked(&id, &[]).await.expect("release"), 1),
            "deregister" => {}
            _ => {
                let old = "delete from S.backfill_pools; alter table S._private_jobs disable trigger slow;
                           update S._private_jobs set locked_at = now() - interval '5 hours';
                           alter table S._private_jobs enable trigger slow";
                sql(&pool, &schema, old).await;
                assert_eq!(storage.release_stale().await.expect("sweep"), 1);
            }
        }
        storage.deregister(&id).await.expect("deregister");
        let counts = client.counts().await.expect("counts");
        assert_eq!((counts.alive(), counts.running), (1, 0), "{way}");
    }
}

#[tokio::test]
async fn a_worker_whose_heartbeats_are_not_answered_claims_nothing_until_they_are() {
    let (inner, ..) = client().await;
    let faults = Faults::new(0, 0, Duration::ZERO);
    let faulty = Arc::new(Faulty { inner: inner.storage().clone(), faults: Arc::clone(&faults) });
    let task = task_fn("t", |_: u32, _: JobContext| async {});
    let builder = Worker::builder(BackfillClient::with_storage(faulty))
        .task(task)
        .heartbeat_every(Duration::from_millis(100))
        .dead_after(Duration::from_secs(1))
        .poll_interval(Duration::from_millis(10));
    // Others see it alive: its heartbeats arrive, and only their answers are lost.
    let running = Running::start(builder);
    inner.add(JobSpec::new("t", 1)).await.expect("add");
    empty(&inner).await;
    faults.signs_unheard.store(true, Ordering::SeqCst);
    let claims = || faults.claims();
    // It stops to ask when its lease is over: no claim for as long as it would have polled thirty times.
    let mut quiet = (claims(), std::time::Instant::now());
    until("it claims no more", || {
        if claims() != quiet.0 {
            quiet = (claims(), std::time::Instant::now());
        }
        let quiet_for = quiet.1.elapsed();
        async move { quiet_for > Duration::from_millis(300) }
    })
    .await;
    inner.add_many((0..50).map(|n| JobSpec::new("t", n))).await.expect("add");
    faults.signs_unheard.store(false, Ordering::SeqCst);
    empty(&inner).await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.released), (51, 0), "nothing was claimed to be released");
}

/// A run that ends when idle, whose first job ends only when its heartbeats have not been answered for longer than its lease, with
/// what became of it and how many claims it made since.
async fn run_without_heartbeats(answered_again: bool) -> (backfill::Result<Summary>, usize, BackfillClient) {
    let (inner, ..) = client().await;
    let faults = Faults::new(0, 0, Duration::ZERO);
    faults.signs_unheard.store(true, Ordering::SeqCst);
    let faulty = Arc::new(Faulty { inner: inner.storage().clone(), faults: Arc::clone(&faults) });
    inner.add_many((0..30).map(|n| JobSpec::new("t", n))).await.expect("add");
    let (over, before) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let task = {
        let (over, before, faults) = (over.clone(), before.clone(), faults.clone());
        task_fn("t", move |n: u32, _: JobContext| {
            let (over, before, faults) = (over.clone(), before.clone(), faults.clone());
            async move {
                if n == 0 {
                    over.acquire().await.expect("open").forget();
                    before.store(faults.claims(), Ordering::SeqCst);
                }
            }
        })
    };
    let builder = Worker::builder(BackfillClient::with_storage(faulty)).task(task).concurrency(1);
    let builder =
        builder.heartbeat_every(Duration::from_millis(100)).dead_after(Duration::from_secs(1)).handle_signals(false);
    let worker = builder.build().expect("a worker");
    let mut events = worker.events();
    let run = tokio::spawn(async move { worker.run_until_idle().await });
    let mut failures = 0;
    while failures < 15 {
        let event = soon("its heartbeats fail", events.next()).await.expect("it runs");
        failures += usize::from(matches!(event, Event::HeartbeatFailed { .. }));
    }
    over.add_permits(1);
    if answered_again {
        let mut more = 0;
        while more < 3 {
            let event = soon("its heartbeats fail again", events.next()).await.expect("it runs");
            more += usize::from(matches!(event, Event::HeartbeatFailed { .. }));
        }
        faults.signs_unheard.store(false, Ordering::SeqCst);
    }
    let ended = soon("the run ends", run).await.expect("no panic");
    (ended, faults.claims() - before.load(Ordering::SeqCst), inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_fails_when_its_heartbeats_are_not_answered_and_claims_nothing_meanwhile() {
    let (ended, claims, client) = run_without_heartbeats(false).await;
    let error = ended.expect_err("it fails").to_string();
    assert!(error.contains("this worker's heartbeats: there was no answer"), "{error}");
    assert_eq!(claims, 0, "nothing was claimed to be released");
    let counts = client.counts().await.expect("counts");
    assert_eq!((counts.ready, counts.running), (counts.total(), 0), "nothing stays locked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_goes_on_when_its_heartbeats_are_answered_again() {
    let (ended, _, client) = run_without_heartbeats(true).await;
    assert_eq!(ended.expect("it ends").completed, 30);
    assert_eq!(client.counts().await.expect("counts").total(), 0);
}

#[tokio::test]
async fn jobs_that_hold_every_connection_of_the_pool_do_not_starve_the_worker() {
    let (url, schema) = (support::server_url(), support::unique("s"));
    let app = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect");
    let client = BackfillClient::with_pool_and_schema(app.clone(), &schema).await.expect("migrate");
    let jobs: Vec<JobSpec> = (0..3).map(|n| JobSpec::new("t", n)).collect();
    client.add_many(jobs).await.expect("add");
    let heartbeats = Arc::new(Semaphore::new(0));
    let starts = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (app, heartbeats, starts) = (app.clone(), heartbeats.clone(), starts.clone());
        task_fn("t", move |_: u8, _: JobContext| {
            let (app, heartbeats, starts) = (app.clone(), heartbeats.clone(), starts.clone());
            async move {
                // The pool's only connection, until the test has seen heartbeats for longer than the deadline.
                let held = app.acquire().await?;
                starts.fetch_add(1, Ordering::SeqCst);
                heartbeats.acquire().await.expect("open").forget();
                drop(held);
                Ok::<_, sqlx::Error>(())
            }
        })
    };
    let builder = Worker::builder(client)
        .task(handler)
        .heartbeat_every(Duration::from_millis(20))
        .dead_after(Duration::from_secs(2))
        .concurrency(3);
    let running = Running::start(builder);
    let pool = support::pool().await;
    let other = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("connect");
    until("a job holds the connection", || async { starts.load(Ordering::SeqCst) == 1 }).await;
    until("it has been seen alive for longer than the deadline", || async {
        other.storage().consumer().rescue(&Watch::new(Duration::from_secs(2))).await.expect("rescue");
        ask(
            &pool,
            &schema,
            "select coalesce(max(seen_at - started_at), '0') > interval '3 seconds' from S.backfill_pools",
        )
        .await
            == "true"
    })
    .await;
    heartbeats.add_permits(3);
    until("all are done", || async { other.counts().await.expect("counts").total() == 0 }).await;
    assert_eq!(running.end().await, {
        let mut all = Summary::default();
        all.completed = 3;
        all
    });
    assert_eq!(starts.load(Ordering::SeqCst), 3);
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

#[tokio::test]
async fn two_workers_that_choose_the_same_identity_do_not_share_it() {
    let (client, pool, schema) = client().await;
    let start = || {
        let task = task_fn("t", |(): (), _: JobContext| async {});
        let worker = Worker::builder(client.clone()).handle_signals(false).task(task).build().expect("a worker");
        let (mut events, shutdown) = (worker.events(), worker.shutdown_handle());
        let running = tokio::spawn(async move {
            // Both draw the same numbers: they begin on this thread, and nothing is drawn in between.
            fastrand::seed(20);
            worker.run().await
        });
        let identity = async move {
            loop {
                if let Event::Started { worker, .. } = events.next().await.expect("it starts") {
                    return worker.to_string();
                }
            }
        };
        (identity, shutdown, running)
    };
    let (first, first_shutdown, first_running) = start();
    let first = soon("the first starts", first).await;
    fastrand::seed(20);
    assert_eq!(WorkerId::random().as_str(), first, "this is how it was chosen");
    let (second, second_shutdown, second_running) = start();
    let second = soon("the second starts", second).await;
    assert_ne!(first, second);
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_pools").await, "2");
    for (shutdown, running) in [(first_shutdown, first_running), (second_shutdown, second_running)] {
        shutdown.shutdown();
        running.await.expect("no panic").expect("an orderly end");
    }
}

#[tokio::test]
async fn registering_is_whole_or_not_at_all() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().consumer();
    for table in ["_private_tasks", "backfill_pools"] {
        let refuse = format!(
            "create or replace function S.refuse() returns trigger language plpgsql as $$ begin raise exception 'no more'; end $$;
             create trigger refuse before insert on S.{table} for each row execute function S.refuse()"
        );
        sql(&pool, &schema, &refuse).await;
        let tasks = ["t".to_owned()];
        let error = storage.register(&Registration::new(&WorkerId::random(), &tasks)).await.expect_err("it is refused");
        assert!(format!("{error:?}").contains("no more"), "{error:?}");
        sql(&pool, &schema, &format!("drop trigger refuse on S.{table}")).await;
        let rows = "select (select count(*) from S._private_tasks) + (select count(*) from S.backfill_pools)";
        assert_eq!(ask(&pool, &schema, rows).await, "0", "{table}");
    }
}
