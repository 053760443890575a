//! Indexes for those who look at jobs. None is needed to run them.
//!
//! Two are there by default, since a job that succeeds at once is in neither. The others cost each job something, so they are built when
//! somebody asks.

use std::fmt;
use std::str::FromStr;

use super::PostgresStorage;
use crate::error::{Error, Result};

/// An index for lists and counts of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListIndex {
    /// Dead jobs by id. There by default.
    Dead,
    /// Jobs that wait for another attempt, by id. There by default.
    Retrying,
    /// Jobs that a worker holds, by id.
    Running,
    /// The jobs of each task, by id.
    Task,
    /// The jobs of each serial queue, by id.
    Queue,
}

impl ListIndex {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dead, Self::Retrying, Self::Running, Self::Task, Self::Queue];
    /// Those that are there by default, unless the table was large when they were new.
    pub const DEFAULT: [Self; 2] = [Self::Dead, Self::Retrying];

    /// What it is called in commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Retrying => "retrying",
            Self::Running => "running",
            Self::Task => "task",
            Self::Queue => "queue",
        }
    }

    /// Its name in the schema.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "backfill_jobs_dead",
            Self::Retrying => "backfill_jobs_retrying",
            Self::Running => "backfill_jobs_running",
            Self::Task => "backfill_jobs_task",
            Self::Queue => "backfill_jobs_in_queue",
        }
    }

    /// What it costs, in bytes of write-ahead log for a job that is added, claimed and completed, without full pages: of about 800 without it.
    /// As measured on PostgreSQL 15 with 60 000 jobs; `./scripts/bench admin` measures it again.
    #[must_use]
    pub fn bytes_of_wal(self) -> u32 {
        match self {
            Self::Dead | Self::Retrying => 0,
            Self::Running => 67,
            Self::Task => 165,
            Self::Queue => 176,
        }
    }

    /// The same as in `sql/schema/own/010_lists.sql`, word for word. `concurrently` is put in where others write meanwhile.
    pub(super) fn script(self, concurrently: bool) -> String {
        let on = match self {
            Self::Dead => "(id) where locked_at is null and attempts >= max_attempts",
            Self::Retrying => "(id) where locked_at is null and attempts > 0 and attempts < max_attempts",
            Self::Running => "(id) where locked_at is not null",
            Self::Task => "(task_id, id)",
            Self::Queue => "(job_queue_id, id) where job_queue_id is not null",
        };
        let how = if concurrently { " concurrently" } else { "" };
        format!("create index{how} if not exists {} on graphile_worker._private_jobs {on}", self.name())
    }
}

impl fmt::Display for ListIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ListIndex {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let index = Self::ALL.into_iter().find(|index| index.as_str() == text);
        index.ok_or_else(|| {
            Error::InvalidClient(format!(
                "there is no index {text:?}; there are dead, retrying, running, task and queue"
            ))
        })
    }
}

impl PostgresStorage {
    /// Builds an index for lists while others write; returns whether it was not there. It reads the table twice, and waits until every
    /// transaction has ended that was under way, so behind a dump it takes as long as that.
    ///
    /// # Errors
    /// When this role does not own the table, or the server ends it.
    pub async fn build_index(&self, index: ListIndex) -> Result<bool> {
        let fail = |e| self.database.error("build an index", e);
        if self.indexes().await?.contains(&index) {
            return Ok(false);
        }
        let mut work = self.database.connections.acquire().await.map_err(fail)?;
        // Dynamic because no statement of several transactions can be prepared; the schema's quoted name is all that is put in. What an earlier
        // try has left is of no use to anybody, and would be taken for the index.
        let leftover = format!("drop index concurrently if exists graphile_worker.{}", index.name());
        for script in [leftover, index.script(true)] {
            sqlx::raw_sql(self.database.schema.script(&script)).execute(&mut *work).await.map_err(fail)?;
        }
        Ok(true)
    }

    /// Which of these indexes are there and can be used.
    pub(super) async fn indexes(&self) -> Result<Vec<ListIndex>> {
        let names = sqlx::query_scalar!(
            r#"
select class.relname::text as "name!"
from pg_catalog.pg_index index
join pg_catalog.pg_class class on class.oid = index.indexrelid
where class.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1)
  and class.relname like 'backfill\_jobs\_%' and index.indisvalid
"#,
            self.database.schema.name(),
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for indexes", e))?;
        Ok(ListIndex::ALL.into_iter().filter(|index| names.iter().any(|name| name == index.name())).collect())
    }
}
