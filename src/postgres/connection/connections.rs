//! The connections that statements use.
//!
//! A client's are the user's pool. A worker's are its own (see `own`), and can be *renewed*: when calls are not answered, or the
//! server is no longer the one that may be written to, the old ones are let go with whatever is stuck in them, and the next call
//! opens a new one.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::watch;

use super::own::{Own, Turn};

/// How long a worker waits for one of its connections to be opened.
const WORKER_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// For this long after its last use a connection is not tested before the next.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// For this long after a connection was lost, every connection is tested.
const SUSPECT_FOR: Duration = Duration::from_secs(10);

/// Whether connections may be used without asking them first, which would double the way of every call: for those that were in
/// use a moment ago, unless one was lost lately. Of pools that this crate makes itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionHealth(Arc<Mutex<Option<Instant>>>);

impl ConnectionHealth {
    /// Lets a pool test its connections only when there is reason to.
    pub(crate) fn watch(&self, pool: PgPoolOptions) -> PgPoolOptions {
        let health = self.clone();
        pool.test_before_acquire(false).before_acquire(move |connection, use_of| {
            let suspect = use_of.idle_for > FRESH_FOR || health.lost_one_lately();
            Box::pin(async move {
                if suspect {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
    }

    pub(in crate::postgres) fn lost_one(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn lost_one_lately(&self) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < SUSPECT_FOR)
    }
}

#[derive(Clone, Debug)]
pub(in crate::postgres) enum Connections {
    Shared(PgPool),
    Own(Arc<Own>),
}

impl Connections {
    /// Connections of a worker's own, to where this pool's go. The user's pool options are kept, because they may carry hooks
    /// that set a role.
    pub(in crate::postgres) fn like(pool: &PgPool) -> Self {
        Self::Own(Arc::new(Own::like(pool)))
    }

    pub(in crate::postgres) async fn acquire(&self) -> sqlx::Result<Borrowed> {
        match self {
            Self::Shared(pool) => Ok(Borrowed { connection: pool.acquire().await?, _turn: None }),
            Self::Own(own) => {
                let (connection, turn) = own.get(|pool| async move { pool.acquire().await }).await?;
                Ok(Borrowed { connection, _turn: Some(turn) })
            }
        }
    }

    /// Begins a transaction, in a task of its own. The caller may be dropped at any moment (a timeout, a web client that goes
    /// away), and a driver's `begin` that is dropped half-way leaves its connection in the pool with the transaction open: what
    /// others then do there seems to succeed, and is never committed.
    pub(in crate::postgres) async fn begin_with(&self, text: &'static str) -> sqlx::Result<Tx> {
        let begin = |pool: PgPool| async move {
            let begun = tokio::spawn(async move { pool.begin_with(text).await });
            // Whether the runtime ends or the driver panics, there is no transaction.
            begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
        };
        match self {
            Self::Shared(pool) => Ok(Tx { transaction: begin(pool.clone()).await?, _turn: None }),
            Self::Own(own) => {
                let (transaction, turn) = own.get(begin).await?;
                Ok(Tx { transaction, _turn: Some(turn) })
            }
        }
    }

    /// Waits a few milliseconds for a connection that was used a moment ago and is on its way back. The driver's pool opens another one
    /// beside it, and where the server has none to spare it tries that until its time is over.
    pub(in crate::postgres) async fn await_returning(&self) {
        let Self::Shared(pool) = self else { return };
        for _ in 0..50 {
            if pool.size() == 0 || pool.num_idle() > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets a worker's connections go; the next call opens new ones. Calls in flight keep theirs. A user's pool stays as it is.
    pub(in crate::postgres) fn renew(&self) {
        if let Self::Own(own) = self {
            own.renew();
        }
    }

    /// Answers after the next renewal.
    pub(in crate::postgres) fn renewals(&self) -> Option<watch::Receiver<()>> {
        match self {
            Self::Shared(_) => None,
            Self::Own(own) => Some(own.renewals()),
        }
    }
}

/// A connection for a while.
#[derive(Debug)]
pub(in crate::postgres) struct Borrowed {
    connection: PoolConnection<Postgres>,
    // Given up after the connection.
    _turn: Option<Turn>,
}

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A transaction on a connection for a while. Rolled back when dropped.
#[derive(Debug)]
pub(in crate::postgres) struct Tx {
    transaction: Transaction<'static, Postgres>,
    _turn: Option<Turn>,
}

impl Tx {
    pub(in crate::postgres) async fn commit(self) -> sqlx::Result<()> {
        self.transaction.commit().await
    }

    pub(in crate::postgres) async fn rollback(self) -> sqlx::Result<()> {
        self.transaction.rollback().await
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

/// A pool to the same place, with no connection yet.
pub(in crate::postgres) fn apart(
    pool: &PgPool,
    connections: u32,
    set: impl FnOnce(PgPoolOptions) -> PgPoolOptions,
) -> PgPool {
    let options = pool.options().clone().min_connections(0).max_connections(connections);
    set(options.acquire_timeout(WORKER_ACQUIRE_TIMEOUT)).connect_lazy_with((*pool.connect_options()).clone())
}
