//! Flags whose jobs a worker leaves alone.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::task::TaskError;

type Ask = dyn Fn() -> BoxFuture<'static, Result<Vec<String>, TaskError>> + Send + Sync;

/// Which flags are forbidden.
#[derive(Clone)]
pub(super) enum ForbiddenFlags {
    List(Vec<String>),
    Ask(Arc<Ask>),
}

impl ForbiddenFlags {
    pub(super) fn ask<F, Fut, E>(ask: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<String>, E>> + Send + 'static,
        E: Into<TaskError>,
    {
        Self::Ask(Arc::new(move || {
            let answer = ask();
            Box::pin(async move { answer.await.map_err(Into::into) })
        }))
    }

    /// Whether somebody has to be asked before each claim.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Ask(_))
    }

    /// Those that are known without asking.
    pub(super) fn listed(&self) -> &[String] {
        match self {
            Self::List(flags) => flags,
            Self::Ask(_) => &[],
        }
    }

    /// The flags at this moment. While they are not known, nothing may be claimed.
    pub(super) async fn now(&self) -> Result<Vec<String>> {
        match self {
            Self::List(flags) => Ok(flags.clone()),
            Self::Ask(ask) => AssertUnwindSafe(async { ask().await })
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(TaskError::new("the function panicked")))
                .map_err(|error| Error::ForbiddenFlags(error.message().to_owned())),
        }
    }
}

impl fmt::Debug for ForbiddenFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(flags) => write!(f, "{flags:?}"),
            Self::Ask(_) => f.write_str("a function"),
        }
    }
}
