//! What a case plays on: a database of its own behind a proxy, worker processes, and a witness that no fault hits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill::{BackfillClient, JobSpec};
use chrono::{DateTime, Utc};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::process::{Child, Command};

use crate::cluster::Cluster;
use crate::proxy::Proxy;
use crate::support::{soon, unique};
use crate::worker::{How, TOLD, Told, Work};

/// How long jobs may take to be done after the last fault. Generous: it only matters when a case fails.
const TIMEOUT: Duration = Duration::from_secs(180);

/// How long it may take to get over a fault: a lease and a look, and the jobs in line before those that were freed.
const RECOVERY: Duration = Duration::from_secs(45);

/// What a case leaves.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub jobs: i64,
    pub starts: i64,
    pub faults: u32,
    pub recovery: Option<Duration>,
    pub remark: String,
}

pub struct Scene {
    pub subject: Arc<Cluster>,
    pub proxy: Proxy,
    pub database: String,
    pub client: BackfillClient,
    pub told: Told,
    /// What worker processes find in their environment.
    pub environment: Vec<(&'static str, String)>,
    witness: PgPool,
    workers: HashMap<String, Child>,
    /// The jobs that were accepted and have to finish.
    accepted: Vec<i64>,
    /// The workers that faults hit, and when: only what they ran then may start again, once each time.
    hit: Vec<(String, DateTime<Utc>)>,
    /// Processes that were killed while they ran jobs, with the moment.
    killed: Vec<(String, DateTime<Utc>)>,
    outage_over: Option<DateTime<Utc>>,
    logs: Vec<PathBuf>,
    /// What a case measured itself.
    pub recovered: Option<Duration>,
    pub faults: u32,
    pub remark: String,
}

impl Scene {
    pub async fn new(subject: &Arc<Cluster>, witness: &Cluster) -> Self {
        let database = unique("case");
        for cluster in [&**subject, witness] {
            let server = connect(&cluster.url("postgres")).await;
            sql(&server, &format!("create database {database}")).await;
            server.close().await;
        }
        let witness_url = witness.url(&database);
        let witness = connect(&witness_url).await;
        sql(
            &witness,
            "create table told (job bigint, worker text, what text, attempt smallint, at timestamptz); create index on told (job)",
        )
        .await;
        let client = BackfillClient::new(&subject.url(&database)).await.expect("migrate");
        let proxy = Proxy::to(subject.port).await;
        let told = Told {
            name: String::new(),
            url: crate::cluster::url(proxy.port, &database),
            witness: witness_url,
            concurrency: 10,
            threads: 2,
            prepared: true,
            pool: 10,
            crontab: None,
            grace: 25,
            heartbeat: (5_000, 15_000),
            poll: 2_000,
        };
        Self {
            subject: Arc::clone(subject),
            proxy,
            database,
            client,
            told,
            environment: Vec::new(),
            witness,
            workers: HashMap::new(),
            accepted: Vec::new(),
            hit: Vec::new(),
            killed: Vec::new(),
            outage_over: None,
            logs: Vec::new(),
            recovered: None,
            faults: 0,
            remark: String::new(),
        }
    }

    // --- jobs and workers ---------------------------------------------------------------------------------------

    pub async fn add(&mut self, count: usize, ms: u64) {
        self.add_how(count, ms, How::Sleep).await;
    }

    pub async fn add_how(&mut self, count: usize, ms: u64, how: How) {
        let specs = (0..count).map(|_| JobSpec::new("work", Work { ms, how, pad: String::new() }));
        let added = self.client.add_many(specs).await.expect("add");
        self.accept(added.into_iter().map(|job| job.id.number()));
    }

    /// Jobs in serial queues.
    pub async fn add_serial(&mut self, count: usize, queues: usize, ms: u64) {
        let specs = (0..count).map(|n| {
            JobSpec::new("work", Work { ms, how: How::Sleep, pad: String::new() })
                .serial_queue(format!("q{}", n % queues))
        });
        let added = self.client.add_many(specs).await.expect("add");
        self.accept(added.into_iter().map(|job| job.id.number()));
    }

    /// Jobs of another task, which take no time.
    pub async fn add_small(&mut self, count: usize, task: &str, attempts: u32) {
        for begun in (0..count).step_by(10_000) {
            let specs = (begun..count.min(begun + 10_000)).map(|_| JobSpec::new(task, ()).max_attempts(attempts));
            let added = self.client.add_many(specs).await.expect("add");
            self.accept(added.into_iter().map(|job| job.id.number()));
        }
    }

    pub fn accept(&mut self, jobs: impl IntoIterator<Item = i64>) {
        self.accepted.extend(jobs);
    }

    pub fn disown(&mut self, jobs: &[i64]) {
        self.accepted.retain(|job| !jobs.contains(job));
    }

    /// Starts a worker process with the scene's settings.
    pub fn start(&mut self, name: &str) {
        let told = Told { name: name.to_owned(), ..self.told.clone() };
        let log = std::env::temp_dir().join(format!("{}.{name}.log", self.database));
        self.logs.push(log.clone());
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(TOLD, serde_json::to_string(&told).expect("JSON"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start a worker");
        self.workers.insert(name.to_owned(), child);
    }

    /// Jobs with a number of attempts of their own.
    pub async fn add_with(&mut self, count: usize, ms: u64, how: How, attempts: u32) -> Vec<i64> {
        let specs =
            (0..count).map(|_| JobSpec::new("work", Work { ms, how, pad: String::new() }).max_attempts(attempts));
        let added: Vec<i64> =
            self.client.add_many(specs).await.expect("add").into_iter().map(|job| job.id.number()).collect();
        self.accept(added.iter().copied());
        added
    }

    pub async fn signal(&self, name: &str, signal: &str) {
        let pid = self.workers[name].id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.expect("kill");
        assert!(sent.success(), "{name} could not be sent {signal}");
    }

    /// Kills a worker process.
    pub async fn kill(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        worker.start_kill().expect("kill");
        self.killed.push((name.to_owned(), Utc::now()));
        worker.wait().await.expect("wait");
        self.hits(name);
    }

    /// Waits for the end of a worker that died by itself, and starts another one in its place.
    pub async fn dies_and_is_restarted(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        let status = soon("it dies", worker.wait()).await.expect("wait");
        assert!(!status.success(), "it dies of its job");
        self.killed.push((name.to_owned(), Utc::now()));
        self.hits(name);
        self.start(&format!("{name}'"));
    }

    /// Waits for a worker's end, which must be an orderly one.
    pub async fn ended(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        let status = tokio::time::timeout(TIMEOUT, worker.wait()).await.expect("it ends").expect("wait");
        assert!(status.success(), "{name} ended with {status}");
    }

    /// A worker that has died by itself.
    pub fn dead(&mut self) -> Option<String> {
        for (name, worker) in &mut self.workers {
            if worker.try_wait().expect("wait").is_some() {
                return Some(name.clone());
            }
        }
        None
    }

    /// The most memory that a worker process holds, in MiB.
    pub fn memory(&self) -> u64 {
        let resident = |worker: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id()?)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.workers.values().filter_map(resident).max().unwrap_or_default() / 1024
    }

    pub fn names(&self) -> Vec<String> {
        self.workers.keys().cloned().collect()
    }

    // --- looking -------------------------------------------------------------------------------------------------

    /// Asks the witness for a number.
    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&self.witness).await.expect("the witness answers")
    }

    pub async fn started(&self) -> i64 {
        self.count("select count(distinct job) from told where what = 'start'").await
    }

    pub async fn finished(&self) -> i64 {
        self.count("select count(distinct job) from told where what = 'finish'").await
    }

    /// How many of these jobs have never told that they start.
    pub async fn unstarted(&self, jobs: &[i64]) -> i64 {
        sqlx::query_scalar(
            "select count(*) from unnest($1::bigint[]) as job (job)
             where not exists (select from told where told.job = job.job and what = 'start')",
        )
        .bind(jobs)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers")
    }

    /// How many jobs this worker has started.
    pub async fn started_by(&self, name: &str) -> i64 {
        self.count(&format!("select count(*) from told where what = 'start' and worker = '{name}'")).await
    }

    /// Waits until the witness says so.
    pub async fn until(&self, what: &str, condition: &str) {
        let begun = Instant::now();
        while self.count(&format!("select count(*) from (select where {condition}) as yes")).await == 0 {
            assert!(begun.elapsed() < TIMEOUT, "{what} did not happen within {TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_started(&self, jobs: i64) {
        self.until(
            &format!("the start of {jobs} jobs"),
            &format!("(select count(distinct job) from told where what = 'start') >= {jobs}"),
        )
        .await;
    }

    pub async fn until_finished(&self, jobs: i64) {
        self.until(
            &format!("the end of {jobs} jobs"),
            &format!("(select count(distinct job) from told where what = 'finish') >= {jobs}"),
        )
        .await;
    }

    /// A connection to the subject, not through the proxy.
    pub async fn admin(&self) -> PgPool {
        connect(&self.subject.url(&self.database)).await
    }

    pub async fn sql(&self, text: &str) {
        let admin = self.admin().await;
        sql(&admin, text).await;
        admin.close().await;
    }

    /// Asks the subject for a number.
    pub async fn ask(&self, query: &str) -> i64 {
        let admin = self.admin().await;
        let answer = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&admin).await.expect("ask");
        admin.close().await;
        answer
    }

    /// Waits until the subject's answer to this query is greater than zero.
    pub async fn until_answered(&self, what: &str, query: &str) {
        let begun = Instant::now();
        while self.ask(query).await == 0 {
            assert!(begun.elapsed() < TIMEOUT, "{what} did not happen within {TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether a worker has logged this.
    pub fn has_logged(&self, text: &str) -> bool {
        self.logs.iter().any(|log| std::fs::read_to_string(log).is_ok_and(|said| said.contains(text)))
    }

    // --- faults ---------------------------------------------------------------------------------------------------

    /// A fault hits this worker.
    pub fn hits(&mut self, name: &str) {
        self.hit.push((name.to_owned(), Utc::now()));
        self.faults += 1;
    }

    /// A fault hits every worker there is.
    pub fn hits_all(&mut self) {
        let now = Utc::now();
        self.hit.extend(self.names().into_iter().map(|name| (name, now)));
        self.faults += 1;
    }

    /// The outage that hit everybody is over.
    pub fn outage_is_over(&mut self) {
        self.outage_over = Some(Utc::now());
        self.hits_all();
    }

    // --- the end -------------------------------------------------------------------------------------------------

    /// Waits until every accepted job is done, ends the workers, and checks what must hold whatever happened.
    pub async fn end(mut self) -> Outcome {
        let begun = Instant::now();
        sql(&self.witness, "analyze told").await;
        loop {
            let left = self.left().await;
            if left == 0 && self.missing().await == 0 {
                break;
            }
            assert!(
                begun.elapsed() < TIMEOUT,
                "accepted = finished: {} of {} accepted jobs have not finished, and {left} are left in the table",
                self.missing().await,
                self.accepted.len()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in self.names() {
            // One that has only just begun does not know of signals yet.
            let has_begun = format!("exists (select from told where worker = '{}')", name.replace('\'', "''"));
            self.until(&format!("a word of {name}"), &has_begun).await;
            self.signal(&name, "TERM").await;
        }
        for name in self.names() {
            self.ended(&name).await;
        }
        let again = self
            .count(
                "select count(*) from told later join told acknowledged using (job)
                 where later.what = 'start' and acknowledged.what = 'acknowledged' and later.at > acknowledged.at",
            )
            .await;
        assert_eq!(again, 0, "a finished job is never started again after its settlement was acknowledged");
        let (hit, moments): (Vec<&String>, Vec<DateTime<Utc>>) = self.hit.iter().map(|(name, at)| (name, *at)).unzip();
        // A fault hits a job at a worker that has started it and has no word yet that its result is written. An attempt that fails by
        // itself is one more.
        let undue: Vec<(i64, i64, i64)> = sqlx::query_as(
            "with fault as (select * from unnest($1::text[], $2::timestamptz[]) as fault (worker, at)),
             again as (
               select job, count(*) filter (where what = 'start') as starts, count(*) filter (where what = 'failed') as failed
               from told group by job having count(*) filter (where what = 'start') > 1
             )
             select again.job, again.starts, allowed.extra
             from again
             cross join lateral (
               select again.failed + count(*) as extra from fault
               where exists (
                   select from told begun
                   where begun.job = again.job and begun.what = 'start' and begun.worker = fault.worker and begun.at <= fault.at
                 )
                 and not exists (
                   select from told written
                   where written.job = again.job and written.what = 'acknowledged' and written.worker = fault.worker
                     and written.at <= fault.at
                 )
             ) as allowed
             where again.starts > 1 + allowed.extra
             limit 10",
        )
        .bind(hit)
        .bind(moments)
        .fetch_all(&self.witness)
        .await
        .expect("the witness answers");
        assert_eq!(undue, [], "at most one extra start per fault that hit the job: job, starts, allowed extra starts");
        assert_eq!(
            self.ask("select count(*) from graphile_worker._private_job_queues where locked_by is not null").await,
            0,
            "no queue is left locked"
        );
        let starts: i64 = sqlx::query_scalar(
            "select count(*) from told where what = 'start' and job in (select unnest($1::bigint[]))",
        )
        .bind(&self.accepted)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers");
        let recovery = match self.recovered {
            Some(measured) => Some(measured),
            None => self.recovery().await,
        };
        assert!(recovery.is_none_or(|time| time < RECOVERY), "work resumes in seconds: {recovery:?}");
        let jobs = i64::try_from(self.accepted.len()).expect("few jobs");
        // The logs are of use only when something did not hold.
        for log in &self.logs {
            let _ = std::fs::remove_file(log);
        }
        Outcome { jobs, starts, faults: self.faults, recovery, remark: self.remark }
    }

    /// How many jobs are in the table that may still run.
    async fn left(&self) -> i64 {
        self.ask(
            "select count(*) from graphile_worker._private_jobs where locked_at is not null or attempts < max_attempts",
        )
        .await
    }

    /// How many accepted jobs have not finished.
    async fn missing(&self) -> i64 {
        sqlx::query_scalar(
            "select count(*) from unnest($1::bigint[]) as job (job)
             where not exists (select from told where told.job = job.job and what = 'finish')",
        )
        .bind(&self.accepted)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers")
    }

    /// How long it took to get over the faults: until the first result was written after an outage (jobs run on without a
    /// database), and until the last job of each killed worker was started anew.
    async fn recovery(&self) -> Option<Duration> {
        let mut longest: Option<f64> = None;
        if let Some(over) = self.outage_over {
            let first: Option<f64> = sqlx::query_scalar(
                "select extract(epoch from min(at) - $1)::float8 from told where what = 'acknowledged' and at > $1",
            )
            .bind(over)
            .fetch_one(&self.witness)
            .await
            .expect("the witness answers");
            longest = first;
        }
        for (name, moment) in &self.killed {
            let last: Option<f64> = sqlx::query_scalar(
                "select extract(epoch from max(next) - $2)::float8 from (
                   -- One that dies with a second worker waits longer, on purpose, whether it had told its start there or not.
                   select (select min(anew.at) from told anew where anew.job = begun.job and anew.what = 'start' and anew.attempt = 2) as next
                   from told begun
                   where begun.what = 'start' and begun.worker = $1 and begun.attempt = 1
                     and not exists (select from told ended where ended.job = begun.job and ended.worker = $1 and ended.what = 'finish')
                 ) as t",
            )
            .bind(name)
            .bind(moment)
            .fetch_one(&self.witness)
            .await
            .expect("the witness answers");
            longest = [longest, last].into_iter().flatten().reduce(f64::max);
        }
        longest.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }
}

pub async fn connect(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(url).await.expect("connect")
}

pub async fn sql(pool: &PgPool, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(pool).await.expect("sql");
}
