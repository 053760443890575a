//! The database server: fresh databases, and what it has spent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::Result;
use crate::process::stat;

pub struct Server {
    url: String,
    options: PgConnectOptions,
    admin: PgConnection,
    postmaster: u32,
    log: PathBuf,
    databases: u32,
}

/// What the server has spent so far.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub cpu: Duration,
    pub wal_bytes: f64,
    pub commits: i64,
}

impl Server {
    pub async fn connect(url: &str, data: &Path) -> Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.disable_statement_logging();
        let admin = options.connect().await?;
        let pid = std::fs::read_to_string(data.join("postmaster.pid"))?;
        let postmaster = pid.lines().next().unwrap_or_default().trim().parse()?;
        let log = data.with_file_name("log");
        Ok(Self { url: url.to_owned(), options, admin, postmaster, log, databases: 0 })
    }

    pub async fn version(&mut self) -> Result<String> {
        Ok(sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut self.admin).await?)
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        // Names of databases cannot be bound; these are our own.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin).await?;
        Ok(())
    }

    /// A new database, empty or a copy of another.
    pub async fn database(&mut self, template: Option<&str>) -> Result<String> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        let (template, strategy) = match template {
            // Copied file by file where the server can be told so: nothing of it goes through the log that is measured.
            Some(template) => (template, "strategy file_copy"),
            None => ("template1", ""),
        };
        // One that was left by a run that failed.
        self.run(format!("drop database if exists {name} with (force)")).await?;
        self.run(format!("create database {name} template {template} {strategy}")).await?;
        Ok(name)
    }

    pub async fn drop(&mut self, name: &str) -> Result<()> {
        self.run(format!("drop database {name} with (force)")).await
    }

    pub async fn checkpoint(&mut self) -> Result<()> {
        self.run("checkpoint".to_owned()).await
    }

    pub fn url(&self, database: &str) -> String {
        // By hand: the driver would add options that Node's reads otherwise.
        let (server, _) = self.url.rsplit_once('/').unwrap_or((&self.url, ""));
        format!("{server}/{database}")
    }

    pub async fn open(&self, database: &str) -> Result<PgConnection> {
        Ok(PgConnection::connect_with(&self.options.clone().database(database)).await?)
    }

    pub async fn spent(&mut self, database: &str) -> Result<Spent> {
        let (wal_bytes, commits) = sqlx::query_as(
            "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8, xact_commit + xact_rollback
             from pg_stat_database where datname = $1",
        )
        .bind(database)
        .fetch_one(&mut self.admin)
        .await?;
        Ok(Spent { cpu: self.cpu(), wal_bytes, commits })
    }

    /// How many statements are in the server's log, which is beside its data.
    pub fn logged_statements(&self) -> Result<usize> {
        let text = std::fs::read(&self.log)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter(|line| line.contains("LOG:  execute ") || line.contains("LOG:  statement: ")).count())
    }

    /// Of the postmaster and all its children.
    fn cpu(&self) -> Duration {
        let Some(postmaster) = stat(self.postmaster) else { return Duration::ZERO };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let children = pids.filter_map(stat).filter(|process| process.parent == self.postmaster);
        postmaster.own + postmaster.ended_children + children.map(|process| process.own).sum::<Duration>()
    }
}
