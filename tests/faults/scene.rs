//! What a case plays on: a database of its own behind a proxy, worker processes, and a witness that no fault hits.

mod end;
mod jobs;
mod looking;
mod workers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backfill::BackfillClient;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::process::Child;

use crate::cluster::Cluster;
use crate::proxy::Proxy;
use crate::support::unique;
use crate::worker::Told;

/// How long jobs may take to be done after the last fault. Generous: it only matters when a case fails.
const TIMEOUT: Duration = Duration::from_secs(180);

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
}

pub async fn connect(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(url).await.expect("connect")
}

pub async fn sql(pool: &PgPool, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(pool).await.expect("sql");
}
