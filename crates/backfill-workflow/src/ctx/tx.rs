//! Steps in one transaction with the user's own statements.

use std::any::Any;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ctx, IN_TRANSACTION, INSIDE, clock, replay, row};
use crate::codec;
use crate::engine::run::Execution;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::store::{Checkpointed, StepRow, StoreTransaction};

/// The connection of a driver: [`sqlx::PgConnection`] or [`sqlx::SqliteConnection`].
pub trait Connection: Any + Send + sealed::Sealed {
    /// What workflows are kept in that have such connections.
    #[doc(hidden)]
    const STORAGE: &'static str;
}

mod sealed {
    pub trait Sealed {}
    #[cfg(feature = "postgres")]
    impl Sealed for sqlx::PgConnection {}
    #[cfg(feature = "sqlite")]
    impl Sealed for sqlx::SqliteConnection {}
}

#[cfg(feature = "postgres")]
impl Connection for sqlx::PgConnection {
    const STORAGE: &'static str = "PostgreSQL";
}

#[cfg(feature = "sqlite")]
impl Connection for sqlx::SqliteConnection {
    const STORAGE: &'static str = "SQLite";
}

/// A transaction of [`Ctx::tx`]: the driver's connection, for statements. It begins before the closure, and ends after it.
pub struct Tx<C: Connection> {
    /// Always there until it is dropped.
    transaction: Option<Box<dyn StoreTransaction>>,
    /// Where it goes then: whoever has begun it ends it.
    home: Home,
    connection: PhantomData<fn() -> C>,
}

type Home = Arc<Mutex<Option<Box<dyn StoreTransaction>>>>;

/// A transaction of PostgreSQL.
#[cfg(feature = "postgres")]
pub type PgTx = Tx<sqlx::PgConnection>;

/// A transaction of SQLite.
#[cfg(feature = "sqlite")]
pub type SqliteTx = Tx<sqlx::SqliteConnection>;

impl<C: Connection> Tx<C> {
    /// A transaction for the user, if it is one of this driver's.
    fn new(mut transaction: Box<dyn StoreTransaction>, home: &Home) -> Result<Self, Box<dyn StoreTransaction>> {
        if transaction.connection().is::<C>() {
            Ok(Self { transaction: Some(transaction), home: Arc::clone(home), connection: PhantomData })
        } else {
            Err(transaction)
        }
    }
}

impl<C: Connection> Deref for Tx<C> {
    type Target = C;

    fn deref(&self) -> &C {
        let connection = self.transaction.as_ref().and_then(|transaction| transaction.connection_ref().downcast_ref());
        connection.expect("a transaction is there until it is dropped, and was looked at when it began")
    }
}

impl<C: Connection> DerefMut for Tx<C> {
    fn deref_mut(&mut self) -> &mut C {
        let connection = self.transaction.as_mut().and_then(|transaction| transaction.connection().downcast_mut());
        connection.expect("a transaction is there until it is dropped, and was looked at when it began")
    }
}

impl<C: Connection> Drop for Tx<C> {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.transaction.take();
    }
}

impl<C: Connection> std::fmt::Debug for Tx<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tx({})", C::STORAGE)
    }
}

/// The longest pause before a transaction is tried again that met others.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Ctx {
    /// A step whose statements and whose record are one transaction: its effect happens exactly once.
    ///
    /// The closure is given a transaction of the driver of the storage that keeps the workflows: `async |mut tx: PgTx| …`, or [`SqliteTx`]. If
    /// it fails, its statements are rolled back and the failure is recorded. If the database refuses the transaction because of others
    /// (SQLSTATE 40001, 40P01), or the connection is lost, it is tried again.
    ///
    /// Keep it short: an SQLite file has one writer, and all workflows wait for it; if that takes longer than the engine's lease, others take
    /// over. A client's calls that write are refused inside, but for [`start_in`](crate::Client::start_in).
    ///
    /// # Errors
    /// What the closure fails with; or a transaction of another storage's driver.
    pub fn tx<'a, C, T, F, Fut, N>(
        &self,
        name: N,
        work: F,
    ) -> impl Future<Output = Result<T, Failure>> + Send + use<'a, C, T, F, Fut, N>
    where
        N: Into<Cow<'static, str>>,
        C: Connection,
        T: Serialize + DeserializeOwned + Send,
        F: FnMut(Tx<C>) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let name: Cow<'static, str> = name.into();
        let number = self.numbers("a transaction", 1);
        let execution = Arc::clone(&self.execution);
        async move {
            let number = number?;
            if name.starts_with("DBOS.") {
                let problem = "begins with DBOS., which is for the engine's own steps";
                return Err(Error::invalid("the step's name", &name, problem).into());
            }
            crate::options::text("the step's name", &name)?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, &name)? {
                return replay(row);
            }
            transact(&execution, number, &name, work).await
        }
    }
}

async fn transact<C, T, F, Fut>(execution: &Execution, number: i32, name: &str, mut work: F) -> Result<T, Failure>
where
    C: Connection,
    T: Serialize + DeserializeOwned,
    F: FnMut(Tx<C>) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let started_at = clock();
    let mut pause = Duration::from_millis(10);
    loop {
        let step = row(number, name, started_at);
        let failure = match execution.interruptible(attempt(execution, step, &mut work)).await?? {
            Attempt::Written(value) => return Ok(value),
            Attempt::Failed(failure) if may_pass(&failure) => failure,
            Attempt::Failed(failure) => {
                let mut step = row(number, name, started_at);
                step.error = Some(codec::encode_error(failure.envelope()));
                execution.write(step, None).await?;
                return Err(failure);
            }
        };
        tracing::debug!(step = name, %failure, "a transaction met others, and is tried again");
        execution.interruptible(tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64()))).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Attempt<T> {
    Written(T),
    Failed(Failure),
}

async fn attempt<C, T, F, Fut>(execution: &Execution, mut step: StepRow, work: &mut F) -> Result<Attempt<T>, Failure>
where
    C: Connection,
    T: Serialize + DeserializeOwned,
    F: FnMut(Tx<C>) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let store = &execution.core.store;
    let transaction = match store.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return Ok(Attempt::Failed(error.into())),
    };
    let home = Home::default();
    let tx = match Tx::new(transaction, &home) {
        Ok(tx) => tx,
        Err(transaction) => {
            transaction.rollback().await;
            let problem = format!("is not what workflows are kept in here: {}", store.name());
            return Err(Error::invalid("the transaction", C::STORAGE, problem).into());
        }
    };
    let inside = (Arc::clone(&execution.id), step.name.clone());
    let ended = match std::panic::catch_unwind(AssertUnwindSafe(|| work(tx))) {
        Ok(work) => {
            let work = IN_TRANSACTION.scope(step.name.clone(), INSIDE.scope(inside, work));
            AssertUnwindSafe(work).catch_unwind().await
        }
        Err(panic) => Err(panic),
    };
    let result = ended.unwrap_or_else(|panic| Err(Failure::new("Panic", crate::panic_message(&*panic))));
    let back = home.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(transaction) = back else {
        let problem = "was kept beyond its step; what was done in it is rolled back when it is dropped";
        return Ok(Attempt::Failed(Error::invalid("the transaction", &step.name, problem).into()));
    };
    let value = match result {
        Ok(value) => value,
        Err(failure) => {
            transaction.rollback().await;
            return Ok(Attempt::Failed(failure));
        }
    };
    step.completed_at = Some(clock());
    step.output = match codec::encode("the output of a transaction", &value) {
        Ok(text) => Some(text),
        Err(error) => {
            transaction.rollback().await;
            return Ok(Attempt::Failed(error.into()));
        }
    };
    let answer = transaction.commit(&execution.checkpoint(step.clone(), None)).await;
    match answer {
        // Also what the database refuses at the commit, as a deferred constraint does: it is the step's failure.
        Err(error) => Ok(Attempt::Failed(error.into())),
        // An earlier commit of this step, whose answer was lost: it holds, and this one was rolled back.
        Ok(Checkpointed::Recorded(row)) if row.name == step.name => replay(&row).map(Attempt::Written),
        answer => execution.judge(step, answer).await.map(|_| Attempt::Written(value)).map_err(Failure::from),
    }
}

/// Whether a failure is the database's way to say: try again.
fn may_pass(failure: &Failure) -> bool {
    if let Some(error) = failure.engine() {
        return error.is_transient();
    }
    match failure.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(error)) => {
            // PostgreSQL: a serialization failure, a deadlock, a server that ends connections, starts, or has none to spare.
            // SQLite: a busy file.
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            let passes = ["40001", "40P01", "57P01", "57P02", "57P03", "53300", "5", "261", "517"];
            passes.contains(&code) || (code.len() == 5 && code.starts_with("08"))
        }
        // The connection is lost, and the transaction with it.
        Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed) => true,
        _ => false,
    }
}
