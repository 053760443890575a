//! Wakeups through `LISTEN`.
//!
//! The listener has a connection of its own, outside the pool that statements use, so that a pool of one works and a
//! busy pool cannot starve it. When the connection is lost it says so once ([`Wakeup::ListenerLost`]; the worker polls
//! meanwhile), reconnects with a growing, jittered delay, and says [`Wakeup::Listening`] when it hears again: what
//! was notified in between is lost, so the worker looks once.
//!
//! A listener can be cut off without knowing it: through a pooler in transaction mode, `LISTEN` succeeds and
//! nothing ever arrives, and a connection can die without a word. So the listener does a *loopback check*, when it begins to listen and
//! every [`LOOPBACK_EVERY`]: a notification on a channel of its own, sent through another connection, must come back. And it does
//! not begin where connections are pooled by the transaction (see `transaction_pooling`).
//!
//! A listener that hears can also be told of jobs that were handed off, on the same channel (see `handoff`).

mod notice;

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use sqlx::Acquire;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::connections::apart;
use super::connection::failure::driver;
use super::connection::own::{close_idle, has_none, or_why};
use super::handoff::Offering;
use super::{PostgresStorage, REVISION};
use crate::error::Result;
use crate::job::JobId;
use crate::storage::Wakeup;
use notice::Notice;

/// Jobs were added (or, with a negative count, removed). Graphile's channel; it serves every schema of a database.
const JOBS_INSERT: &str = "jobs:insert";
/// A migration was applied to some schema of this database.
const WORKER_MIGRATE: &str = "worker:migrate";
/// The longest delay between two tries to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(10);
/// It is not tried soon again where there was no connection for the calls of the worker.
const FAILURES_WITHOUT_ROOM: i32 = 6;
/// How often the listener does its loopback check.
const LOOPBACK_EVERY: Duration = Duration::from_secs(10);
/// How long its notification may be on its way.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take, and anything else that is asked of the database here.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long after one that did not come back, which nothing but another way to the database will change, to try again.
const LOOPBACK_RETRY: Duration = Duration::from_secs(60);

pub(super) fn wakeups(storage: PostgresStorage, offering: Offering) -> BoxStream<'static, Wakeup> {
    let listener = Listener {
        renewals: storage.database.connections.renewals(),
        channel: String::new(),
        offering,
        storage,
        connection: None,
        loopback: Loopback::None { next: Instant::now() },
        failures: 0,
        proven: false,
        cut_off_on_this_way: false,
        pending: VecDeque::new(),
    };
    stream::unfold(listener, |mut listener| async move {
        let wakeup = listener.next().await;
        Some((wakeup, listener))
    })
    .boxed()
}

struct Listener {
    storage: PostgresStorage,
    /// Tells when the worker's connections were declared dead.
    renewals: Option<watch::Receiver<()>>,
    connection: Option<PgListener>,
    /// The channel of the loopback checks, on which the listener also hears of jobs that were handed off: of this connection.
    channel: String,
    offering: Offering,
    loopback: Loopback,
    /// Failed tries to connect since it last heard.
    failures: i32,
    /// Whether a loopback check of this connection has come back.
    proven: bool,
    /// Whether the loopback check of the last connection did not come back, or it was not even asked to listen.
    cut_off_on_this_way: bool,
    pending: VecDeque<Wakeup>,
}

/// The listener's loopback check.
#[derive(Clone, Copy)]
enum Loopback {
    None { next: Instant },
    OnItsWay { until: Instant },
}

/// Why the listener does not listen.
enum NotNow {
    /// Connections are pooled by the transaction.
    TransactionPooled,
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for NotNow {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// What the listener waits for.
enum Heard {
    Notification(Result<Option<PgNotification>, sqlx::Error>),
    TimeForLoopback,
    LoopbackMissed,
    Renewed,
    /// Something else is to be offered.
    Offer,
}

impl Listener {
    async fn next(&mut self) -> Wakeup {
        loop {
            if let Some(wakeup) = self.pending.pop_front() {
                return wakeup;
            }
            if self.proven && self.offering.is_behind() {
                self.follow_offer().await;
                continue;
            }
            let Some(listener) = &mut self.connection else {
                self.connect().await;
                continue;
            };
            let proven = self.proven;
            let offering = &mut self.offering;
            let offer = async {
                if !proven {
                    std::future::pending::<()>().await;
                }
                offering.changed().await;
            };
            let alarm = async {
                match self.loopback {
                    Loopback::None { next } => {
                        sleep_until(next).await;
                        Heard::TimeForLoopback
                    }
                    Loopback::OnItsWay { until } => {
                        sleep_until(until).await;
                        Heard::LoopbackMissed
                    }
                }
            };
            // Dropping a wait for a notification loses none: what was read of it stays with the connection.
            let heard = tokio::select! {
                heard = listener.try_recv() => Heard::Notification(heard),
                heard = alarm => heard,
                () = renewed(&mut self.renewals) => Heard::Renewed,
                () = offer => Heard::Offer,
            };
            match heard {
                Heard::Notification(Ok(Some(notification))) => self.understand(&notification).await,
                Heard::Notification(Ok(None)) => self.lose("the connection was closed"),
                Heard::Notification(Err(error)) => self.lose(&error.to_string()),
                Heard::TimeForLoopback => self.check_loopback().await,
                Heard::LoopbackMissed => {
                    // One that has heard before is dead, and another one will hear.
                    self.cut_off_on_this_way = !self.proven;
                    self.lose(&format!(
                        "a notification did not come back within {LOOPBACK_TIMEOUT:?}: the connection is dead, or a pooler in \
                         transaction mode stands between"
                    ));
                }
                Heard::Renewed => self.lose("the worker's connections were declared dead"),
                Heard::Offer => {}
            }
        }
    }

    async fn follow_offer(&mut self) {
        let Self { connection: Some(listener), offering, storage, channel, .. } = self else { return };
        let followed = timeout(TIMEOUT, async {
            let conn = listener.acquire().await.map_err(|e| storage.database.error("offer to take jobs", e))?;
            offering.follow(storage, conn, channel).await
        });
        match followed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if driver(&error).is_some_and(|told| told.as_database_error().is_none()) => {
                self.lose(&error.to_string());
            }
            // It was refused. The listener goes on listening; jobs are claimed, as ever.
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot offer to take jobs");
                offering.put_off();
            }
            Err(_) => self.lose(&format!("no answer within {TIMEOUT:?}")),
        }
    }

    /// A job was handed off.
    async fn read(&mut self, id: JobId) {
        let Self { connection: Some(listener), offering, storage, .. } = self else { return };
        let read = timeout(TIMEOUT, async {
            let conn =
                listener.acquire().await.map_err(|e| storage.database.error("read a job that was handed off", e))?;
            offering.read(storage, conn, id).await
        });
        match read.await {
            Ok(Ok(Some(handoff))) => self.pending.push_back(Wakeup::HandedOff(Box::new(handoff))),
            // It was taken back before it was heard of.
            Ok(Ok(None)) => tracing::debug!(job = %id, "a job that was handed off is held no longer"),
            // A worker that is told of the loss releases what it does not know of.
            Ok(Err(error)) => self.lose(&error.to_string()),
            Err(_) => self.lose(&format!("no answer within {TIMEOUT:?}")),
        }
    }

    /// Sends a notification to itself, through another connection.
    async fn check_loopback(&mut self) {
        let pool = self.storage.database.db();
        let sent =
            sqlx::query!("select pg_notify($1, '')", self.channel).execute(self.storage.database.schema.on(&pool));
        self.loopback = match timeout(TIMEOUT, sent).await {
            Ok(Ok(_)) => Loopback::OnItsWay { until: Instant::now() + LOOPBACK_TIMEOUT },
            // To claim is worth more than to listen.
            Ok(Err(error)) if has_none(&error) => {
                self.lose(&format!("its connection is given up for the worker's calls, which have none: {error}"));
                self.failures = FAILURES_WITHOUT_ROOM;
                return;
            }
            // Nothing is known about the listener then.
            Ok(Err(_)) | Err(_) => Loopback::None { next: Instant::now() + LOOPBACK_TIMEOUT },
        };
    }

    /// The loopback check came back.
    fn loopback_heard(&mut self) {
        self.loopback = Loopback::None { next: Instant::now() + LOOPBACK_EVERY };
        self.cut_off_on_this_way = false;
        if !self.proven {
            self.proven = true;
            self.failures = 0;
            self.pending.push_back(Wakeup::Listening);
        }
    }

    async fn connect(&mut self) {
        if self.cut_off_on_this_way {
            sleep(LOOPBACK_RETRY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        } else if self.failures > 0 {
            sleep(reconnect_delay(self.failures)).await;
        }
        let channel = format!("backfill:{:016x}", fastrand::u64(..));
        // The connection that comes now is newer than all that were given up.
        if let Some(renewals) = &mut self.renewals {
            renewals.mark_unchanged();
        }
        match timeout(TIMEOUT, self.try_connect(&channel)).await {
            Ok(Ok(listener)) => {
                self.connection = Some(listener);
                self.channel = channel;
                self.proven = false;
                self.loopback = Loopback::None { next: Instant::now() };
                // A migration that was announced while nobody listened.
                self.check_revision().await;
            }
            Ok(Err(NotNow::TransactionPooled)) => {
                self.cut_off_on_this_way = true;
                self.lose("a pooler in transaction mode stands between, through which no notification comes");
            }
            Ok(Err(NotNow::Failed(error))) if has_none(&error) => {
                close_idle(&self.storage.database.pool).await;
                self.lose(&error.to_string());
            }
            Ok(Err(NotNow::Failed(error))) => self.lose(&error.to_string()),
            Err(_) => self.lose(&format!("no connection within {TIMEOUT:?}")),
        }
    }

    async fn try_connect(&self, channel: &str) -> Result<PgListener, NotNow> {
        let pool = apart(&self.storage.database.pool, 1, |options| options.max_lifetime(None).idle_timeout(None));
        let mut listener = or_why(&pool, PgListener::connect_with(&pool)).await?;
        // Its own silent reconnecting would hide that notifications were missed.
        listener.eager_reconnect(false);
        if self.storage.database.is_transaction_pooled(listener.acquire().await?).await? {
            return Err(NotNow::TransactionPooled);
        }
        listener.listen_all([JOBS_INSERT, WORKER_MIGRATE, channel]).await?;
        Ok(listener)
    }

    fn lose(&mut self, reason: &str) {
        self.connection = None;
        self.proven = false;
        self.offering.lost();
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            self.pending.push_back(Wakeup::ListenerLost { reason: reason.to_owned() });
        }
    }

    async fn understand(&mut self, notification: &PgNotification) {
        match notification.channel() {
            // Before it has heard itself it does not say that it hears; whoever is told then that it does, looks anyway.
            JOBS_INSERT if !self.proven => {}
            JOBS_INSERT => {
                let notice = Notice::read(notification.payload());
                if notice.back {
                    self.storage.cursors.forget_soon();
                }
                self.pending.extend(notice.jobs_added());
            }
            WORKER_MIGRATE => self.check_revision().await,
            channel if channel == self.channel => match notification.payload().parse() {
                Ok(id) => self.read(id).await,
                Err(_) => self.loopback_heard(),
            },
            _ => {}
        }
    }

    /// The notice does not say which schema was migrated, so it is checked against our own ledger before anybody
    /// obeys it. (Node's workers stop for any schema's notice.)
    async fn check_revision(&mut self) {
        match timeout(TIMEOUT, self.breaking_revision()).await {
            Ok(Ok(Some(revision))) if revision > REVISION => {
                self.pending.push_back(Wakeup::BreakingMigration { revision, supported: REVISION });
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not check the schema's revision after a migration notice"),
        }
    }

    async fn breaking_revision(&self) -> Result<Option<i32>> {
        sqlx::query_scalar!("select max(id) filter (where breaking) from graphile_worker.migrations")
            .fetch_one(self.storage.database.schema.on(&self.storage.database.db()))
            .await
            .map_err(|e| self.storage.database.error("read the schema's revision", e))
    }
}

/// Waits until the connections are renewed, which never happens to those that cannot be.
async fn renewed(renewals: &mut Option<watch::Receiver<()>>) {
    if let Some(renewals) = renewals
        && renewals.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// 50 ms, growing by a factor of e up to the maximum, of which a random half to whole is waited: Graphile's curve
/// with a smaller maximum, since polling goes on meanwhile.
pub(super) fn reconnect_delay(failures: i32) -> Duration {
    let full = (0.05 * f64::from(failures).exp()).min(MAX_RECONNECT_DELAY.as_secs_f64());
    Duration::from_secs_f64(full * (0.5 + fastrand::f64().sqrt() / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_slows_down_to_a_limit() {
        for failures in [1, 5, 10, i32::MAX] {
            assert!(reconnect_delay(failures) <= MAX_RECONNECT_DELAY);
        }
        assert!(reconnect_delay(1) < Duration::from_millis(200));
    }
}
