//! The database server: fresh databases, and what is in them.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::Result;

pub struct Server {
    url: String,
    options: PgConnectOptions,
    admin: PgConnection,
    databases: u32,
}

/// What a database holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Workflows that have ended well.
    pub ended: i64,
    /// Steps of those.
    pub steps: i64,
}

impl Server {
    pub async fn connect(url: &str) -> Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.disable_statement_logging();
        let admin = options.connect().await?;
        Ok(Self { url: url.to_owned(), options, admin, databases: 0 })
    }

    pub async fn version(&mut self) -> Result<String> {
        Ok(sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut self.admin).await?)
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        // Names of databases cannot be bound; these are our own.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin).await?;
        Ok(())
    }

    /// A new, empty database. What others have left to write is written first.
    pub async fn database(&mut self) -> Result<String> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        self.run(format!("drop database if exists {name} with (force)")).await?;
        self.run(format!("create database {name}")).await?;
        self.run("checkpoint".to_owned()).await?;
        Ok(name)
    }

    pub async fn drop(&mut self, name: &str) -> Result<()> {
        self.run(format!("drop database {name} with (force)")).await
    }

    pub fn url(&self, database: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').unwrap_or((&self.url, ""));
        format!("{server}/{database}")
    }

    pub async fn open(&self, database: &str) -> Result<PgConnection> {
        Ok(self.options.clone().database(database).connect().await?)
    }

    /// How many transactions were committed in a database. A session tells at its end at the latest.
    pub async fn commits(&mut self, database: &str) -> Result<i64> {
        let commits = sqlx::query_scalar("select xact_commit from pg_stat_database where datname = $1").bind(database);
        Ok(commits.fetch_one(&mut self.admin).await?)
    }
}

/// What a contestant's database holds.
pub async fn held(connection: &mut PgConnection) -> Result<Held> {
    let ended = ended(connection).await?;
    let steps = sqlx::query_scalar(
        "select count(*) from dbos.operation_outputs o join dbos.workflow_status w using (workflow_uuid) where w.status = 'SUCCESS'",
    );
    Ok(Held { ended, steps: steps.fetch_one(connection).await? })
}

/// How many workflows have ended well.
pub async fn ended(connection: &mut PgConnection) -> Result<i64> {
    let ended = sqlx::query_scalar("select count(*) from dbos.workflow_status where status = 'SUCCESS'");
    Ok(ended.fetch_one(connection).await?)
}
