//! Connections that are kept for writing.
//!
//! A pool asks each connection whether it lives before it lends it, and again when it gets it back. That is two round trips beside the one of a write. So a few
//! connections of a large enough pool stay with those that write all the time. One that has failed goes back to the pool, which looks at it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

/// How many are kept at most: as many as write at once.
const MOST: usize = 3;
/// One that nobody has used for so long may have died.
const IDLE: Duration = Duration::from_secs(1);
/// A pool that is smaller lends what it has to everybody.
const POOL: u32 = 6;

#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<(Instant, PoolConnection<Postgres>)>>);

impl Kept {
    /// A connection that was kept, or one of the pool.
    pub(super) async fn take(&self, pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some((since, connection)) if since.elapsed() < IDLE => Ok(connection),
            // The pool finds out whether it lives.
            idle => {
                drop(idle);
                pool.acquire().await
            }
        }
    }

    /// Keeps a connection whose last statement was answered.
    pub(super) fn keep(&self, pool: &PgPool, connection: PoolConnection<Postgres>) {
        if pool.options().get_max_connections() < POOL || pool.is_closed() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push((Instant::now(), connection));
        }
    }

    /// Gives all of them back.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
