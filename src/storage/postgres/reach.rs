//! Reaching the server.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::time::{Instant, sleep, timeout};

use super::PostgresStorage;
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
            let error = match timeout(TRY, ask(&self.pool.connect_options())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => {
                    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer for {TRY:?}")))
                }
            };
            let error = self.error("reach the database", error);
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() || !error.is_away() {
                return Err(error);
            }
            tracing::warn!(%error, ?delay, "the database cannot be reached; trying again");
            sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0).min(left)).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }
}

/// Asks the server something: a pooler says hello for a server that is not there. As plain text, which every pooler understands,
/// whether or not it knows of prepared statements.
async fn ask(options: &PgConnectOptions) -> sqlx::Result<()> {
    let mut connection = options.connect().await?;
    sqlx::raw_sql("select 1").execute(&mut connection).await?;
    // A server that has just answered need not hear the farewell.
    let _ = timeout(TRY, connection.close()).await;
    Ok(())
}
