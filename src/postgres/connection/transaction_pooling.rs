//! Is there a pooler in transaction mode, such as PgBouncer?
//!
//! Through such a pooler `LISTEN` succeeds, and stays behind on a connection of the server that others get next: what is
//! notified reaches whoever has it then, and some drivers (ours among them) take that for an error. So nobody may listen on
//! such a way, not even to try.
//!
//! On every other way a connection keeps its server process. So two clients ask for theirs: if one's turns up at the other, or
//! changes while the other is in a transaction, connections are pooled by the transaction.

use sqlx::{PgConnection, Row};

use super::Database;
use super::isolation::begin;

/// A pooler that hands out connections in turn may go unnoticed in one round.
const ROUNDS: usize = 3;

impl Database {
    /// Whether this connection, which is in no transaction, is pooled by the transaction.
    pub(in crate::postgres) async fn is_transaction_pooled(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        for _ in 0..ROUNDS {
            let before = server_process(connection).await?;
            let mut other = begin(&self.db()).await?;
            let others = server_process(&mut other).await?;
            let after = server_process(connection).await?;
            other.rollback().await?;
            if others == before || after != before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The number of the server process behind a connection.
async fn server_process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    // Unchecked, because a checked statement is prepared in one exchange and run in another, and here both must meet the same
    // server process.
    sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}
