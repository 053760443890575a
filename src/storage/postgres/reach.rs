//! Reaching the server.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::PostgresStorage;
use super::migrate::check_on;
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
        farewell(self.connect(patience).await?).await;
        Ok(())
    }

    /// The same, and looks whether the schema can be worked with as it is, on the connection on which the server has answered: to
    /// open another one costs both sides as much as the look. (So this is for a pool without hooks of the user's.) If it cannot,
    /// or could not be looked at, whoever wants to know why has to look again.
    pub(crate) async fn reach_ready(&self, patience: Duration) -> Result<bool> {
        let mut connection = self.connect(patience).await?;
        // Behind a pooler, statements outside of transactions may meet different servers.
        let ready = self.schema.persistent() && check_on(self, &mut connection).await.is_ok();
        farewell(connection).await;
        Ok(ready)
    }

    async fn connect(&self, patience: Duration) -> Result<PgConnection> {
        let begun = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            let error = match timeout(TRY, ask(&self.pool.connect_options())).await {
                Ok(Ok(connection)) => return Ok(connection),
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
async fn ask(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    sqlx::raw_sql("select 1").execute(&mut connection).await?;
    Ok(connection)
}

/// A server that has answered need not hear it.
async fn farewell(connection: PgConnection) {
    let _ = timeout(TRY, connection.close()).await;
}
