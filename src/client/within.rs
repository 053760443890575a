//! Adding jobs in the caller's own transaction, where there are databases.

use super::BackfillClient;
use crate::error::Result;
use crate::job::{Job, NewJob};
use crate::storage::{Settlement, WorkerId};

/// The caller's own connection, or transaction: `&mut tx`, `&mut *tx` or `&mut connection`, of PostgreSQL or (with the feature `sqlite`)
/// of an SQLite file.
#[derive(Debug)]
pub struct Within<'a>(Connection<'a>);

#[derive(Debug)]
enum Connection<'a> {
    #[cfg(feature = "postgres")]
    Postgres(&'a mut sqlx::PgConnection),
    #[cfg(feature = "sqlite")]
    Sqlite(&'a mut sqlx::SqliteConnection),
}

impl Within<'_> {
    /// The connection, if it is one of PostgreSQL.
    #[cfg(feature = "postgres")]
    pub fn postgres(&mut self) -> Option<&mut sqlx::PgConnection> {
        match &mut self.0 {
            Connection::Postgres(connection) => Some(connection),
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(_) => None,
        }
    }

    /// The connection, if it is one of an SQLite file.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&mut self) -> Option<&mut sqlx::SqliteConnection> {
        match &mut self.0 {
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => None,
            Connection::Sqlite(connection) => Some(connection),
        }
    }
}

/// Adds jobs there.
pub(super) async fn add_within(client: &BackfillClient, within: Within<'_>, jobs: Vec<NewJob>) -> Result<Vec<Job>> {
    #[cfg(feature = "testing")]
    if let Some(faults) = client.storage.faults() {
        return faults.add(store_within(client, within, jobs)).await;
    }
    store_within(client, within, jobs).await
}

async fn store_within(client: &BackfillClient, within: Within<'_>, jobs: Vec<NewJob>) -> Result<Vec<Job>> {
    match within.0 {
        #[cfg(feature = "postgres")]
        Connection::Postgres(connection) => postgres::add_in_schema(client, connection, &jobs).await,
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(connection) => sqlite::add_in_file(client, connection, jobs).await,
    }
}

impl BackfillClient {
    /// Reads all jobs there, as the caller's transaction sees them.
    #[cfg(feature = "testing")]
    pub(crate) async fn jobs_within(&self, within: Within<'_>) -> Result<Vec<Job>> {
        match within.0 {
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let storage = self.storage.postgres().ok_or_else(|| self.unsupported("a connection to PostgreSQL"))?;
                storage.jobs_within(connection).await
            }
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(connection) => {
                let file = self.storage.sqlite().ok_or_else(|| self.unsupported("a connection to an SQLite file"))?;
                file.jobs_within(connection).await
            }
        }
    }

    /// Writes a worker's result there. Answers whether its claim stood.
    pub(crate) async fn settle_within(
        &self,
        within: Within<'_>,
        worker: &WorkerId,
        settlement: &Settlement,
    ) -> Result<bool> {
        match within.0 {
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let storage = self.storage.postgres().ok_or_else(|| self.unsupported("a connection to PostgreSQL"))?;
                storage.settle_within(connection, worker, settlement).await
            }
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(connection) => {
                let file = self.storage.sqlite().ok_or_else(|| self.unsupported("a connection to an SQLite file"))?;
                file.settle_within(connection, worker, settlement).await
            }
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::pool::PoolConnection;
    use sqlx::{PgConnection, Postgres, Transaction};

    use super::{BackfillClient, Connection, Within};
    use crate::error::Result;
    use crate::job::{Job, NewJob};

    impl<'a> From<&'a mut PgConnection> for Within<'a> {
        fn from(connection: &'a mut PgConnection) -> Self {
            Self(Connection::Postgres(connection))
        }
    }

    impl<'a> From<&'a mut Transaction<'_, Postgres>> for Within<'a> {
        fn from(transaction: &'a mut Transaction<'_, Postgres>) -> Self {
            Self(Connection::Postgres(transaction))
        }
    }

    impl<'a> From<&'a mut PoolConnection<Postgres>> for Within<'a> {
        fn from(connection: &'a mut PoolConnection<Postgres>) -> Self {
            Self(Connection::Postgres(connection))
        }
    }

    pub(super) async fn add_in_schema(
        client: &BackfillClient,
        connection: &mut PgConnection,
        jobs: &[NewJob],
    ) -> Result<Vec<Job>> {
        let storage = client.storage.postgres().ok_or_else(|| client.unsupported("a connection to PostgreSQL"))?;
        storage.add_on(connection, jobs).await
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::pool::PoolConnection;
    use sqlx::{Sqlite, SqliteConnection, Transaction};

    use super::{BackfillClient, Connection, Within};
    use crate::error::Result;
    use crate::job::{Job, NewJob};

    impl<'a> From<&'a mut SqliteConnection> for Within<'a> {
        fn from(connection: &'a mut SqliteConnection) -> Self {
            Self(Connection::Sqlite(connection))
        }
    }

    impl<'a> From<&'a mut Transaction<'_, Sqlite>> for Within<'a> {
        fn from(transaction: &'a mut Transaction<'_, Sqlite>) -> Self {
            Self(Connection::Sqlite(transaction))
        }
    }

    impl<'a> From<&'a mut PoolConnection<Sqlite>> for Within<'a> {
        fn from(connection: &'a mut PoolConnection<Sqlite>) -> Self {
            Self(Connection::Sqlite(connection))
        }
    }

    pub(super) async fn add_in_file(
        client: &BackfillClient,
        connection: &mut SqliteConnection,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Job>> {
        let file = client.storage.sqlite().ok_or_else(|| client.unsupported("a connection to an SQLite file"))?;
        file.add_within(connection, jobs).await
    }
}
