//! Messages: lines, leases, units, documents and events, in schemas that want them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `take` | taking by lines, by the SQL function `backfill_take` |
//! | `lease` | renewing and ending leases |
//! | `unit` | what belongs together |
//! | `write` | the statements by which units are carried out |
//! | `look` | depths, heads, documents and events |
//! | `purge` | deleting what is no longer wanted |
//! | `news` | hearing of changes, on a channel of the schema's own |

mod lease;
mod look;
mod news;
mod purge;
mod take;
mod unit;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::PostgresStorage;
use super::connection::rights::Need;
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::messages::{
    Applied, Changes, Depth, Document, Ended, Event, Lease, Messages, News, Purge, Receipt, Take, Taken, Unit,
    check_units, in_halves,
};

#[async_trait]
impl Messages for PostgresStorage {
    async fn take(&self, request: &Take<'_>) -> Result<Taken> {
        request.check()?;
        self.database.retrying_for(Need::Messages, || self.take_jobs(request)).await
    }

    async fn renew(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>> {
        leases.iter().try_for_each(|(_, lasts)| Lease::check_time(*lasts))?;
        self.database.retrying_for(Need::Messages, || self.renew_leases(leases)).await
    }

    async fn end_leases(&self, of: Option<&[JobId]>) -> Result<Ended> {
        let (ended, lines) = self.database.retrying_for(Need::Messages, || self.end_all_leases(of)).await?;
        if !ended.jobs.is_empty() {
            self.cursors.forget();
            self.tell(&Changes::lines(lines)).await?;
        }
        Ok(ended)
    }

    async fn apply(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        check_units(units)?;
        let applied = in_halves(units, |units| {
            Box::pin(self.database.retrying_for(Need::Messages, move || self.apply_units(units)))
        })
        .await?;
        self.cursors.forget_soon();
        Ok(applied)
    }

    async fn documents(&self, kind: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>> {
        self.database.explained(Need::Messages, self.read_documents(kind, prefix, after, limit).await).await
    }

    async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        self.database.explained(Need::Messages, self.read_events(stream, since, limit).await).await
    }

    async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64> {
        self.database.retrying_for(Need::Messages, || self.delete_events(stream, upto)).await
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        self.database.explained(Need::Messages, self.read_streams(prefix).await).await
    }

    async fn depths(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        self.database.explained(Need::Messages, self.count_lines(lines, cap).await).await
    }

    async fn purge(&self, line: &str, what: Purge) -> Result<u64> {
        let purged = self.purge_line(line, what).await?;
        self.cursors.forget_soon();
        self.tell(&Changes::lines([line.to_owned()])).await?;
        Ok(purged)
    }

    async fn peek(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        self.database.explained(Need::Messages, self.read_head(line, limit).await).await
    }

    async fn sweep_documents(&self, limit: u32) -> Result<u64> {
        self.database.retrying_for(Need::Messages, || self.delete_expired_documents(limit)).await
    }

    fn news(&self) -> BoxStream<'static, News> {
        news::of(self.clone())
    }
}
