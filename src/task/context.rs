//! What a running job can see and do.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::client::BackfillClient;
use crate::error::{Error, Result};
use crate::job::{Job, JobId, JobSpec, Payload};
use crate::storage::Then;
use crate::storage::messages::{DocumentChange, DocumentKey, NewEvent};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::storage::{ClaimRef, ClaimToken, Outcome, Settlement, WorkerId};

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

/// What is to follow a job.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowUps(Arc<Mutex<Sequel>>);

#[derive(Debug, Default)]
struct Sequel {
    then: Then,
    /// Whether the job was completed in a transaction of the task's own.
    done_elsewhere: bool,
}

impl FollowUps {
    fn sequel(&self) -> MutexGuard<'_, Sequel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Then {
        std::mem::take(&mut self.sequel().then)
    }

    pub(crate) fn is_done_elsewhere(&self) -> bool {
        self.sequel().done_elsewhere
    }

    /// Changes what follows.
    ///
    /// # Errors
    /// [`Error::Completed`] once the job was completed in a transaction.
    fn change<T>(&self, change: impl FnOnce(&mut Then) -> Result<T>) -> Result<T> {
        let mut sequel = self.sequel();
        if sequel.done_elsewhere {
            return Err(Error::CompletedAlready);
        }
        change(&mut sequel.then)
    }
}

/// The document that holds what a job has put out.
pub(crate) fn output_of(job: JobId) -> DocumentKey {
    DocumentKey::new("backfill.output", job.to_string())
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
        self.follow_ups.change(|then| {
            let is_taken = |key: &String| then.jobs.iter().any(|job| job.key.as_ref() == Some(key));
            if let Some(key) = new.iter().filter_map(|job| job.key.as_ref()).find(|key| is_taken(key)) {
                return Err(Error::DuplicateKey { key: key.clone() });
            }
            then.jobs.extend(new);
            Ok(())
        })
    }

    /// Appends an event when this job is done, in the write that completes it: both happen, or neither. The storage needs
    /// [messages](crate::storage::messages) ([`BackfillClientBuilder::messages`](crate::BackfillClientBuilder::messages)).
    ///
    /// # Errors
    /// At once: [`Error::Unsupported`] where the storage has no messages, and for what no event can be.
    pub fn append_when_done<T: Serialize + ?Sized>(&self, stream: &str, payload: &T) -> Result<()> {
        self.client.storage().require_messages()?;
        let event = NewEvent::new(stream, Payload::new(stream, payload)?);
        event.check()?;
        self.follow_ups.change(|then| {
            then.events.push(event);
            Ok(())
        })
    }

    /// Changes a document when this job is done, in the write that completes it. The last change of a document counts.
    ///
    /// # Errors
    /// As [`append_when_done`](Self::append_when_done).
    pub fn change_when_done(&self, change: DocumentChange) -> Result<()> {
        self.client.storage().require_messages()?;
        change.check()?;
        self.follow_ups.change(|then| {
            then.documents.retain(|other| other.key() != change.key());
            then.documents.push(change);
            Ok(())
        })
    }

    /// Keeps a value for so long after this job is done, in the write that completes it:
    /// [`BackfillClient::output`](BackfillClient::output) reads it. It is a document, so it has 1 MiB at the most.
    ///
    /// # Errors
    /// As [`append_when_done`](Self::append_when_done).
    pub fn output<T: Serialize + ?Sized>(&self, value: &T, keep: Duration) -> Result<()> {
        let value = Payload::new(&self.job.task, value)?;
        self.change_when_done(DocumentChange::put(output_of(self.job.id), value).lasting(keep))
    }

    /// Completes this job in a transaction of the task's own, on the database that the job is in: what the transaction does is done once
    /// and for all with the job, or not at all. What was to follow the job happens in it, too.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] mod example {
    /// # use backfill::JobContext;
    /// async fn charge(order: i64, ctx: JobContext) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     # let pool: sqlx::PgPool = todo!();
    ///     let mut tx = pool.begin().await?;
    ///     sqlx::query("update orders set paid = true where id = $1").bind(order).execute(&mut *tx).await?;
    ///     ctx.complete_in(&mut tx).await?;
    ///     tx.commit().await?;
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// Commit after it, and answer `Ok`: if the job is there still when the task has ended, because the transaction was rolled back, the
    /// attempt has failed.
    ///
    /// # Errors
    /// [`Error::ClaimLost`] when the job is no longer this worker's: then roll back, since somebody else may be doing the same.
    /// [`Error::CompletedAlready`] the second time. [`Error::Unsupported`] for a connection to where the job is not.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub async fn complete_in<'a>(&self, connection: impl Into<crate::client::Within<'a>>) -> Result<()> {
        let (Some(worker), Some(locked_at)) = (&self.job.locked_by, self.job.locked_at) else {
            return Err(Error::ClaimLost { id: self.job.id });
        };
        let then = {
            let mut sequel = self.follow_ups.sequel();
            if std::mem::replace(&mut sequel.done_elsewhere, true) {
                return Err(Error::CompletedAlready);
            }
            std::mem::take(&mut sequel.then)
        };
        // The queue stays held until the task has ended: the next job of its run must not start before.
        let claim = ClaimRef::new(&self.job, ClaimToken::from_number(locked_at.timestamp_micros())).keeping_queue();
        let settlement = Settlement::new(claim, Outcome::completed()).then(then);
        let worker = WorkerId::named(worker.clone());
        let stood = self.client.settle_within(connection.into(), &worker, &settlement).await;
        if !matches!(stood, Ok(true)) {
            // Nothing was done, so the task may try again, in another transaction.
            let mut sequel = self.follow_ups.sequel();
            sequel.done_elsewhere = false;
            sequel.then = settlement.then;
        }
        match stood {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::ClaimLost { id: self.job.id }),
            Err(error) => Err(error),
        }
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
