//! What a workflow's code has in its hands.
//!
//! A workflow's function runs again from its beginning after a crash. Whatever it does through its [`Ctx`] has a *number*, in the order of the
//! calls, and is recorded under it; what was recorded is not done again. So the order of the calls must be the same each time: what depends
//! on the time, on chance or on the world belongs into a step.

mod child;
mod events;
mod jobs;
mod messages;
pub(crate) use self::messages::topic_name;
mod select;
mod sleep;
mod step;
mod streams;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod tx;
mod values;

use std::fmt;
use std::sync::Arc;

use chrono::Utc;
use serde::de::DeserializeOwned;

pub use self::child::Child;
pub use self::step::{Backoff, Step};
#[cfg(feature = "postgres")]
pub use self::tx::PgTx;
#[cfg(feature = "sqlite")]
pub use self::tx::SqliteTx;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use self::tx::{Connection, Tx};
use crate::client::Client;
use crate::codec;
use crate::engine::run::{Execution, failure_of};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::store::{Ms, StepRow};

tokio::task_local! {
    /// The step whose code is running, with its workflow.
    static INSIDE: (Arc<str>, String);
}

tokio::task_local! {
    /// The transaction of a step whose code is running.
    static IN_TRANSACTION: String;
}

/// Refuses what would wait for the connection, or the lock, that the transaction of a step holds.
pub(crate) fn outside_transactions(what: &'static str) -> Result<()> {
    IN_TRANSACTION.try_with(String::clone).map_or(Ok(()), |step| Err(Error::InsideStep { what, step }))
}

/// A running workflow, for its own code. Clones are the same workflow.
#[derive(Clone)]
pub struct Ctx {
    execution: Arc<Execution>,
}

impl Ctx {
    pub(crate) fn new(execution: Arc<Execution>) -> Self {
        Self { execution }
    }

    /// The workflow's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.execution.id
    }

    /// The workflow's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.execution.name
    }

    /// Who asked for the workflow, if they said so.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.execution.identity.as_ref().and_then(|identity| identity.user.as_deref())
    }

    /// The role in which they asked.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.execution.identity.as_ref().and_then(|identity| identity.role.as_deref())
    }

    /// Their roles.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        let roles = self.execution.identity.as_ref().and_then(|identity| identity.roles.as_deref());
        roles.and_then(|roles| serde_json::from_str(roles).ok()).unwrap_or_default()
    }

    /// Until when it may run, in milliseconds since 1970 by the storage's clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Ms> {
        self.execution.deadline
    }

    /// Whether the workflow was cancelled, or its time is up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.execution.control.is_cancelled()
    }

    /// Ends when the workflow is cancelled or its time is up: for code between the steps that takes long. Inside steps nothing is needed: they are dropped
    /// then.
    pub async fn cancelled(&self) {
        self.execution.control.interrupted().await;
    }

    /// A client for the same workflows. What it does is not recorded: use it inside steps.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::of_core(&self.execution.core)
    }

    /// The number that the next call takes.
    #[must_use]
    pub fn next_step(&self) -> i32 {
        self.execution.peek_number()
    }

    /// The name of the step whose code is running, if it is one of this workflow's.
    fn inside(&self) -> Option<String> {
        INSIDE.try_with(|(run, step)| (*run == self.execution.id).then(|| step.clone())).ok().flatten()
    }

    /// Refuses what only the workflow itself may do.
    fn outside_steps(&self, what: &'static str) -> Result<()> {
        self.inside().map_or(Ok(()), |step| Err(Error::InsideStep { what, step }))
    }

    /// Takes the next numbers, if that may be done here.
    fn numbers(&self, what: &'static str, count: i32) -> Result<i32> {
        self.outside_steps(what).map(|()| self.execution.take_numbers(count))
    }
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

/// This process's time, for the times of steps.
fn clock() -> Ms {
    Utc::now().timestamp_millis()
}

/// What a recorded step has come to.
fn replay<T: DeserializeOwned>(row: &StepRow) -> Result<T, Failure> {
    if let Some(failure) = failure_of(row) {
        return Err(failure);
    }
    let what = format!("the output of the step {} ({:?})", row.number, row.name);
    let text = row.output.as_deref().unwrap_or("null");
    Ok(codec::decode(&what, text, row.format.as_deref().or(Some(codec::PORTABLE)))?)
}

/// A step's row without a result.
fn row(number: i32, name: &str, started_at: Ms) -> StepRow {
    StepRow {
        number,
        name: name.to_owned(),
        format: Some(codec::PORTABLE.to_owned()),
        started_at: Some(started_at),
        completed_at: Some(clock()),
        ..StepRow::default()
    }
}
