//! Messages: lines, leases, units, documents and events.
//!
//! All of it is written by the writer, so what a call reads before it writes stays so. The tables, and the indexes by line, are in files
//! that were asked for them ([`SqliteStorage::with_messages`]).
//!
//! | file | what it does |
//! | --- | --- |
//! | `take` | taking by lines |
//! | `groups` | taking in line |
//! | `lease` | renewing and ending leases |
//! | `unit` | what belongs together |
//! | `look` | depths, heads, documents and events; purging |
//! | `news` | noticing changes |

mod groups;
mod lease;
mod look;
mod news;
mod take;
mod unit;

use std::time::Duration;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::messages::{
    Applied, Depth, Document, Ended, Event, Lease, Messages, News, Purge, Receipt, Take, Taken, Unit, check_units,
    in_halves,
};
use futures::stream::BoxStream;

use crate::SqliteStorage;
pub(crate) use unit::apply as apply_in;

impl SqliteStorage {
    /// The same storage with lines, leases, units, documents and events. `migrate` adds what the file needs for them.
    #[must_use]
    pub fn with_messages(mut self) -> Self {
        self.messages = true;
        self
    }
}

#[async_trait]
impl Messages for SqliteStorage {
    async fn take(&self, request: &Take<'_>) -> Result<Taken> {
        request.check()?;
        self.take_jobs(request).await
    }

    async fn renew(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>> {
        leases.iter().try_for_each(|(_, lasts)| Lease::check_time(*lasts))?;
        self.renew_leases(leases.to_vec()).await
    }

    async fn end_leases(&self, of: Option<&[JobId]>) -> Result<Ended> {
        self.end_all_leases(of).await
    }

    async fn apply(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        check_units(units)?;
        in_halves(units, |units| Box::pin(self.apply_units(units))).await
    }

    async fn documents(&self, kind: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>> {
        self.read_documents(kind, prefix, after, limit).await
    }

    async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        self.read_events(stream, since, limit).await
    }

    async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64> {
        self.delete_events(stream, upto).await
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        self.read_streams(prefix).await
    }

    async fn depths(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        self.count_lines(lines, cap).await
    }

    async fn purge(&self, line: &str, what: Purge) -> Result<u64> {
        self.purge_line(line, what).await
    }

    async fn peek(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        self.read_head(line, limit).await
    }

    async fn sweep_documents(&self, limit: u32) -> Result<u64> {
        self.delete_expired_documents(limit).await
    }

    fn news(&self) -> BoxStream<'static, News> {
        news::of(std::sync::Arc::clone(&self.file))
    }
}
