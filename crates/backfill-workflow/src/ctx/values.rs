//! What differs each time it is asked for, recorded; and marks for changed code.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Ctx, Step, clock, row};
use crate::error::Result;

impl Ctx {
    /// The time, to the millisecond, as it was when this call ran first.
    pub fn now<'a>(&self) -> Step<'a, DateTime<Utc>> {
        let core = Arc::clone(&self.execution.core);
        self.value("DBOS.now", move || {
            DateTime::from_timestamp_millis(core.now()).unwrap_or_else(|| Utc::now().trunc_subsecs(3))
        })
    }

    /// A random UUID, which stays the same.
    pub fn uuid<'a>(&self) -> Step<'a, Uuid> {
        self.value("DBOS.randomUUID", Uuid::new_v4)
    }

    /// A random number from 0 to 1 (exclusive), which stays the same.
    pub fn random<'a>(&self) -> Step<'a, f64> {
        self.value("DBOS.random", fastrand::f64)
    }

    fn value<'a, T>(&self, name: &'static str, mut value: impl FnMut() -> T + Send + 'a) -> Step<'a, T>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        self.named_step(
            name,
            None,
            Box::new(move || {
                let value = value();
                async move { Ok(value) }.boxed()
            }),
        )
    }

    /// Whether this workflow takes changed code: `true` if it comes here for the first time, `false` if it came by before the code was changed.
    ///
    /// ```no_run
    /// # use backfill_workflow::{Ctx, Failure};
    /// # async fn order(ctx: Ctx) -> Result<(), Failure> {
    /// if ctx.patch("ask-twice").await? {
    ///     ctx.step("ask again", || async { Ok(()) }).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the mark cannot be written, or inside a step.
    pub fn patch(&self, name: &str) -> impl Future<Output = Result<bool>> + Send + use<> {
        let inside = self.outside_steps("a patch");
        let execution = Arc::clone(&self.execution);
        let mark = format!("DBOS.patch-{name}");
        // What stands at this place decides, and only a mark takes the number.
        let number = execution.peek_number();
        let (taken, new) = match execution.recorded(number) {
            Some(row) => (row.name == mark, false),
            None => (true, true),
        };
        if taken && inside.is_ok() {
            execution.take_numbers(1);
        }
        async move {
            inside?;
            if new {
                execution.gate().await?;
                execution.write(row(number, &mark, clock()), None).await?;
            }
            Ok(taken)
        }
    }

    /// In the place of a [`patch`](Self::patch) that all running workflows have taken: those that have its mark step over it, and new ones have none.
    ///
    /// # Errors
    /// Inside a step.
    pub fn deprecate_patch(&self, name: &str) -> Result<()> {
        self.outside_steps("a patch")?;
        let mark = format!("DBOS.patch-{name}");
        if self.execution.recorded(self.execution.peek_number()).is_some_and(|row| row.name == mark) {
            self.execution.take_numbers(1);
        }
        Ok(())
    }
}
