//! Reaching the server.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::PostgresStorage;
use super::connection::address::why_this_user;
use super::connection::errors::code;
use super::connection::failure::source;
use super::connection::rights::Need;
use super::migrate::check_on;
use crate::error::{Error, Result};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(10);
/// The delays between tries.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

impl PostgresStorage {
    /// Fails if row security hides all jobs, or their names, from this role: then it would seem as if there were none.
    ///
    /// # Errors
    /// [`Error::HiddenRows`]; [`Error::Storage`].
    pub async fn check_visible(&self) -> Result<()> {
        self.database.refuse_hidden(Need::Read).await
    }

    /// Waits until the server takes connections, for at most about this long; zero makes one try. What waiting cannot mend,
    /// such as a wrong password or a database that does not exist, is told at once.
    ///
    /// # Errors
    /// [`Error::Storage`] with the reason of the last try; [`Error::LoginRefused`] and [`Error::EncryptionRefused`].
    pub async fn reach(&self, max_wait: Duration) -> Result<()> {
        close(self.connect(max_wait).await?).await;
        Ok(())
    }

    /// The same, and looks whether the schema can be worked with as it is, on the connection on which the server has answered: to
    /// open another one costs both sides as much as the look. (So this is for a pool without hooks of the user's.) If it cannot,
    /// or could not be looked at, whoever wants to know why has to look again.
    pub(crate) async fn reach_ready(&self, max_wait: Duration) -> Result<bool> {
        let mut connection = self.connect(max_wait).await?;
        // Behind a pooler, statements outside of transactions may meet different servers.
        let ready = self.database.schema.persistent() && check_on(self, &mut connection).await.is_ok();
        close(connection).await;
        Ok(ready)
    }

    async fn connect(&self, max_wait: Duration) -> Result<PgConnection> {
        let begun = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            let error = match timeout(TRY, ping(&self.database.pool.connect_options())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => {
                    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer for {TRY:?}")))
                }
            };
            let error = match refusal(&self.database.pool.connect_options(), error) {
                Ok(refusal) => refusal,
                Err(error) => self.database.error("reach the database", error),
            };
            let left = max_wait.saturating_sub(begun.elapsed());
            if left.is_zero() || !error.is_away() {
                return Err(error);
            }
            tracing::warn!(%error, ?delay, "the database cannot be reached; trying again");
            sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0).min(left)).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }
}

/// What has a remedy of its own: encryption that cannot come, and whom the server does not let in.
fn refusal(options: &PgConnectOptions, error: sqlx::Error) -> Result<Error, sqlx::Error> {
    let encrypted = matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    let remedy = match &error {
        sqlx::Error::Tls(told) => match told.to_string() {
            told if told.contains("without TLS support") => Some(
                "compile this program with the feature `tls-rustls` of backfill (of backfill-cli: `tls`), or with a TLS feature of sqlx",
            ),
            told if told.contains("server does not support TLS") => Some(
                "switch TLS on at the server (ssl = on), or write sslmode=prefer where the connection need not be encrypted",
            ),
            _ => Some("check the files that sslrootcert, sslcert and sslkey name"),
        },
        sqlx::Error::Io(told) if told.kind() == std::io::ErrorKind::InvalidData && encrypted => Some(
            "name the authority of the server's certificate by sslrootcert=FILE, and the server as its certificate does; or write \
             sslmode=require, which looks at no certificate",
        ),
        _ => None,
    };
    if let Some(remedy) = remedy {
        return Ok(Error::EncryptionRefused { remedy, source: source(error) });
    }
    let role = options.get_username();
    let why = why_this_user(role).map(|why| format!("that role was tried because {why}; ")).unwrap_or_default();
    let database = options.get_database();
    let remedy = match (code(&error).as_deref(), database) {
        (Some("28P01"), _) => {
            format!("{why}check the password, or name another role: postgres://ROLE:PASSWORD@host/database")
        }
        (Some("28000"), _) => {
            format!("{why}let it log in (create role, pg_hba.conf), or name another: postgres://ROLE@host/database")
        }
        (Some("3D000"), None) => {
            format!(
                "no database is named, so that of the role's name was tried; name one: postgres://{role}@host/DATABASE"
            )
        }
        (Some("3D000"), Some(database)) => format!("create it (createdb {database:?}), or name another"),
        _ => return Err(error),
    };
    Ok(Error::LoginRefused { role: role.to_owned(), remedy, source: source(error) })
}

/// Asks the server something: a pooler says hello for a server that is not there. As plain text, which every pooler understands,
/// whether or not it knows of prepared statements.
async fn ping(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    sqlx::raw_sql("select 1").execute(&mut connection).await?;
    Ok(connection)
}

/// A server that has answered need not hear it.
async fn close(connection: PgConnection) {
    let _ = timeout(TRY, connection.close()).await;
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::connection::failure::failed;
    use super::*;

    #[test]
    fn a_certificate_that_nobody_trusts_is_refused_and_a_server_that_is_away_is_waited_for() {
        let options = PgConnectOptions::new_without_pgpass().username("u").ssl_mode(PgSslMode::VerifyFull);
        let foreign = io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        let told = refusal(&options, foreign.into()).expect("it is refused");
        assert!(!told.is_away() && told.to_string().contains("sslrootcert=FILE"), "{told}");
        let missing = refusal(&options, sqlx::Error::Tls("server does not support TLS".into())).expect("it is refused");
        assert!(!missing.is_away() && missing.to_string().contains("ssl = on"), "{missing}");
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof] {
            let error = refusal(&options, io::Error::from(kind).into()).expect_err("it is no refusal");
            assert!(failed("reach the database", error).is_away(), "{kind}");
        }
    }
}
