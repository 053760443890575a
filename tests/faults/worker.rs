//! The worker process: the library in its default settings, with handlers that write every start and finish to the witness.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use backfill::worker::Event;
use backfill::{BackfillClient, Job, JobContext, JobId, TaskError, Worker, task_fn};
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;

/// What a worker process is told, in the environment variable [`TOLD`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    pub name: String,
    pub url: String,
    pub witness: String,
    pub concurrency: usize,
    pub threads: usize,
    pub prepared: bool,
    pub pool: u32,
    pub crontab: Option<String>,
    /// In seconds.
    pub grace: u64,
    /// The heartbeat interval and `dead_after`, in milliseconds.
    pub heartbeat: (u64, u64),
    /// The poll interval, in milliseconds.
    pub poll: u64,
}

pub const TOLD: &str = "BACKFILL_FAULTS_WORKER";

/// What a job does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    pub ms: u64,
    pub how: How,
    /// Makes a job large.
    #[serde(default)]
    pub pad: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    Sleep,
    /// Ends its process the first time.
    Abort,
    /// Ends its process each time.
    AbortAlways,
    /// Uses up the stack the first time.
    Overflow,
    /// Keeps its thread.
    Block,
    /// Goes on when it is asked to end.
    Ignore,
    /// Holds a connection of the client's pool.
    Hold,
    /// Fails with an error of ten megabytes the first time.
    LongError,
    /// Fails with an error as long as is kept.
    Fail,
}

/// Jobs that finished in this process.
type Finished = Arc<Mutex<HashSet<i64>>>;

pub fn run(told: &str) {
    let told: Told = serde_json::from_str(told).expect("what a worker is told");
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    log.with_max_level(tracing::Level::INFO).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(told.threads).enable_all().build();
    runtime.expect("a runtime").block_on(work(told));
}

async fn work(told: Told) {
    let witness = PgPoolOptions::new().max_connections(4).connect(&told.witness).await.expect("the witness");
    Watch::set(&witness).await;
    let client = BackfillClient::builder()
        .database_url(&told.url)
        .max_connections(told.pool)
        .prepared_statements(told.prepared)
        .wait_for_database(Duration::MAX)
        .build()
        .await
        .expect("the database");
    let finished = Finished::default();
    let pool = client.postgres().expect("PostgreSQL").pool().clone();
    let handler = {
        let (witness, finished, name) = (witness.clone(), Arc::clone(&finished), told.name.clone());
        task_fn("work", move |work: Work, ctx: JobContext| {
            handle(witness.clone(), pool.clone(), Arc::clone(&finished), name.clone(), work, ctx)
        })
    };
    let (journal, lines) = Journal::open(Arc::clone(&finished));
    let writing = tokio::spawn(write_journal(witness.clone(), told.name.clone(), lines));
    let fail = {
        let journal = journal.clone();
        task_fn("fail", move |(): (), ctx: JobContext| {
            let journal = journal.clone();
            async move {
                journal.tell_both(ctx.job()).await;
                Err::<(), _>(TaskError::new("it always fails"))
            }
        })
    };
    let nothing = task_fn("nothing", move |_: IgnoredAny, ctx: JobContext| {
        let journal = journal.clone();
        async move { journal.tell_both(ctx.job()).await }
    });
    let mut builder = Worker::builder(client)
        .task(handler)
        .task(fail)
        .task(nothing)
        .event_capacity(1_000_000)
        .concurrency(told.concurrency)
        .poll_interval(Duration::from_millis(told.poll))
        .grace(Duration::from_secs(told.grace))
        .heartbeat_every(Duration::from_millis(told.heartbeat.0))
        .dead_after(Duration::from_millis(told.heartbeat.1));
    if let Some(crontab) = &told.crontab {
        builder = builder.crontab(crontab.parse().expect("a crontab"));
    }
    let worker = builder.build().expect("a worker");
    let mut events = worker.events();
    let acknowledging = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Written { jobs, .. } => {
                    let ids: Vec<i64> = {
                        let finished = finished.lock().expect("lock");
                        jobs.into_iter().map(JobId::number).filter(|id| finished.contains(id)).collect()
                    };
                    tell_many(&witness, &told.name, "acknowledged", &ids).await;
                }
                Event::ListenerLost { .. } => tell(&witness, &told.name, "listener lost", 0).await,
                Event::Listening => tell(&witness, &told.name, "listening", 0).await,
                Event::Evicted { .. } => tell(&witness, &told.name, "evicted", 0).await,
                Event::Lagged { missed } => panic!("{missed} events are lost"),
                _ => {}
            }
        }
    });
    let ended = worker.run().await;
    // The stream of events ends with the worker.
    drop(worker);
    acknowledging.await.expect("no panic");
    // So does the journal, which the handlers held.
    writing.await.expect("no panic");
    if let Err(error) = ended {
        tracing::error!(%error, "the worker ended");
        std::process::exit(3);
    }
}

/// The witness's clock, whatever this process takes for the time.
///
/// It is set by the quickest of many answers: what a slow one says is wrong by as much, and a start would seem to come after the fault
/// that hit it.
struct Watch {
    set_at: Instant,
    time: DateTime<Utc>,
}

static WATCH: OnceLock<Watch> = OnceLock::new();

impl Watch {
    async fn set(witness: &PgPool) {
        let mut quickest: Option<(Duration, Self)> = None;
        for _ in 0..20 {
            let asked_at = Instant::now();
            let time = sqlx::query_scalar("select clock_timestamp()").fetch_one(witness).await.expect("the time");
            let took = asked_at.elapsed();
            if quickest.as_ref().is_none_or(|(least, _)| took < *least) {
                quickest = Some((took, Self { set_at: asked_at + took / 2, time }));
            }
        }
        let (_, watch) = quickest.expect("it was asked for");
        assert!(WATCH.set(watch).is_ok(), "it is set once");
    }

    fn now() -> DateTime<Utc> {
        let watch = WATCH.get().expect("it was set");
        watch.time + TimeDelta::from_std(watch.set_at.elapsed()).expect("not that long")
    }
}

struct Line {
    job: i64,
    what: &'static str,
    attempt: i16,
    at: DateTime<Utc>,
}

/// Where jobs that take no time tell their starts and finishes: the witness is told of many at once.
#[derive(Clone)]
struct Journal {
    finished: Finished,
    lines: mpsc::Sender<Line>,
}

impl Journal {
    fn open(finished: Finished) -> (Self, mpsc::Receiver<Line>) {
        let (lines, reader) = mpsc::channel(10_000);
        (Self { finished, lines }, reader)
    }

    /// A start, and a finish at once.
    async fn tell_both(&self, job: &Job) {
        let (id, attempt) = (job.id.number(), job.attempts);
        for what in ["start", "finish"] {
            let line = Line { job: id, what, attempt, at: Watch::now() };
            self.lines.send(line).await.expect("the journal is open");
        }
        self.finished.lock().expect("lock").insert(id);
    }
}

async fn write_journal(witness: PgPool, worker: String, mut lines: mpsc::Receiver<Line>) {
    let mut page = Vec::new();
    while lines.recv_many(&mut page, 5_000).await > 0 {
        sqlx::query(
            "insert into told (job, worker, what, attempt, at)
             select job, $1, what, attempt, at
             from unnest($2::bigint[], $3::text[], $4::smallint[], $5::timestamptz[]) as t (job, what, attempt, at)",
        )
        .bind(&worker)
        .bind(page.iter().map(|line| line.job).collect::<Vec<_>>())
        .bind(page.iter().map(|line| line.what).collect::<Vec<_>>())
        .bind(page.iter().map(|line| line.attempt).collect::<Vec<_>>())
        .bind(page.iter().map(|line| line.at).collect::<Vec<_>>())
        .execute(&witness)
        .await
        .expect("the witness answers");
        page.clear();
    }
}

/// That an attempt of a job begins.
async fn tell_start(witness: &PgPool, worker: &str, job: &Job) {
    sqlx::query("insert into told (job, worker, what, attempt, at) values ($1, $2, 'start', $3, $4)")
        .bind(job.id.number())
        .bind(worker)
        .bind(job.attempts)
        .bind(Watch::now())
        .execute(witness)
        .await
        .expect("the witness answers");
}

async fn tell(witness: &PgPool, worker: &str, what: &str, job: i64) {
    tell_many(witness, worker, what, &[job]).await;
}

async fn tell_many(witness: &PgPool, worker: &str, what: &str, jobs: &[i64]) {
    if jobs.is_empty() {
        return;
    }
    sqlx::query("insert into told (job, worker, what, at) select job, $2, $3, $4 from unnest($1::bigint[]) as job")
        .bind(jobs)
        .bind(worker)
        .bind(what)
        .bind(Watch::now())
        .execute(witness)
        .await
        .expect("the witness answers");
}

async fn handle(
    witness: PgPool,
    pool: PgPool,
    finished: Finished,
    name: String,
    work: Work,
    ctx: JobContext,
) -> Result<(), TaskError> {
    let job = ctx.job().id.number();
    let first = ctx.job().attempts == 1;
    tell_start(&witness, &name, ctx.job()).await;
    let time = Duration::from_millis(work.ms);
    match work.how {
        How::Abort if first => std::process::abort(),
        How::AbortAlways => {
            tokio::time::sleep(time).await;
            std::process::abort()
        }
        How::Overflow if first => {
            overflow(1);
        }
        How::LongError if first => {
            tell(&witness, &name, "failed", job).await;
            return Err(TaskError::new("x".repeat(10 * 1024 * 1024)).retry_in(Duration::ZERO));
        }
        How::Fail => {
            finished.lock().expect("lock").insert(job);
            tell(&witness, &name, "finish", job).await;
            return Err(TaskError::new("x".repeat(32 * 1024)));
        }
        How::Block => std::thread::sleep(time),
        How::Hold => {
            let held = pool.acquire().await;
            tokio::time::sleep(time).await;
            drop(held);
        }
        How::Ignore => tokio::time::sleep(time).await,
        How::Sleep | How::Abort | How::Overflow | How::LongError => tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = ctx.cancelled() => return Err(TaskError::new("cancelled").retry_in(Duration::ZERO)),
        },
    }
    finished.lock().expect("lock").insert(job);
    tell(&witness, &name, "finish", job).await;
    Ok(())
}

#[expect(unconditional_recursion, reason = "this is what it is for")]
fn overflow(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 1024]);
    overflow(depth + 1) + room[0]
}
