//! Adding jobs: what [`BackfillClient::add`] and [`BackfillClient::add_many`] give, to be added to and awaited.

use std::future::IntoFuture;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use super::within::{Within, add_within};
use super::{BackfillClient, one};
use crate::error::Result;
use crate::job::{Job, JobKeyMode, JobSpec, Priority, Queue};

/// A job that is being added. Nothing is sent before it is awaited.
///
/// ```
/// # use backfill::{BackfillClient, JobSpec};
/// # use std::time::Duration;
/// # async fn example(client: BackfillClient) -> backfill::Result<()> {
/// client.add(JobSpec::new("greet", "Ada")).run_in(Duration::from_secs(60)).key("greeting of Ada").await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is added before this is awaited"]
#[derive(Debug)]
pub struct Add<'a> {
    client: &'a BackfillClient,
    spec: JobSpec,
    within: Option<Within<'a>>,
}

/// Jobs that are being added, all or none. Nothing is sent before they are awaited.
#[must_use = "nothing is added before this is awaited"]
#[derive(Debug)]
pub struct AddMany<'a> {
    client: &'a BackfillClient,
    specs: Vec<JobSpec>,
    within: Option<Within<'a>>,
}

impl<'a> Add<'a> {
    pub(super) fn new(client: &'a BackfillClient, spec: JobSpec) -> Self {
        Self { client, spec, within: None }
    }

    /// Adds it in the caller's own transaction, or on the caller's connection: it exists when and if the transaction commits, and a worker
    /// is woken then. The connection must lead to where the client's jobs are.
    ///
    /// After an error from PostgreSQL the transaction is aborted, as PostgreSQL does it; a job outside the limits is refused before
    /// it is sent, and leaves the transaction as it was. On SQLite a transaction should begin with `begin immediate`: one that has
    /// read before it writes is refused (`SQLITE_BUSY`) when somebody else wrote in between.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn within(mut self, connection: impl Into<Within<'a>>) -> Self {
        self.within = Some(connection.into());
        self
    }

    fn with(mut self, change: impl FnOnce(JobSpec) -> JobSpec) -> Self {
        self.spec = change(self.spec);
        self
    }

    /// As [`JobSpec::queue`].
    pub fn queue(self, queue: Queue) -> Self {
        self.with(|spec| spec.queue(queue))
    }

    /// As [`JobSpec::serial_queue`].
    pub fn serial_queue(self, name: impl Into<String>) -> Self {
        self.with(|spec| spec.serial_queue(name))
    }

    /// As [`JobSpec::run_at`].
    pub fn run_at(self, time: DateTime<Utc>) -> Self {
        self.with(|spec| spec.run_at(time))
    }

    /// As [`JobSpec::run_in`].
    pub fn run_in(self, delay: Duration) -> Self {
        self.with(|spec| spec.run_in(delay))
    }

    /// As [`JobSpec::max_attempts`].
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with(|spec| spec.max_attempts(attempts))
    }

    /// As [`JobSpec::key`].
    pub fn key(self, key: impl Into<String>) -> Self {
        self.with(|spec| spec.key(key))
    }

    /// As [`JobSpec::key_mode`].
    pub fn key_mode(self, mode: JobKeyMode) -> Self {
        self.with(|spec| spec.key_mode(mode))
    }

    /// As [`JobSpec::priority`].
    pub fn priority(self, priority: impl Into<Priority>) -> Self {
        self.with(|spec| spec.priority(priority))
    }

    /// As [`JobSpec::flag`].
    pub fn flag(self, flag: impl Into<String>) -> Self {
        self.with(|spec| spec.flag(flag))
    }
}

impl<'a> AddMany<'a> {
    pub(super) fn new(client: &'a BackfillClient, specs: Vec<JobSpec>) -> Self {
        Self { client, specs, within: None }
    }

    /// As [`Add::within`].
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn within(mut self, connection: impl Into<Within<'a>>) -> Self {
        self.within = Some(connection.into());
        self
    }
}

impl<'a> IntoFuture for Add<'a> {
    type Output = Result<Job>;
    type IntoFuture = BoxFuture<'a, Result<Job>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { one(add(self.client, vec![self.spec], self.within).await?) })
    }
}

impl<'a> IntoFuture for AddMany<'a> {
    type Output = Result<Vec<Job>>;
    type IntoFuture = BoxFuture<'a, Result<Vec<Job>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(add(self.client, self.specs, self.within))
    }
}

async fn add(client: &BackfillClient, specs: Vec<JobSpec>, within: Option<Within<'_>>) -> Result<Vec<Job>> {
    let jobs = client.checked(specs)?;
    match within {
        Some(within) => add_within(client, within, jobs).await,
        None if jobs.is_empty() => Ok(Vec::new()),
        None => client.storage().add(&jobs).await,
    }
}
