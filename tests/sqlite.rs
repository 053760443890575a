//! Workers on an SQLite file: what only shows with a worker, or with a program's own transactions.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use backfill::storage::Watch;
use backfill::{BackfillClient, Crontab, JobContext, JobSpec, Worker, task_fn};
use sqlx::SqlitePool;
use support::running::{Running, empty};
use support::{soon, until};
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// An hour: whoever waits for it never ends.
const NEVER: Duration = Duration::from_secs(3600);

fn place() -> (TempDir, String) {
    let directory = TempDir::new().expect("a directory");
    let url = format!("sqlite://{}/app.db", directory.path().display());
    (directory, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_starts_without_a_poll_whoever_added_it() {
    let (_directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    let done = Arc::new(Semaphore::new(0));
    let task = {
        let done = done.clone();
        task_fn("t", move |_: String, _: JobContext| {
            let done = done.clone();
            async move { done.add_permits(1) }
        })
    };
    let running = Running::start(Worker::builder(client.clone()).task(task).poll_interval(NEVER));
    let ran = || async { soon("the job runs", done.acquire()).await.expect("open").forget() };
    client.add(JobSpec::new("t", "by this client")).await.expect("add");
    ran().await;
    let other = BackfillClient::new(&url).await.expect("open");
    other.add(JobSpec::new("t", "by another, as from another process")).await.expect("add");
    ran().await;
    let db = SqlitePool::connect(&url).await.expect("connect");
    let mut tx = db.begin_with("begin immediate").await.expect("begin");
    client.add_many([JobSpec::new("t", "in a transaction of the program's")]).within(&mut tx).await.expect("add");
    tx.commit().await.expect("commit");
    ran().await;
    // A job that failed is moved up.
    let later = client.add(JobSpec::new("t", "later").run_in(NEVER)).await.expect("add");
    other.reschedule(&[later.id], &backfill::Reschedule::new().run_at(chrono::Utc::now())).await.expect("reschedule");
    ran().await;
    assert_eq!(running.end().await.completed, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_part_of_the_programs_own_transaction() {
    let (_directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    let db = SqlitePool::connect(&url).await.expect("connect");
    sqlx::raw_sql("create table orders (id integer primary key)").execute(&db).await.expect("create");
    for (order, committed) in [(1, true), (2, false)] {
        let mut tx = db.begin_with("begin immediate").await.expect("begin");
        sqlx::query("insert into orders (id) values (?1)").bind(order).execute(&mut *tx).await.expect("insert");
        let specs = [JobSpec::new("t", order).key(format!("order {order}")), JobSpec::new("t", order)];
        assert_eq!(client.add_many(specs).within(&mut tx).await.expect("add").len(), 2);
        // What is refused takes nothing else with it.
        let same = [JobSpec::new("t", order).key("k"), JobSpec::new("t", order).key("k")];
        let error = client.add_many(same).within(&mut tx).await.expect_err("one key twice").to_string();
        assert!(error.contains("the key \"k\""), "{error}");
        if committed { tx.commit().await } else { tx.rollback().await }.expect("end");
    }
    assert_eq!(client.counts().await.expect("counts").ready, 2);
    let orders: i64 = sqlx::query_scalar("select count(*) from orders").fetch_one(&db).await.expect("count");
    assert_eq!(orders, 1);
    // On a connection without a transaction, all or none.
    let mut connection = db.acquire().await.expect("connect");
    client.add_many((0..3).map(|n| JobSpec::new("t", n))).within(&mut connection).await.expect("add");
    assert_eq!(client.counts().await.expect("counts").ready, 5);
}

#[test]
fn jobs_that_block_every_thread_neither_lock_the_file_nor_make_their_worker_look_dead() {
    let (_directory, url) = place();
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let blocked = Arc::new(AtomicUsize::new(0));
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let task = {
        let blocked = blocked.clone();
        task_fn("block", move |(): (), _: JobContext| {
            let (held, blocked) = (held.clone(), blocked.clone());
            async move {
                blocked.fetch_add(1, Ordering::SeqCst);
                // Until the test lets go of it.
                let _ = held.lock().expect("lock").recv();
            }
        })
    };
    let running = theirs.block_on(async {
        let client = BackfillClient::new(&url).await.expect("open");
        client.add_many([JobSpec::new("block", ()), JobSpec::new("block", ())]).await.expect("add");
        let builder = Worker::builder(client)
            .task(task)
            .heartbeat_every(Duration::from_millis(50))
            .dead_after(Duration::from_secs(2));
        Running::start(builder)
    });
    let ours = tokio::runtime::Runtime::new().expect("a runtime");
    ours.block_on(async {
        until("both threads are blocked", || async { blocked.load(Ordering::SeqCst) == 2 }).await;
        let client = BackfillClient::new(&url).await.expect("open");
        client.add(JobSpec::new("other", ())).await.expect("the file is not locked");
        let started = client.workers().await.expect("workers")[0].clone();
        until("it has been seen for longer than its deadline", || async {
            assert!(
                client
                    .storage()
                    .consumer()
                    .rescue(&Watch::new(Duration::from_secs(2)))
                    .await
                    .expect("rescue")
                    .is_empty()
            );
            let seen = client.workers().await.expect("workers")[0].seen_at.expect("seen");
            seen - started.started_at.expect("started") > chrono::TimeDelta::seconds(3)
        })
        .await;
    });
    release.send(()).expect("a job waits");
    release.send(()).expect("a job waits");
    assert_eq!(theirs.block_on(running.end()).completed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_too_long_for_the_file_is_told_why() {
    let (_directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    let db = SqlitePool::connect(&url).await.expect("connect");
    let tx = db.begin_with("begin immediate").await.expect("begin");
    // These three share transactions, and so their errors; the last one is no single add.
    let (one, other, many) = tokio::join!(
        client.add(JobSpec::new("t", 1)),
        client.add(JobSpec::new("t", 2)),
        client.add_many([JobSpec::new("t", 3)])
    );
    for error in [one.expect_err("locked"), other.expect_err("locked"), many.expect_err("locked")] {
        assert!(error.to_string().contains("database is locked (SQLite's code 5): another program"), "{error}");
        assert!(error.is_transient());
        let told = error.cause::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        assert_eq!(told.and_then(sqlx::error::DatabaseError::code).as_deref(), Some("5"));
    }
    tx.rollback().await.expect("rollback");
    client.add(JobSpec::new("t", 4)).await.expect("add");
    assert_eq!(client.counts().await.expect("counts").total(), 1, "what was refused does not come later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_keeps_the_file_locked_makes_nobody_look_dead() {
    let (_directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    let task = || task_fn("t", |(): (), _: JobContext| async {});
    let deadline = Duration::from_secs(1);
    let builder = || {
        Worker::builder(client.clone()).task(task()).heartbeat_every(Duration::from_millis(100)).dead_after(deadline)
    };
    let (one, other) = (Running::start(builder()), Running::start(builder()));
    until("both are there", || async { client.workers().await.expect("workers").len() == 2 }).await;
    let before: Vec<String> = client.workers().await.expect("workers").into_iter().map(|worker| worker.id).collect();
    let db = SqlitePool::connect(&url).await.expect("connect");
    let tx = db.begin_with("begin immediate").await.expect("begin");
    // Nobody can write; so an add that waits for the lock begins now, and ends when it is free.
    let add = tokio::spawn({
        let client = client.clone();
        async move { client.add(JobSpec::new("t", ())).await }
    });
    until("they were last seen twice the deadline ago", || async {
        client
            .workers()
            .await
            .expect("workers")
            .iter()
            .all(|worker| worker.last_seen_ago.is_some_and(|ago| ago > deadline * 2))
    })
    .await;
    tx.rollback().await.expect("end");
    soon("the add ends", add).await.expect("no panic").expect("add");
    empty(&client).await;
    until("they are seen again", || async {
        client
            .workers()
            .await
            .expect("workers")
            .iter()
            .all(|worker| worker.last_seen_ago.is_some_and(|ago| ago < deadline))
    })
    .await;
    let after: Vec<String> = client.workers().await.expect("workers").into_iter().map(|worker| worker.id).collect();
    assert_eq!(before, after, "with the identities they had");
    one.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes_all_the_time_leaves_others_their_turn() {
    let (_directory, url) = place();
    // Two clients have a writer each, as two processes have.
    let greedy = BackfillClient::new(&url).await.expect("open");
    let other = BackfillClient::new(&url).await.expect("open");
    let mut adding = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let greedy = greedy.clone();
        adding.spawn(async move {
            loop {
                greedy.add_many((0..2_000).map(|n| JobSpec::new("t", n))).await.expect("add");
            }
        });
    }
    until("it adds", || async { greedy.counts().await.expect("counts").total() > 0 }).await;
    // SQLite's own way of waiting took seconds for each of these.
    soon("the other has had forty turns", async {
        for n in 0..40 {
            other.add(JobSpec::new("other", n)).await.expect("add");
        }
    })
    .await;
    adding.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crontabs_are_caught_up_on_a_file_and_run_once_for_two_workers() {
    let (_directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    // Known since two hours, and last due an hour ago.
    let past = chrono::Utc::now() - chrono::TimeDelta::hours(2);
    client
        .storage()
        .require_schedules()
        .expect("schedules")
        .register_crontabs(&["t".to_owned()], past)
        .await
        .expect("register");
    let ran = Arc::new(AtomicUsize::new(0));
    let worker = || {
        let ran = ran.clone();
        let task = task_fn("t", move |_: serde_json::Value, _: JobContext| {
            let ran = ran.clone();
            async move {
                ran.fetch_add(1, Ordering::SeqCst);
            }
        });
        let crontab: Crontab = "0 * * * * t ?fill=90m".parse().expect("a crontab");
        Running::start(Worker::builder(client.clone()).task(task).crontab(crontab))
    };
    let (one, other) = (worker(), worker());
    until("the hour that was missed is made up for", || async { ran.load(Ordering::SeqCst) >= 1 }).await;
    let last = client.crontabs().await.expect("crontabs")[0].last_execution.expect("it was due");
    assert!(last > past && last <= chrono::Utc::now());
    empty(&client).await;
    let completed = one.end().await.completed + other.end().await.completed;
    // One or two full hours lie within ninety minutes, and a new one may begin at this moment.
    assert!((1..=3).contains(&completed) && completed == ran.load(Ordering::SeqCst) as u64, "{completed}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_file_is_removed_or_replaced_ends_and_asks_its_jobs_to() {
    for replaced in [false, true] {
        let (directory, url) = place();
        let client = BackfillClient::new(&url).await.expect("open");
        client.add(JobSpec::new("t", ())).await.expect("add");
        let (started, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let task = {
            let (started, asked) = (started.clone(), asked.clone());
            task_fn("t", move |(): (), ctx: JobContext| {
                let (started, asked) = (started.clone(), asked.clone());
                async move {
                    started.add_permits(1);
                    ctx.cancelled().await;
                    asked.add_permits(1);
                }
            })
        };
        // The heartbeat alone can tell.
        let builder = Worker::builder(client.clone()).task(task).poll_interval(NEVER).listen(false);
        let builder =
            builder.cancel_after(NEVER).grace(NEVER).heartbeat_every(Duration::from_millis(50)).dead_after(NEVER);
        let running = Running::start(builder);
        soon("the job starts", started.acquire()).await.expect("open").forget();
        let file = directory.path().join("app.db");
        if replaced {
            let backup = directory.path().join("backup.db");
            BackfillClient::new(&format!("sqlite://{}", backup.display())).await.expect("open");
            std::fs::rename(backup, &file).expect("rename");
        } else {
            std::fs::remove_file(&file).expect("remove");
        }
        soon("the job is asked to end", asked.acquire()).await.expect("open").forget();
        let error = running.ended().await.expect_err("its file is gone");
        assert!(matches!(error, backfill::Error::StorageGone { .. }), "{error}");
        let error = client.add(JobSpec::new("t", ())).await.expect_err("the client too").to_string();
        assert!(error.contains(if replaced { "was replaced" } else { "was removed" }), "{error}");
    }
}

#[tokio::test]
async fn the_end_of_a_program_leaves_the_file_alone() {
    let (directory, url) = place();
    let client = BackfillClient::new(&url).await.expect("open");
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let task = task_fn("t", |_: i32, _: JobContext| async {});
    let running = Running::start(Worker::builder(client.clone()).task(task));
    until("the job is done", || async { client.counts().await.expect("counts").total() == 0 }).await;
    client.add(JobSpec::new("t", 2).run_in(NEVER)).await.expect("add");
    running.end().await;
    drop(client);
    let files = std::fs::read_dir(directory.path()).expect("a directory");
    let left: Vec<_> = files.map(|file| file.expect("a file").file_name()).collect();
    assert_eq!(left, ["app.db"], "nothing is left beside the file");
    assert_eq!(BackfillClient::new(&url).await.expect("open").counts().await.expect("counts").scheduled, 1);
}
