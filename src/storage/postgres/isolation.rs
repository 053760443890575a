//! Transactions beside a default isolation that is stricter than ours.
//!
//! Our statements are written for `read committed`, PostgreSQL's own default: they look again at what they lock. A role or a
//! database may have another default, and then two claims that meet fail with a serialization failure instead of passing each
//! other by. To name the level costs a round trip to begin and one to commit, so it is done from the first such failure on:
//! nobody else pays for it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{PostgresStorage, errors};
use crate::error::Result;

/// The second statement of a transaction must see what was committed while the first one waited, whatever isolation the role
/// or the database has as its default.
pub(super) const READ_COMMITTED: &str = "begin isolation level read committed";

/// What is known of the default isolation.
#[derive(Clone, Debug, Default)]
pub(super) struct Isolation {
    strict: Arc<AtomicBool>,
}

impl Isolation {
    /// A serialization failure happens under a strict default only.
    pub(super) fn learn(&self, error: &sqlx::Error) {
        if errors::is_serialization_failure(error) && !self.strict.swap(true, Ordering::Relaxed) {
            tracing::info!("the database's default isolation is strict; transactions name their level from now on");
        }
    }
}

/// A connection for one piece of work: as it is, where single statements commit by themselves, or in a transaction that names
/// its isolation.
pub(super) enum Work {
    Plain(PoolConnection<Postgres>),
    Named(Transaction<'static, Postgres>),
}

impl PostgresStorage {
    pub(super) async fn work(&self) -> Result<Work> {
        let pool = self.db();
        let work = if self.isolation.strict.load(Ordering::Relaxed) {
            pool.begin_with(READ_COMMITTED).await.map(Work::Named)
        } else {
            pool.acquire().await.map(Work::Plain)
        };
        work.map_err(|e| self.error("get a connection", e))
    }

    /// Ends what [`work`](Self::work) began.
    pub(super) async fn done(&self, work: Work) -> Result<()> {
        match work {
            Work::Plain(_) => Ok(()),
            Work::Named(transaction) => transaction.commit().await.map_err(|e| self.error("commit", e)),
        }
    }
}

impl Deref for Work {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Named(transaction) => transaction,
        }
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Named(transaction) => transaction,
        }
    }
}
