//! What a job does besides itself, once and for all: jobs, events and documents in the write that completes it, and the task's own
//! statements in one transaction with it.

#[cfg(feature = "server-tests")]
#[path = "../crates/backfill-redis/tests/redis_server/mod.rs"]
mod redis_server;
#[cfg(feature = "server-tests")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use backfill::sqlite::SqliteStorage;
use backfill::storage::messages::{DocumentChange, DocumentKey};
use backfill::storage::{AnyStorage, Storage as _};
use backfill::{BackfillClient, Error, JobContext, JobFilter, JobSpec, Payload, RetryPolicy, Summary, task_fn};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Connection as _, SqlitePool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Place {
    client: BackfillClient,
    url: String,
    _directory: Option<tempfile::TempDir>,
}

async fn sqlite() -> Place {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/jobs.db", directory.path().display());
    let storage = SqliteStorage::open(&url).expect("open").with_messages();
    storage.migrate().await.expect("migrate");
    let pool = SqlitePool::connect(&url).await.expect("connect");
    sqlx::query("create table effects (job integer not null)").execute(&pool).await.expect("a table");
    pool.close().await;
    Place { client: BackfillClient::with_storage(storage), url, _directory: Some(directory) }
}

#[cfg(feature = "server-tests")]
async fn postgres() -> Place {
    let (pool, url) = support::database().await;
    sqlx::query("create table effects (job bigint not null)").execute(&pool).await.expect("a table");
    let client = BackfillClient::builder().database_url(&url).messages(true).build().await.expect("migrate");
    Place { client, url, _directory: None }
}

#[cfg(feature = "server-tests")]
async fn redis() -> Place {
    let (url, namespace) = (redis_server::shared().url(), redis_server::namespace());
    let storage = backfill::redis::RedisStorage::open(&url, &namespace).expect("open");
    storage.migrate().await.expect("migrate");
    Place { client: BackfillClient::with_storage(storage), url, _directory: None }
}

fn memory() -> Place {
    Place { client: BackfillClient::in_memory(), url: String::new(), _directory: None }
}

async fn numbers(client: &BackfillClient) -> Vec<i64> {
    let events = client.storage().require_messages().expect("messages").events("done", 0, 99).await.expect("events");
    events.iter().map(|event| event.payload.decode().expect("a number")).collect()
}

async fn run(client: &BackfillClient, task: backfill::Handler) -> Summary {
    client.worker().task(task).handle_signals(false).run_until_idle().await.expect("it runs")
}

/// With the result, or not at all.
async fn follows(place: Place) {
    let client = &place.client;
    let added = client.add_many((0..5).map(|n| JobSpec::new("work", n).max_attempts(2))).await.expect("add");
    let task = task_fn("work", |n: i64, ctx: JobContext| async move {
        ctx.append_when_done("done", &n)?;
        let key = DocumentKey::new("kind", n.to_string());
        ctx.change_when_done(DocumentChange::put(key.clone(), Payload::new("a test", &1)?))?;
        ctx.change_when_done(DocumentChange::put(key, Payload::new("a test", &n)?))?;
        ctx.add_when_done(JobSpec::new("next", n).key(format!("next {n}")))?;
        ctx.output(&format!("put out by {n}"), Duration::from_secs(60))?;
        // What cannot be is refused at once.
        assert!(matches!(ctx.append_when_done("", &n), Err(Error::InvalidMessage { .. })));
        if n == 3 && ctx.job().attempts == 1 { Err(Failure::from("not yet")) } else { Ok(()) }
    });
    let summary = run(client, task.retry(RetryPolicy::fixed(Duration::ZERO))).await;
    assert_eq!((summary.completed, summary.failed, summary.stale), (5, 1, 0), "{summary:?}");
    let mut seen = numbers(client).await;
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4], "each once, also the one that failed first");
    let messages = client.storage().require_messages().expect("messages");
    let documents = messages.documents("kind", "", None, 99).await.expect("documents");
    let values: Vec<(&str, i64)> = documents
        .iter()
        .map(|document| (document.key.key.as_str(), document.value.decode().expect("a number")))
        .collect();
    assert_eq!(values, [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4)]);
    for (n, job) in added.iter().enumerate() {
        let output = client.output(job.id).await.expect("read").expect("it is kept");
        assert_eq!(output.decode::<String>().expect("a text"), format!("put out by {n}"));
    }
    assert_eq!(client.output(backfill::JobId::from_number(99_999)).await.expect("read"), None);
    assert_eq!(messages.depths(&["next".to_owned()], 99).await.expect("depths")[0].ready, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_job_happens_with_its_result_in_memory() {
    follows(memory()).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_job_happens_with_its_result_in_redis() {
    follows(redis().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_job_happens_with_its_result_in_a_file() {
    follows(sqlite().await).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_job_happens_with_its_result_in_a_schema() {
    follows(postgres().await).await;
}

/// A storage that was opened without messages says so when the task speaks, not when the job is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_messages_nothing_can_be_appended() {
    let place = sqlite().await;
    let plain: AnyStorage = SqliteStorage::open(&place.url).expect("open").into();
    let client = BackfillClient::with_storage(plain);
    client.add(JobSpec::new("work", 1)).await.expect("add");
    let task = task_fn("work", |_: i64, ctx: JobContext| async move {
        let error = ctx.append_when_done("done", &1).expect_err("there are no messages");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    });
    assert_eq!(run(&client, task).await.completed, 1);
}

/// The connections of a test's tasks, to the database that the jobs are in.
#[derive(Clone)]
enum Pool {
    Sqlite(SqlitePool),
    #[cfg(feature = "server-tests")]
    Postgres(sqlx::PgPool),
}

impl Pool {
    async fn of(url: &str) -> Self {
        #[cfg(feature = "server-tests")]
        if url.starts_with("postgres") {
            return Self::Postgres(sqlx::PgPool::connect(url).await.expect("connect"));
        }
        let options = SqlitePoolOptions::new().max_connections(1);
        Self::Sqlite(options.connect(url).await.expect("connect"))
    }

    /// Does something for a job and completes it, in one transaction.
    async fn effect(&self, job: i64, ctx: &JobContext, commits: bool) -> Result<(), Failure> {
        match self {
            Self::Sqlite(pool) => {
                let mut connection = pool.acquire().await?;
                let mut tx = connection.begin_with("begin immediate").await?;
                sqlx::query("insert into effects (job) values (?1)").bind(job).execute(&mut *tx).await?;
                ctx.complete_in(&mut tx).await?;
                if commits { tx.commit().await? } else { tx.rollback().await? }
            }
            #[cfg(feature = "server-tests")]
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                sqlx::query("insert into effects (job) values ($1)").bind(job).execute(&mut *tx).await?;
                ctx.complete_in(&mut tx).await?;
                let timeout: String = sqlx::query_scalar("show lock_timeout").fetch_one(&mut *tx).await?;
                assert_eq!(timeout, "0", "the caller's settings stay");
                if commits { tx.commit().await? } else { tx.rollback().await? }
            }
        }
        Ok(())
    }

    /// Where nothing can be written.
    async fn try_in_a_broken_transaction(&self, ctx: &JobContext) {
        let error = match self {
            Self::Sqlite(pool) => {
                let mut connection = pool.acquire().await.expect("a connection");
                sqlx::query("pragma query_only = on").execute(&mut *connection).await.expect("set");
                let error = ctx.complete_in(&mut *connection).await;
                sqlx::query("pragma query_only = off").execute(&mut *connection).await.expect("set");
                error
            }
            #[cfg(feature = "server-tests")]
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await.expect("begin");
                sqlx::query("select 1 / 0").execute(&mut *tx).await.expect_err("it aborts the transaction");
                ctx.complete_in(&mut tx).await
            }
        };
        assert!(!matches!(error, Ok(()) | Err(Error::CompletedAlready)), "{error:?}");
    }

    async fn effects(&self) -> Vec<i64> {
        let query = "select job from effects order by job";
        match self {
            Self::Sqlite(pool) => sqlx::query_scalar(query).fetch_all(pool).await.expect("read"),
            #[cfg(feature = "server-tests")]
            Self::Postgres(pool) => sqlx::query_scalar(query).fetch_all(pool).await.expect("read"),
        }
    }
}

/// Committed: the job is done with it, and what follows it too. Rolled back: the attempt has failed, and the next one does it.
async fn completes_in_a_transaction(place: Place) {
    let (client, pool) = (&place.client, Pool::of(&place.url).await);
    // Of a serial queue, too, whose next job must start after it.
    client.add_many((0..6).map(|n| JobSpec::new("work", n).serial_queue("q").max_attempts(3))).await.expect("add");
    let (tasks, running) = (pool.clone(), Arc::new(AtomicI64::new(0)));
    let task = task_fn("work", move |n: i64, ctx: JobContext| {
        let (pool, running) = (tasks.clone(), Arc::clone(&running));
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            ctx.append_when_done("done", &n)?;
            if n == 4 {
                // Nothing comes of a try that fails, and it may be tried again.
                pool.try_in_a_broken_transaction(&ctx).await;
            }
            let rolls_back = n == 2 && ctx.job().attempts == 1;
            pool.effect(n, &ctx, !rolls_back).await?;
            assert!(matches!(ctx.append_when_done("done", &n), Err(Error::CompletedAlready)));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Failure>(())
        }
    });
    let summary = run(client, task.retry(RetryPolicy::fixed(Duration::ZERO))).await;
    assert_eq!((summary.completed, summary.failed, summary.stale), (6, 1, 0), "{summary:?}");
    assert_eq!(pool.effects().await, [0, 1, 2, 3, 4, 5], "each once");
    let mut seen = numbers(client).await;
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    assert_eq!(client.counts().await.expect("counts").total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_completed_in_the_tasks_own_transaction_in_a_file() {
    completes_in_a_transaction(sqlite().await).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_completed_in_the_tasks_own_transaction_in_a_schema() {
    completes_in_a_transaction(postgres().await).await;
}

/// A worker that was declared dead meanwhile is told, so that it rolls back.
async fn knows_that_its_claim_is_lost(place: Place) {
    let (client, pool) = (&place.client, Pool::of(&place.url).await);
    client.add(JobSpec::new("work", 1).max_attempts(9)).await.expect("add");
    let (tasks, unlocker) = (pool.clone(), client.clone());
    let task = task_fn("work", move |n: i64, ctx: JobContext| {
        let (pool, client) = (tasks.clone(), unlocker.clone());
        async move {
            if ctx.job().attempts == 1 {
                let worker = ctx.job().locked_by.clone().expect("a worker holds it");
                client.unlock([worker]).await?;
                let error = pool.effect(n, &ctx, true).await.expect_err("it is not ours");
                assert!(matches!(error.downcast_ref(), Some(Error::ClaimLost { .. })), "{error}");
                return Ok(());
            }
            pool.effect(n, &ctx, true).await
        }
    });
    let worker = client.worker().task(task).handle_signals(false).build().expect("a worker");
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    while client.counts().await.expect("counts").total() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handle.shutdown();
    running.await.expect("it ends").expect("in order");
    assert_eq!(pool.effects().await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_learns_in_its_transaction_that_its_claim_is_lost_in_a_file() {
    knows_that_its_claim_is_lost(sqlite().await).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_learns_in_its_transaction_that_its_claim_is_lost_in_a_schema() {
    knows_that_its_claim_is_lost(postgres().await).await;
}

/// A process that is killed before each of its writes, one after the other: each effect is there once, with its job done, or the job is
/// there still.
mod deaths {
    use super::*;

    const PLACE: &str = "BACKFILL_OUTBOX_PLACE";

    /// Plays the worker, if it is a child that is to.
    #[tokio::test]
    async fn child() {
        let Ok(url) = std::env::var(PLACE) else { return };
        let client = BackfillClient::builder().database_url(&url).messages(true).build().await.expect("open");
        worker(&client, Pool::of(&url).await).run_until_idle().await.expect("it runs");
        println!("@ended");
    }

    fn worker(client: &BackfillClient, pool: Pool) -> backfill::WorkerBuilder {
        let task = task_fn("work", move |n: i64, ctx: JobContext| {
            let pool = pool.clone();
            async move {
                ctx.append_when_done("done", &n)?;
                pool.effect(n, &ctx, true).await
            }
        });
        let worker = client.worker().task(task).dead_after(Duration::from_secs(1));
        worker.heartbeat_every(Duration::from_millis(200)).handle_signals(false)
    }

    async fn nothing_is_done_by_halves(place: Place, calls: &[&str]) {
        let Ok(strace) = std::env::var("BACKFILL_TEST_STRACE") else {
            println!("left out: BACKFILL_TEST_STRACE does not say where strace is");
            return;
        };
        let (client, pool) = (&place.client, Pool::of(&place.url).await);
        let (mut number, mut kills, mut ends) = (0_i64, 0, 0);
        for call in calls {
            for n in 1..60 {
                number += 1;
                client.add(JobSpec::new("work", number).max_attempts(100)).await.expect("add");
                let mut command = tokio::process::Command::new(&strace);
                command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
                command.args(["-e", &format!("inject={call}:signal=SIGKILL:when={n}")]);
                command.arg(std::env::current_exe().expect("this program"));
                command.args(["--exact", "deaths::child", "--nocapture", "--test-threads=1"]).env(PLACE, &place.url);
                let output = command.output().await.expect("it runs");
                let has_ended = String::from_utf8_lossy(&output.stdout).contains("@ended");
                kills += usize::from(!has_ended);
                ends += usize::from(has_ended);
                let mut now = see(client, &pool).await;
                // A killed process's last statement may still be under way at a server.
                loop {
                    let again = see(client, &pool).await;
                    if again == now {
                        break;
                    }
                    now = again;
                }
                let (effects, seen, mut all) = now;
                assert_eq!(effects, seen, "before {call} {n}: an effect and its event are there together");
                all.extend(&effects);
                all.sort_unstable();
                assert_eq!(all, (1..=number).collect::<Vec<_>>(), "before {call} {n}: done once, or there still");
                if has_ended {
                    break;
                }
            }
        }
        println!("killed at {kills} points, {ends} ends");
        let before = pool.effects().await.len();
        assert!(before > 3, "some were done by processes that were killed later: {before}");
        // And the rest is done by one that lives, once what the dead ones held is free.
        let worker = worker(client, pool.clone()).build().expect("a worker");
        let handle = worker.shutdown_handle();
        let running = tokio::spawn(async move { worker.run().await });
        while client.counts().await.expect("counts").total() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        handle.shutdown();
        running.await.expect("it ends").expect("in order");
        assert_eq!(pool.effects().await, (1..=number).collect::<Vec<_>>());
        assert!(kills >= 10, "a life has more points than {kills}");
    }

    /// Effects, events and jobs.
    async fn see(client: &BackfillClient, pool: &Pool) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
        let number = |payload: &Payload| payload.decode().expect("a number");
        let messages = client.storage().require_messages().expect("messages");
        let events = messages.events("done", 0, 10_000).await.expect("events");
        let mut events: Vec<i64> = events.iter().map(|event| number(&event.payload)).collect();
        events.sort_unstable();
        let jobs = client.jobs(&JobFilter::new().limit(1_000)).await.expect("jobs");
        (pool.effects().await, events, jobs.iter().map(|job| number(&job.payload)).collect())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_killed_at_each_write_does_nothing_by_halves_in_a_file() {
        nothing_is_done_by_halves(sqlite().await, &["pwrite64", "fdatasync"]).await;
    }

    #[cfg(feature = "server-tests")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_killed_at_each_write_does_nothing_by_halves_in_a_schema() {
        nothing_is_done_by_halves(postgres().await, &["sendto"]).await;
    }
}
