//! Which of several came first, recorded.

use std::sync::Arc;

use futures::future::{BoxFuture, select_all};

use super::{Ctx, clock, replay, row};
use crate::failure::Failure;

const NAME: &str = "DBOS.select";

impl Ctx {
    /// Waits for the first of several, and drops the others. Which it was is recorded: a restarted workflow waits for the same one.
    ///
    /// Make the futures (steps, sleeps, …) before this call, so that they have their numbers; box them with
    /// [`FutureExt::boxed`](futures::FutureExt::boxed). What a dropped one was writing at that moment may still be written: then it is recorded,
    /// and a message that it was receiving is consumed.
    ///
    /// # Errors
    /// When the choice cannot be recorded, or inside a step.
    ///
    /// # Panics
    /// If there is nothing to wait for.
    pub fn select<'a, T: Send>(
        &self,
        mut branches: Vec<BoxFuture<'a, T>>,
    ) -> impl Future<Output = Result<(usize, T), Failure>> + Send + use<'a, T> {
        let number = self.numbers("a choice", 1);
        let execution = Arc::clone(&self.execution);
        async move {
            let number = number?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, NAME)? {
                let place: usize = replay(row)?;
                if place >= branches.len() {
                    let problem = format!("it was branch {place}, and there are {} now", branches.len());
                    return Err(crate::Error::decode("a recorded choice", problem).into());
                }
                return Ok((place, branches.swap_remove(place).await));
            }
            let started_at = clock();
            let (value, place, others) = execution.interruptible(select_all(branches)).await?;
            drop(others);
            let mut step = row(number, NAME, started_at);
            step.output = Some(place.to_string());
            execution.write(step, None).await?;
            Ok((place, value))
        }
    }
}
