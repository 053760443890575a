//! Pieces of work, and what becomes of their callers.

use std::sync::Arc;

use backfill_core::job::{Job, NewJob};
use backfill_core::{Error, Result};
use futures::future::BoxFuture;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::oneshot;

use super::is_for_content;
use crate::add::store;
use crate::errors::explained;
use crate::file::MonotonicClock;

/// A piece of work, and its caller.
pub(super) trait Work: Send {
    fn is_abandoned(&self) -> bool;
    /// Does it; answers whether it worked.
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;
    /// Answers the caller.
    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<sqlx::Error>>);
}

pub(super) struct Call<T, F> {
    pub(super) action: &'static str,
    pub(super) work: Option<F>,
    pub(super) result: Option<sqlx::Result<T>>,
    pub(super) answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, sqlx::Result<T>> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            if let Some(work) = self.work.take() {
                self.result = Some(work(connection).await);
            }
            matches!(self.result, Some(Ok(_)))
        })
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<sqlx::Error>>) {
        let action = self.action;
        let result = match (self.result, committed) {
            (Some(Err(source)), _) => Err(explained(action, source.into())),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(source)) => Err(explained(action, source)),
            (None, Ok(())) => Err(Error::Internal(format!("nothing was done to {action}"))),
        };
        // Nobody may wait any more.
        let _ = self.answer.send(result);
    }
}

/// Single jobs that are stored together.
pub(super) struct Adds {
    pub(super) clock: Arc<MonotonicClock>,
    pub(super) jobs: Vec<NewJob>,
    pub(super) answers: Vec<oneshot::Sender<Result<Job>>>,
    /// What kept all of them from being stored.
    pub(super) failed: Option<Arc<sqlx::Error>>,
    /// Of each job, in the same order.
    pub(super) results: Vec<sqlx::Result<Job>>,
}

impl Adds {
    async fn store(&mut self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        if let [_] = self.jobs[..] {
            self.results = vec![self.store_one(connection, 0).await];
            return Ok(());
        }
        let mut savepoint = connection.begin().await?;
        match store(&self.clock, &mut savepoint, &self.jobs).await {
            Ok(jobs) => {
                savepoint.commit().await?;
                self.results = jobs.into_iter().map(Ok).collect();
            }
            // A trigger of the user's, as a rule. By itself each is told its own error.
            Err(error) if is_for_content(&error) => {
                savepoint.rollback().await?;
                for place in 0..self.jobs.len() {
                    let mut savepoint = connection.begin().await?;
                    let stored = self.store_one(&mut savepoint, place).await;
                    if stored.is_ok() {
                        savepoint.commit().await?;
                    } else {
                        savepoint.rollback().await?;
                    }
                    self.results.push(stored);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn store_one(&self, connection: &mut SqliteConnection, place: usize) -> sqlx::Result<Job> {
        let stored = store(&self.clock, connection, std::slice::from_ref(&self.jobs[place])).await?;
        stored.into_iter().next().ok_or(sqlx::Error::RowNotFound)
    }
}

impl Work for Adds {
    fn is_abandoned(&self) -> bool {
        self.jobs.is_empty()
    }

    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            if let Err(error) = self.store(connection).await {
                self.failed = Some(Arc::new(error));
            }
            self.failed.is_none() && self.results.iter().any(Result::is_ok)
        })
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<sqlx::Error>>) {
        let failed = self.failed.or(committed.err());
        let mut results = self.results.into_iter();
        for answer in self.answers {
            let result = match (&failed, results.next()) {
                (_, Some(Err(error))) => Err(Arc::new(error)),
                (None, Some(Ok(job))) => Ok(job),
                (Some(failed), _) => Err(Arc::clone(failed)),
                (None, None) => Err(Arc::new(sqlx::Error::Protocol("nothing was done".to_owned()))),
            };
            // Nobody may wait any more.
            let _ = answer.send(result.map_err(|source| explained("store jobs", source)));
        }
    }
}
