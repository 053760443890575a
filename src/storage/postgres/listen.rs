//! Wakeups through `LISTEN`.
//!
//! The listener has a connection of its own, outside the pool that statements use, so that a pool of one works and a
//! busy pool cannot starve it. When the connection is lost it says so once ([`Wakeup::Deaf`]; the worker polls
//! meanwhile), reconnects with a growing, jittered delay, and says [`Wakeup::Listening`] when it hears again: what
//! was notified in between is lost, so the worker looks once.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};

use super::{PostgresStorage, REVISION};
use crate::error::Result;
use crate::storage::Wakeup;

/// Jobs were added (or, with a negative count, removed). Graphile's channel; it serves every schema of a database.
const JOBS_INSERT: &str = "jobs:insert";
/// A migration was applied to some schema of this database.
const WORKER_MIGRATE: &str = "worker:migrate";
/// The longest delay between two tries to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(10);

pub(super) fn wakeups(storage: PostgresStorage) -> BoxStream<'static, Wakeup> {
    // The user's own pool options are kept, because they may carry hooks that set a role.
    let pool = storage
        .pool
        .options()
        .clone()
        .min_connections(0)
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with((*storage.pool.connect_options()).clone());
    let ear = Ear { storage, pool, listener: None, failures: 0, pending: VecDeque::new() };
    stream::unfold(ear, |mut ear| async move {
        let wakeup = ear.next().await;
        Some((wakeup, ear))
    })
    .boxed()
}

struct Ear {
    storage: PostgresStorage,
    pool: PgPool,
    listener: Option<PgListener>,
    /// Failed tries to connect since it last heard.
    failures: i32,
    pending: VecDeque<Wakeup>,
}

impl Ear {
    async fn next(&mut self) -> Wakeup {
        loop {
            if let Some(wakeup) = self.pending.pop_front() {
                return wakeup;
            }
            let Some(listener) = &mut self.listener else {
                self.connect().await;
                continue;
            };
            let heard = listener.try_recv().await;
            match heard {
                Ok(Some(notification)) => self.understand(&notification).await,
                Ok(None) => self.deafen("the connection was closed"),
                Err(error) => self.deafen(&error.to_string()),
            }
        }
    }

    async fn connect(&mut self) {
        if self.failures > 0 {
            tokio::time::sleep(reconnect_delay(self.failures)).await;
        }
        match self.try_connect().await {
            Ok(listener) => {
                self.listener = Some(listener);
                self.failures = 0;
                self.pending.push_back(Wakeup::Listening);
                // A migration that was announced while nobody listened.
                self.check_revision().await;
            }
            Err(error) => self.deafen(&error.to_string()),
        }
    }

    async fn try_connect(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // Its own silent reconnecting would hide that notifications were missed.
        listener.eager_reconnect(false);
        listener.listen_all([JOBS_INSERT, WORKER_MIGRATE]).await?;
        Ok(listener)
    }

    fn deafen(&mut self, reason: &str) {
        self.listener = None;
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            self.pending.push_back(Wakeup::Deaf { reason: reason.to_owned() });
        }
    }

    async fn understand(&mut self, notification: &PgNotification) {
        match notification.channel() {
            JOBS_INSERT => self.pending.extend(jobs_added(notification.payload())),
            WORKER_MIGRATE => self.check_revision().await,
            _ => {}
        }
    }

    /// The notice does not say which schema was migrated, so it is checked against our own ledger before anybody
    /// obeys it. (Node's workers stop for any schema's notice.)
    async fn check_revision(&mut self) {
        match self.breaking_revision().await {
            Ok(Some(revision)) if revision > REVISION => {
                self.pending.push_back(Wakeup::BreakingMigration { revision, supported: REVISION });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not check the schema's revision after a migration notice"),
        }
    }

    async fn breaking_revision(&self) -> Result<Option<i32>> {
        sqlx::query_scalar!("select max(id) filter (where breaking) from graphile_worker.migrations")
            .fetch_one(self.storage.schema.on(&self.storage.pool))
            .await
            .map_err(|e| self.storage.error("read the schema's revision", e))
    }
}

/// What a notification on `jobs:insert` says. The text may be empty (old schemas), foreign, or a count of removals.
fn jobs_added(text: &str) -> Option<Wakeup> {
    #[derive(Deserialize)]
    struct Notice {
        count: Option<f64>,
    }
    let count = serde_json::from_str::<Notice>(text).ok().and_then(|notice| notice.count).unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    (count >= 1.0).then_some(Wakeup::JobsAdded(count as u64))
}

/// 50 ms, growing by a factor of e up to the maximum, of which a random half to whole is waited: Graphile's curve
/// with a smaller maximum, since polling goes on meanwhile.
fn reconnect_delay(failures: i32) -> Duration {
    let full = (0.05 * f64::from(failures).exp()).min(MAX_RECONNECT_DELAY.as_secs_f64());
    Duration::from_secs_f64(full * (0.5 + fastrand::f64().sqrt() / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_leniently() {
        assert_eq!(jobs_added(r#"{"r":0.5,"count":7}"#), Some(Wakeup::JobsAdded(7)));
        for unclear in ["", "hello", "{}", r#"{"count":null}"#, r#"{"count":"x"}"#, "[]"] {
            assert_eq!(jobs_added(unclear), Some(Wakeup::JobsAdded(1)), "{unclear}");
        }
        assert_eq!(jobs_added(r#"{"r":0.5,"count":-1}"#), None);
        assert_eq!(jobs_added(r#"{"r":0.5,"count":0}"#), None);
        assert_eq!(jobs_added(r#"{"count":1e300}"#), Some(Wakeup::JobsAdded(u64::MAX)));
    }

    #[test]
    fn reconnecting_slows_down_to_a_limit() {
        for failures in [1, 5, 10, i32::MAX] {
            assert!(reconnect_delay(failures) <= MAX_RECONNECT_DELAY);
        }
        assert!(reconnect_delay(1) < Duration::from_millis(200));
    }
}
