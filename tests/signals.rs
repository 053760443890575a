//! A worker process and the signals that end it.

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use backfill::{BackfillClient, Event, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::{ask, database, soon, sql, until};
use tokio::process::{Child, Command};

const CONCURRENCY: usize = 500;

async fn worker(url: &str) -> Worker {
    let client = BackfillClient::new(url).await.expect("migrate");
    let runs = PgPoolOptions::new().max_connections(20).connect(url).await.expect("connect");
    let builder = Worker::builder(client);
    let builder = match std::env::var("CHILD_SECOND_SIGNAL_AFTER_MS") {
        Ok(ms) => builder.second_signal_after(Duration::from_millis(ms.parse().expect("a number"))),
        Err(_) => builder,
    };
    builder
        .task(task_fn("record", move |ms: u64, ctx: JobContext| record(runs.clone(), ms, ctx)))
        .concurrency(CONCURRENCY)
        .poll_interval(Duration::from_millis(100))
        .cancel_after(Duration::from_mins(1))
        .grace(Duration::from_mins(1))
        .build()
        .expect("worker")
}

async fn record(runs: PgPool, ms: u64, ctx: JobContext) -> Result<(), sqlx::Error> {
    let job = ctx.job().id;
    sqlx::query("insert into test.runs (job) values ($1)").bind(job.number()).execute(&runs).await?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        () = ctx.cancelled() => return Err(sqlx::Error::WorkerCrashed),
    }
    sqlx::query("update test.runs set ended = true where job = $1 and not ended")
        .bind(job.number())
        .execute(&runs)
        .await?;
    Ok(())
}

/// Not a test by itself: the worker process that the tests below start and signal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process_that_works() {
    let Ok(url) = std::env::var("CHILD_DATABASE_URL") else { return };
    let (worker, told) = (worker(&url).await, PgPool::connect(&url).await.expect("connect"));
    let mut events = worker.events();
    let telling = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Signal { name } = event {
                sqlx::query("insert into test.signals (name) values ($1)")
                    .bind(name)
                    .execute(&told)
                    .await
                    .expect("tell");
            }
        }
    });
    worker.run().await.expect("run");
    drop(worker);
    telling.await.expect("no panic");
}

struct Scene {
    pool: PgPool,
    client: BackfillClient,
    url: String,
    child: Child,
}

impl Scene {
    /// A worker process with this many jobs of this length running.
    async fn with_jobs(lengths: Vec<u64>) -> Self {
        Self::with_jobs_and(lengths, &[]).await
    }

    /// The same, with these settings.
    async fn with_jobs_and(lengths: Vec<u64>, settings: &[(&str, &str)]) -> Self {
        let (pool, url) = database().await;
        sql(
            &pool,
            "x",
            "create schema test; create table test.runs (job bigint, ended boolean not null default false); \
             create table test.signals (id int generated always as identity, name text)",
        )
        .await;
        let client = BackfillClient::new(&url).await.expect("migrate");
        let count = lengths.len();
        client.add_many(lengths.into_iter().map(|ms| JobSpec::new("record", ms))).await.expect("add");
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_process_that_works", "--nocapture"])
            .env("CHILD_DATABASE_URL", &url)
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start");
        until("all jobs run", || async {
            ask(&pool, "x", "select count(*) from test.runs").await == count.to_string()
        })
        .await;
        Self { pool, client, url, child }
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill").success());
    }

    async fn ended(&mut self) {
        let status = soon("the worker process ends", self.child.wait()).await.expect("wait");
        assert!(status.success(), "{status}");
    }

    async fn ask(&self, text: &str) -> String {
        ask(&self.pool, "graphile_worker", text).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_amid_500_running_jobs_loses_no_result_and_repeats_none() {
    let mut scene = Scene::with_jobs((0..500).map(|n| 200 + n * 20).collect()).await;
    until("some have ended", || async { scene.ask("select count(*) > 20 from test.runs where ended").await == "true" })
        .await;
    scene.signal("TERM").await;
    assert_eq!(scene.ask("select count(*) < 400 from test.runs where ended").await, "true", "in the middle of them");
    scene.ended().await;
    assert_eq!(
        scene.ask("select count(*) from S._private_jobs where locked_by is not null").await,
        "0",
        "nothing is left locked"
    );
    let ended: usize = scene.ask("select count(*) from test.runs where ended").await.parse().expect("a number");
    let left: usize = scene.ask("select count(*) from S._private_jobs").await.parse().expect("a number");
    assert_eq!((ended, left), (500, 0), "with time enough, every running job finished and was deleted");
    // Another worker finds nothing to repeat.
    worker(&scene.url).await.run_until_idle().await.expect("run");
    assert_eq!(scene.ask("select count(*) || '/' || count(distinct job) from test.runs").await, "500/500");
    assert_eq!(scene.client.counts().await.expect("counts").total(), 0);
}

/// `timeout`, foreman, npm and a Ctrl-C in a process group signal a process twice within a moment, and mean it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signals_within_a_moment_cut_off_no_running_job() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut scene = Scene::with_jobs((0..40).map(|n| 2_500 + n).collect()).await;
        scene.signal(first).await;
        // The same signal twice at once would be one signal: the system keeps no count of them.
        until("the first is heard", || async { scene.ask("select count(*) from test.signals").await == "1" }).await;
        scene.signal(second).await;
        scene.ended().await;
        let told = scene.ask("select string_agg(name, ' ' order by id) from test.signals").await;
        assert_eq!(told, format!("SIG{first} SIG{second}"), "events tell of both");
        assert_eq!(scene.ask("select count(*) from test.runs where ended").await, "40");
        assert_eq!(scene.client.counts().await.expect("counts").total(), 0, "all are done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_forces_the_end_and_every_signal_is_understood() {
    for (first, second) in [("INT", "TERM"), ("HUP", "INT")] {
        // Some are done at once, the others would take an hour.
        let lengths = (0..40).map(|n| if n % 2 == 0 { 0 } else { 3_600_000 }).collect();
        let mut scene = Scene::with_jobs_and(lengths, &[("CHILD_SECOND_SIGNAL_AFTER_MS", "0")]).await;
        until("half is done", || async { scene.client.counts().await.expect("counts").total() == 20 }).await;
        let begin = Instant::now();
        scene.signal(first).await;
        scene.signal(second).await;
        scene.ended().await;
        assert!(begin.elapsed() < Duration::from_secs(30));
        let cut_off = scene.ask("select count(*) from S._private_jobs where id <= 40 and attempts = 0 and last_error is not null and locked_by is null and run_at <= now()").await;
        assert_eq!(cut_off, "20", "cancelled jobs are ready again, neither failed nor lost");
        let told = scene.ask("select string_agg(name, ' ' order by id) from test.signals").await;
        assert_eq!(told, format!("SIG{first} SIG{second}"), "events tell of both");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_killed_worker_process_are_run_by_the_next_one() {
    let mut scene = Scene::with_jobs(vec![3_600_000; 10]).await;
    scene.signal("KILL").await;
    soon("the worker process ends", scene.child.wait()).await.expect("wait");
    assert_eq!(scene.client.counts().await.expect("counts").running, 10);
    // Time passes for the dead worker's heartbeat, not for this test.
    sql(&scene.pool, "graphile_worker", "update S.backfill_pools set seen_at = seen_at - interval '16 seconds'").await;
    sql(&scene.pool, "graphile_worker", "update S._private_jobs set payload = '0'").await;
    let next = worker(&scene.url).await;
    let handle = next.shutdown_handle();
    let running = tokio::spawn(async move { next.run().await });
    until("all are done", || async { scene.client.counts().await.expect("counts").total() == 0 }).await;
    handle.shutdown();
    soon("the worker ends", running).await.expect("no panic").expect("run");
    assert_eq!(scene.ask("select count(*) || '/' || count(distinct job) from test.runs").await, "20/10");
}
