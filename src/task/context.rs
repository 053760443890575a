//! What a running job can see and do.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::client::BackfillClient;
use crate::error::{Error, Result};
use crate::job::{Job, JobSpec, NewJob};
use crate::storage::Then;

/// A running job's view of itself and its worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobContext {
    job: Arc<Job>,
    client: BackfillClient,
    // Counted once more than it does itself, because its own count takes a lock.
    cancellation: Arc<CancellationToken>,
    /// What middleware has put here, by type.
    extensions: Option<Arc<Extensions>>,
    follow_ups: FollowUps,
}

/// The jobs that are to follow a job.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowUps(Arc<Mutex<Vec<NewJob>>>);

impl FollowUps {
    fn jobs(&self) -> MutexGuard<'_, Vec<NewJob>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Then {
        Then::add(std::mem::take(&mut *self.jobs()))
    }
}

type Extensions = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

impl JobContext {
    pub(crate) fn new(
        job: Arc<Job>,
        client: BackfillClient,
        cancellation: Arc<CancellationToken>,
        follow_ups: FollowUps,
    ) -> Self {
        Self { job, client, cancellation, extensions: None, follow_ups }
    }

    /// A context outside of a worker: for tests that call a task by themselves. Nothing cancels it, and what
    /// [`add_when_done`](Self::add_when_done) says is checked, and then forgotten.
    #[must_use]
    pub fn for_test(job: Job, client: BackfillClient) -> Self {
        Self::new(Arc::new(job), client, Arc::default(), FollowUps::default())
    }

    /// The job as it was claimed; its `attempts` count this start.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The same context with a value of this type in it, for [`Middleware`](crate::Middleware) to hand to tasks. It takes the
    /// place of one of the same type.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, value: T) -> Self {
        let mut extensions = self.extensions.as_deref().cloned().unwrap_or_default();
        extensions.insert(TypeId::of::<T>(), Arc::new(value));
        self.extensions = Some(Arc::new(extensions));
        self
    }

    /// The value of this type that middleware has put here.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let value = self.extensions.as_ref()?.get(&TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }

    /// Whether a failure now would be the last.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.job.attempts >= self.job.max_attempts
    }

    /// A client for the same storage, to add further jobs.
    #[must_use]
    pub fn client(&self) -> &BackfillClient {
        &self.client
    }

    /// Adds a job when this one is done, in the write that completes it: both happen, or neither. If this attempt fails, nothing is
    /// added.
    ///
    /// ```
    /// # use backfill::{JobContext, JobSpec};
    /// async fn charge(order: u64, ctx: JobContext) -> backfill::Result<()> {
    ///     // … charge the card, and then:
    ///     ctx.add_when_done(JobSpec::new("send_invoice", order))
    /// }
    /// # let _ = backfill::task_fn("charge", charge);
    /// ```
    ///
    /// # Errors
    /// At once, for a job outside the limits, or with the key of another one that is to follow.
    pub fn add_when_done(&self, job: impl Into<JobSpec>) -> Result<()> {
        let new = self.client.checked([job.into()])?;
        let mut jobs = self.follow_ups.jobs();
        if let Some(key) = new
            .iter()
            .filter_map(|job| job.key.as_ref())
            .find(|key| jobs.iter().any(|job| job.key.as_ref() == Some(key)))
        {
            return Err(Error::DuplicateKey { key: key.clone() });
        }
        jobs.extend(new);
        Ok(())
    }

    /// Resolves when the job should come to an end: its worker shuts down, or was declared dead and the job given to another.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Whether the job should come to an end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// The token behind [`cancelled`](Self::cancelled), to hand to code that takes one.
    #[must_use]
    pub fn cancellation_token(&self) -> &CancellationToken {
        &self.cancellation
    }
}
