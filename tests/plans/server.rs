//! A server that tells the plan of each statement that it runs, those in functions too, and what it read.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Mutex;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::cluster::Cluster;

/// A cluster of a test's own, on which nothing runs that the test does not start.
pub struct Server {
    cluster: Cluster,
    /// How much of its log was read.
    read: Mutex<u64>,
}

impl Server {
    pub async fn start() -> Self {
        let cluster = Cluster::start_new(&[
            "synchronous_commit=off",
            "full_page_writes=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            "max_wal_size=8GB",
            "checkpoint_timeout=1h",
            "shared_buffers=512MB",
            "autovacuum=off",
            "log_line_prefix=",
            "session_preload_libraries=auto_explain",
            "bgwriter_lru_maxpages=0",
            // Before it is told otherwise: filling is not looked at.
            "auto_explain.log_min_duration=-1",
            "auto_explain.log_nested_statements=on",
            "auto_explain.log_analyze=on",
            "auto_explain.log_timing=off",
            "auto_explain.log_buffers=on",
            "auto_explain.log_format=json",
        ])
        .await;
        Self { cluster, read: Mutex::new(0) }
    }

    pub fn url(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// A database in which who is called `watched` or so is looked at.
    pub async fn database(&self, name: &str) -> Database<'_> {
        let mut server = PgConnection::connect(&self.url("postgres")).await.expect("connect");
        run(&mut server, &format!("create database {name}")).await;
        server.close().await.expect("close");
        Database { server: self, name: name.to_owned() }
    }

    /// How far the log of changes goes, and which transaction's number is the next.
    pub async fn written(&self, observer: &PgPool) -> (String, String) {
        sqlx::query_as("select pg_current_wal_insert_lsn()::text, pg_snapshot_xmax(pg_current_snapshot())::text")
            .fetch_one(observer)
            .await
            .expect("the log")
    }

    /// The plans that were told since the last look. Of a statement that has ended on the caller's connection nothing is missing.
    pub fn plans(&self) -> Vec<Plan> {
        let mut read = self.read.lock().expect("no panic");
        let mut log = std::fs::File::open(self.cluster.log()).expect("the log");
        log.seek(SeekFrom::Start(*read)).expect("seek");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("the log is text");
        // What is still being written is for the next look.
        text.truncate(text.rfind("\n\t}\n").map_or(0, |end| end + "\n\t}\n".len()));
        *read += text.len() as u64;
        let mut plans = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.ends_with("plan:") {
                let mut json = String::new();
                while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
                    json += more;
                }
                plans.push(Plan::of(&serde_json::from_str(&json).expect("a plan")));
            }
        }
        plans
    }
}

/// Runs statements.
pub async fn run(connection: &mut PgConnection, text: &str) {
    let ran = sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(connection).await;
    ran.unwrap_or_else(|error| panic!("{text}: {error}"));
}

pub struct Database<'a> {
    pub server: &'a Server,
    name: String,
}

impl Database<'_> {
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The URL for a role of this name, which it makes, with settings of its own; what it runs is told.
    pub async fn role(&self, role: &str, settings: &[&str]) -> String {
        let name = format!("{}_{role}", self.name);
        self.run(&format!("create role {name} superuser login")).await;
        for setting in settings.iter().chain(&["auto_explain.log_min_duration = 0"]) {
            self.run(&format!("alter role {name} set {setting}")).await;
        }
        self.url().replace("postgres@", &format!("{name}@"))
    }

    /// Runs statements of which nothing is told.
    pub async fn run(&self, text: &str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("connect");
        run(&mut connection, text).await;
        connection.close().await.expect("close");
    }
}

/// A statement that was run.
pub struct Plan {
    pub text: String,
    /// Pages that were looked at, in all.
    pub buffers: i64,
    /// Rows of the jobs' table that were looked at, taken or not. (What is read of a small table is told by its pages.)
    pub rows: f64,
    pub is_compiled: bool,
    /// The kinds of its nodes.
    pub nodes: Vec<String>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.text.split_whitespace().collect();
        let text: String = words.join(" ").chars().take(400).collect();
        write!(f, "{} pages, {} rows, by {:?}: {text}", self.buffers, self.rows, self.nodes)
    }
}

impl Plan {
    /// Whether it contains all others of its claim.
    pub fn is_claim(&self) -> bool {
        self.text.contains("graphile_worker.backfill_claim(")
    }

    fn of(json: &Value) -> Self {
        let mut plan = Self {
            text: json["Query Text"].as_str().unwrap_or_default().to_owned(),
            buffers: 0,
            rows: 0.0,
            is_compiled: json.get("JIT").is_some(),
            nodes: Vec::new(),
        };
        let root = &json["Plan"];
        plan.buffers = ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|key| root[key].as_i64()).sum();
        plan.look(root);
        plan
    }

    fn look(&mut self, node: &Value) {
        let kind = node["Node Type"].as_str().unwrap_or_default();
        let number = |key: &str| node[key].as_f64().unwrap_or_default();
        if let Some(relation) = node["Relation Name"].as_str() {
            self.nodes.push(format!("{kind} {relation} {}", node["Index Name"].as_str().unwrap_or_default()));
            if relation == "_private_jobs" && kind != "ModifyTable" {
                let each =
                    number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
                self.rows += each * number("Actual Loops");
            }
        } else {
            self.nodes.push(kind.to_owned());
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.look(child);
        }
    }
}
