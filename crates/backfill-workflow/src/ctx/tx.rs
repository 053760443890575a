//! Steps in one transaction with the user's own statements.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ctx, INSIDE, clock, replay, row};
use crate::codec;
use crate::engine::run::Execution;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::store::{Checkpointed, StepRow};

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

/// The longest pause before a transaction is tried again that met others.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Ctx {
    /// A step whose statements and whose record are one transaction: its effect happens exactly once.
    ///
    /// The closure is given a connection in a transaction, of the driver of the storage that keeps the workflows
    /// (`async |tx: &mut sqlx::PgConnection| …`, or `SqliteConnection`). If it fails, its statements are rolled back and the failure is
    /// recorded. If the database refuses the transaction because of others (SQLSTATE 40001, 40P01), it is tried again.
    ///
    /// # Errors
    /// What the closure fails with; or a connection of another storage's driver.
    pub fn tx<'a, C, T, F, N>(&self, name: N, work: F) -> impl Future<Output = Result<T, Failure>> + use<'a, C, T, F, N>
    where
        N: Into<Cow<'static, str>>,
        C: Connection,
        T: Serialize + DeserializeOwned,
        F: AsyncFnMut(&mut C) -> Result<T, Failure> + 'a,
    {
        let name: Cow<'static, str> = name.into();
        let number = self.numbers("a transaction", 1);
        let execution = Arc::clone(&self.execution);
        async move {
            let number = number?;
            if name.starts_with("DBOS.") {
                return Err(Error::invalid("the step's name", &name, "begins with DBOS., which is for the engine's own steps").into());
            }
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, &name)? {
                return replay(row);
            }
            transact(&execution, number, &name, work).await
        }
    }
}

async fn transact<C, T, F>(execution: &Execution, number: i32, name: &str, mut work: F) -> Result<T, Failure>
where
    C: Connection,
    T: Serialize + DeserializeOwned,
    F: AsyncFnMut(&mut C) -> Result<T, Failure>,
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

async fn attempt<C, T, F>(execution: &Execution, mut step: StepRow, work: &mut F) -> Result<Attempt<T>, Failure>
where
    C: Connection,
    T: Serialize + DeserializeOwned,
    F: AsyncFnMut(&mut C) -> Result<T, Failure>,
{
    let store = &execution.core.store;
    let mut transaction = match store.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return Ok(Attempt::Failed(error.into())),
    };
    let result = match transaction.connection().downcast_mut::<C>() {
        None => {
            let error = Error::invalid("the connection", C::STORAGE, format!("is not what workflows are kept in here: {}", store.name()));
            return Err(error.into());
        }
        Some(connection) => {
            let inside = (Arc::clone(&execution.id), step.name.clone());
            INSIDE.scope(inside, work(connection)).await
        }
    };
    let value = match result {
        Ok(value) => value,
        Err(failure) => {
            transaction.rollback().await;
            return Ok(Attempt::Failed(failure));
        }
    };
    step.completed_at = Some(clock());
    step.output = Some(codec::encode("the output of a transaction", &value)?);
    let answer = transaction.commit(&execution.checkpoint(step.clone(), None)).await;
    match answer {
        Err(error) if error.is_transient() => Ok(Attempt::Failed(error.into())),
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
            // A serialization failure and a deadlock of PostgreSQL; SQLite's busy file.
            matches!(error.code().as_deref(), Some("40001" | "40P01" | "5" | "261" | "517"))
        }
        _ => false,
    }
}
