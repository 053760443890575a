//! The way to the database: what a URL means, connections, transactions, the schema's name in each statement, and what the server's
//! errors mean. Nothing in here knows jobs' verbs.
//!
//! | file | what it does |
//! | --- | --- |
//! | `address` | what a database URL means, and what the environment says beside it |
//! | `connections` | the connections that statements use, and how a worker gets new ones |
//! | `own` | a worker's own connections: as many as it can use, as few as there are |
//! | `isolation` | transactions beside a default isolation that is stricter than ours, and settings of the planner |
//! | `slow_calls` | claims and results after one of them took too long |
//! | `schema` | the configurable schema name, and the executor that puts it into each statement |
//! | `row` | reading rows that anybody may have written |
//! | `encoding` | error texts where the database's encoding lacks a character |
//! | `errors` | which database errors mean what |
//! | `failure` | what the driver said: which kind of failure it is, and in which words |
//! | `rights` | what this role may do, asked of the server |
//! | `transaction_pooling` | finding out that connections are pooled by the transaction |

pub(super) mod address;
pub(super) mod connections;
pub(super) mod encoding;
pub(super) mod errors;
pub(super) mod failure;
pub(super) mod isolation;
pub(super) mod own;
pub(super) mod rights;
pub(super) mod row;
pub(super) mod schema;
pub(super) mod slow_calls;
pub(super) mod transaction_pooling;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::error::Result;
use connections::{ConnectionHealth, Connections};
use encoding::Characters;
use failure::driver;
use isolation::Isolation;
use rights::Need;
use schema::Schema;
use slow_calls::SlowCallGuard;

/// A schema of a database, and the ways to it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Database {
    /// The user's pool.
    pub(super) pool: PgPool,
    /// What statements use: that pool, or a worker's own.
    pub(super) connections: Connections,
    pub(super) health: ConnectionHealth,
    pub(super) schema: Arc<Schema>,
    /// Whether single statements need a transaction, see [`Isolation`].
    pub(super) isolation: Isolation,
    /// Whether claims and results have taken too long lately.
    pub(super) slow_calls: SlowCallGuard,
    /// Which characters the database's encoding has.
    pub(super) characters: Arc<Characters>,
}

impl Database {
    /// This schema, through this pool. Sends nothing.
    pub(super) fn new(pool: PgPool, schema: &str, prepared: bool, health: ConnectionHealth) -> Result<Self> {
        let schema = Arc::new(Schema::new(schema, prepared)?);
        Ok(Self {
            connections: Connections::Shared(pool.clone()),
            pool,
            health,
            schema,
            isolation: Isolation::default(),
            slow_calls: SlowCallGuard::default(),
            characters: Arc::default(),
        })
    }

    /// The same, with connections of a worker's own.
    pub(super) fn for_worker(&self) -> Self {
        Self { connections: Connections::like(&self.pool), slow_calls: SlowCallGuard::default(), ..self.clone() }
    }

    /// Runs a transaction that is ours alone, and runs it again when it failed only because of another at the same time: two
    /// that meet in each other's keys or new names may deadlock, and serializable ones may fail.
    pub(super) async fn retrying<T, F: Future<Output = Result<T>>>(&self, transaction: impl Fn() -> F) -> Result<T> {
        self.retrying_for(Need::Work, transaction).await
    }

    /// The same for those who need other rights than a worker.
    pub(super) async fn retrying_for<T, F: Future<Output = Result<T>>>(
        &self,
        need: Need,
        transaction: impl Fn() -> F,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            match transaction().await {
                Err(error) if driver(&error).is_some_and(errors::is_conflict) && tries < 10 => {
                    driver(&error).inspect(|told| self.isolation.learn(told));
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20 * tries))).await;
                }
                result => return self.explained(need, result).await,
            }
        }
    }
}
