//! When single statements need a transaction around them: beside a strict default isolation or a planner that may not nest loops, and
//! behind some poolers.
//!
//! Our statements are written for `read committed`, PostgreSQL's own default: they look again at what they lock. A role or a
//! database may have another default, and then two claims that meet fail with a serialization failure instead of passing each
//! other by. To name the level costs a round trip to begin and one to commit, so it is done from the first such failure on:
//! nobody else pays for it.
//!
//! A role whose `enable_nestloop` is off makes the server read whole tables for the few rows that a result or an add names, and compile the
//! plan for a second, since it must nest some loops. Each claim switches it on for itself. What else we run does so at the beginning of its
//! transaction, and single statements get one where the role has it off, which is asked when the schema is looked at.
//!
//! A pooler in transaction mode that does not know of prepared statements needs the same: the driver
//! prepares a statement and runs it in two exchanges, between which such a pooler may change the connection. So where prepared
//! statements are switched off, each statement has its transaction.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::connections::{Borrowed, Connections, Tx};
use super::{Database, errors};
use crate::error::Result;

/// The second statement of a transaction must see what was committed while the first one waited, whatever isolation the role
/// or the database has as its default. And a process that is stopped between two statements must not hold their locks for longer
/// than the lease: others wait for them. (Both go in one exchange.)
const READ_COMMITTED: &str = "begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; \
                              set local enable_nestloop = on";
/// The same, for a heartbeat: what hangs (a lock on the table, a commit that waits for a standby) is ended by the server too,
/// so that heartbeats which nobody waits for any more do not use up its connections.
const HEARTBEAT: &str = "begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; \
                    set local statement_timeout = '5s'";

/// The same, for claims and results after one took too long (see `slow_calls`): the server ends what waits for a lock, before the
/// worker gives the call up, and gives the rest time enough.
const IN_TIME: &str = "begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; \
                       set local enable_nestloop = on; set local lock_timeout = '10s'; set local statement_timeout = '25s'";

/// The same, for freeing what somebody holds: who holds a job is in no index (every claim would pay for it), so the whole table is
/// read, which may take longer than the role allows its statements.
const PATIENT: &str = "begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; \
                       set local statement_timeout = '2min'";

/// The same, for a migration: whatever asks for a table after it waits behind it, heartbeats among them, so it waits for the
/// locks of others for less time than a heartbeat has, and is tried again.
const MIGRATION: &str = "begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; \
                         set local lock_timeout = '1s'";

/// What is known of the settings of the role, or of the database, that single statements cannot do with.
#[derive(Clone, Debug, Default)]
pub(in crate::postgres) struct Isolation {
    /// The default isolation is strict.
    strict: Arc<AtomicBool>,
    /// The planner may not nest loops.
    nestless: Arc<AtomicBool>,
}

impl Isolation {
    /// A serialization failure happens under a strict default only.
    pub(in crate::postgres) fn learn(&self, error: &sqlx::Error) {
        if errors::is_serialization_failure(error) && !self.strict.swap(true, Ordering::Relaxed) {
            tracing::info!("the database's default isolation is strict; transactions name their level from now on");
        }
    }

    /// Whether loops may be nested.
    pub(in crate::postgres) fn learn_of_planner(&self, nests: bool) {
        let knew = self.nestless.swap(!nests, Ordering::Relaxed);
        if !nests && !knew {
            tracing::info!("enable_nestloop is off; each statement has a transaction, in which it is on");
        }
    }

    fn is_needed(&self) -> bool {
        self.strict.load(Ordering::Relaxed) || self.nestless.load(Ordering::Relaxed)
    }
}

/// Begins a transaction that sees what others have committed (see [`READ_COMMITTED`]).
pub(in crate::postgres) async fn begin(db: &Db) -> sqlx::Result<Tx> {
    db.connections.begin_with(READ_COMMITTED).await
}

/// The same for a migration, whose statements wait for a second at most for each lock.
pub(in crate::postgres) async fn begin_migration(db: &Db) -> sqlx::Result<Tx> {
    db.connections.begin_with(MIGRATION).await
}

/// Where statements go: a connection of those at hand, with a transaction around each statement if it needs one.
#[derive(Debug)]
pub(in crate::postgres) struct Db {
    connections: Connections,
    named: bool,
}

impl Db {
    /// All answers to a statement. They are small: lists are read with a limit.
    async fn answers<'q, E>(&self, query: E) -> sqlx::Result<Vec<Either<PgQueryResult, PgRow>>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.named {
            return self.connections.acquire().await?.fetch_many(query).try_collect().await;
        }
        // Nothing is given out before it is committed.
        let mut transaction = begin(self).await?;
        let answers = transaction.fetch_many(query).try_collect().await?;
        transaction.commit().await?;
        Ok(answers)
    }
}

impl<'p> Executor<'p> for &'p Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        stream::once(async move { Ok::<_, sqlx::Error>(stream::iter(self.answers(query).await?).map(Ok)) })
            .try_flatten()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            if !self.named {
                return self.connections.acquire().await?.fetch_optional(query).await;
            }
            let mut transaction = begin(self).await?;
            let answer = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(answer)
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.connections.acquire().await?.prepare_with(sql, parameters).await })
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.connections.acquire().await?.describe(sql).await })
    }
}

/// A connection for one piece of work: as it is, where single statements commit by themselves, or in a transaction that names
/// its isolation.
pub(in crate::postgres) enum Work {
    Plain(Borrowed),
    Named(Tx),
}

impl From<Tx> for Work {
    fn from(transaction: Tx) -> Self {
        Self::Named(transaction)
    }
}

impl Database {
    /// Where statements go at this moment.
    pub(in crate::postgres) fn db(&self) -> Db {
        let named = !self.schema.persistent() || self.isolation.is_needed();
        Db { connections: self.connections.clone(), named }
    }

    pub(in crate::postgres) async fn work(&self) -> Result<Work> {
        let db = self.db();
        let work =
            if db.named { begin(&db).await.map(Work::Named) } else { db.connections.acquire().await.map(Work::Plain) };
        work.map_err(|e| self.error("get a connection", e))
    }

    /// The same for claims and results, with limits after one of them took too long.
    pub(in crate::postgres) async fn work_in_time(&self) -> Result<Work> {
        if self.slow_calls.is_on() { self.transaction_in_time().await.map(Work::Named) } else { self.work().await }
    }

    pub(in crate::postgres) async fn transaction_in_time(&self) -> Result<Tx> {
        let text = if self.slow_calls.is_on() { IN_TIME } else { READ_COMMITTED };
        self.connections.begin_with(text).await.map_err(|e| self.error("begin a transaction", e))
    }

    /// A transaction of our own, for work of several statements.
    pub(in crate::postgres) async fn transaction(&self) -> Result<Tx> {
        begin(&self.db()).await.map_err(|e| self.error("begin a transaction", e))
    }

    /// A transaction that may read the whole table, whatever time the role gives its statements.
    pub(in crate::postgres) async fn waiting_transaction(&self) -> Result<Tx> {
        self.connections.begin_with(PATIENT).await.map_err(|e| self.error("begin a transaction", e))
    }

    /// A transaction for a heartbeat, which the server ends if it takes long.
    pub(in crate::postgres) async fn brief_transaction(&self) -> Result<Tx> {
        self.connections.begin_with(HEARTBEAT).await.map_err(|e| self.error("begin a transaction", e))
    }

    /// Ends what [`work`](Self::work) began.
    pub(in crate::postgres) async fn done(&self, work: Work) -> Result<()> {
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
