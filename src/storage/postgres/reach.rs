//! Reaching the server.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection};
use tokio::time::{Instant, sleep, timeout};

use super::{PostgresStorage, errors};
use crate::error::Result;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(10);
/// The delays between tries.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

impl PostgresStorage {
    /// Waits until the server takes connections, for at most about this long; zero makes one try. What waiting cannot mend,
    /// such as a wrong password or a database that does not exist, is told at once.
    ///
    /// # Errors
    /// [`Error::Database`](crate::Error::Database) with the reason of the last try.
    pub async fn reach(&self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            let error = match timeout(TRY, self.pool.connect_options().connect()).await {
                Ok(Ok(connection)) => {
                    // A server that has just said hello need not hear the farewell.
                    let _ = timeout(TRY, connection.close()).await;
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer for {TRY:?}")))
                }
            };
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() || !errors::is_away(&error) {
                return Err(self.error("reach the database", error));
            }
            tracing::warn!(%error, ?delay, "the database cannot be reached; trying again");
            sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0).min(left)).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }
}
