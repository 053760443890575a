//! Jobs that a workflow adds to the queue of jobs.

use std::sync::Arc;

use backfill::JobSpec;

use super::{Ctx, clock, replay, row};
use crate::error::{Error, Result};
use crate::failure::Failure;
#[cfg(feature = "postgres")]
use crate::store::Effect;

const NAME: &str = "backfill.enqueueJob";

impl Ctx {
    /// Adds a job to the queue of jobs that the engine was given ([`EngineBuilder::jobs`](crate::EngineBuilder::jobs)).
    ///
    /// If that is in the same PostgreSQL database as the workflows, the job is added in the write that records the step: once. Elsewhere
    /// it is added before that, and again if the process dies in between; a job with a key of your choice is then still one job, as long as it waits.
    ///
    /// # Errors
    /// When the engine has no queue of jobs, the job is refused, the workflow is cancelled, or inside a step.
    pub fn enqueue_job<J: Into<JobSpec>>(&self, job: J) -> impl Future<Output = Result<(), Failure>> + Send + use<J> {
        let number = self.numbers("adding a job", 1);
        let execution = Arc::clone(&self.execution);
        let job = job.into();
        async move {
            let number = number?;
            execution.gate().await?;
            if let Some(row) = execution.replayed(number, NAME)? {
                return replay(row);
            }
            let Some(jobs) = &execution.core.jobs else {
                let error = Error::Unsupported {
                    storage: "this engine",
                    what: "queue of jobs; give it one with `EngineBuilder::jobs`",
                };
                return Err(error.into());
            };
            let mut step = row(number, NAME, clock());
            step.output = Some("null".to_owned());
            #[cfg(feature = "postgres")]
            if jobs.same_database {
                let checked = jobs.client.checked([job]).map_err(Error::from)?;
                execution.write(step, Some(Effect::Jobs(jobs.client.clone(), checked))).await?;
                return Ok(());
            }
            jobs.client.add(job).await.map_err(Error::from)?;
            execution.write(step, None).await?;
            Ok(())
        }
    }
}
