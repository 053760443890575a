//! Sleeping, over restarts.

use std::time::Duration;

use super::{Ctx, clock, row};
use crate::engine::run::Execution;
use crate::error::{Error, Result};
use crate::options::millis;
use crate::store::{Ms, StepRow};

const NAME: &str = "DBOS.sleep";

impl Ctx {
    /// Sleeps for so long, counted from when this call ran first: a restarted workflow sleeps for what is left.
    ///
    /// # Errors
    /// When the workflow is cancelled, or inside a step.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = Result<()>> + Send + use<> {
        let number = self.numbers("a sleep", 1);
        let execution = std::sync::Arc::clone(&self.execution);
        async move {
            let number = number?;
            execution.gate().await?;
            let until = match execution.replayed(number, NAME)? {
                Some(row) => wake_of(row)?,
                None => record(&execution, number, duration).await?,
            };
            execution.interruptible(execution.core.sleep_until(until)).await
        }
    }
}

/// Records when a wait ends, as seconds since 1970.
pub(super) async fn record(execution: &Execution, number: i32, duration: Duration) -> Result<Ms> {
    let until = execution.core.now().saturating_add(millis(duration));
    let mut step = row(number, NAME, clock());
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of any date are exact in a double")]
    let seconds = until as f64 / 1000.0;
    step.output = Some(crate::codec::encode("the end of a sleep", &seconds)?);
    execution.write(step, None).await?;
    Ok(until)
}

/// When a recorded wait ends.
pub(super) fn wake_of(row: &StepRow) -> Result<Ms> {
    let text = row.output.as_deref().unwrap_or("0");
    let seconds: f64 = text.parse().map_err(|error| Error::decode("the end of a recorded sleep", error))?;
    // Clients in other languages count in milliseconds.
    let milliseconds = if seconds > 1e11 { seconds } else { seconds * 1000.0 };
    #[expect(clippy::cast_possible_truncation, reason = "it is a date")]
    Ok(milliseconds.round() as Ms)
}

/// The end of a wait that is recorded under this number, or is now.
pub(super) async fn deadline(execution: &Execution, number: i32, wait: Duration) -> Result<Ms> {
    match execution.replayed(number, NAME)? {
        Some(row) => wake_of(row),
        None => record(execution, number, wait).await,
    }
}
