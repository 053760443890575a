//! The form in which a worker holds a task.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::{IntoTaskResult, JobContext, RetryPolicy, Task, TaskError, TaskResult};
use crate::job::TaskPayload;

type Run = dyn Fn(JobContext) -> BoxFuture<'static, TaskResult> + Send + Sync;

/// A task with its name and settings, its payload type erased.
///
/// Every [`Task`] converts into it; [`task_fn`] makes one of a closure.
#[derive(Clone)]
pub struct Handler {
    name: String,
    retry: RetryPolicy,
    concurrency: Option<usize>,
    timeout: Option<Duration>,
    run: Arc<Run>,
}

impl Handler {
    /// How many jobs of this task one worker runs at the same time, at least 1. Default: as many as of all tasks together.
    #[must_use]
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    pub(crate) fn with_concurrency(mut self, jobs: Option<usize>) -> Self {
        self.concurrency = jobs;
        self
    }

    /// How long a job may run before its future is dropped and its attempt has failed. Default: as long as it takes.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets when a failed job is tried again.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The name that jobs call it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn retry_policy(&self) -> &RetryPolicy {
        &self.retry
    }

    pub(crate) fn concurrency_limit(&self) -> Option<usize> {
        self.concurrency
    }

    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) fn run(&self, ctx: JobContext) -> BoxFuture<'static, TaskResult> {
        (self.run)(ctx)
    }
}

impl<T: Task> From<T> for Handler {
    fn from(task: T) -> Self {
        let task = Arc::new(task);
        Self {
            name: T::Payload::TASK.to_owned(),
            retry: task.retry_policy(),
            concurrency: task.concurrency(),
            timeout: task.timeout(),
            run: Arc::new(move |ctx| {
                let task = Arc::clone(&task);
                Box::pin(async move {
                    let payload = decode(&ctx)?;
                    task.run(payload, ctx).await.into_task_result()
                })
            }),
        }
    }
}

/// Makes a task of an async closure that takes the payload and the context.
///
/// ```
/// use backfill::{JobContext, RetryPolicy, task_fn};
/// use std::time::Duration;
///
/// let greet = task_fn("greet", |name: String, _ctx: JobContext| async move {
///     println!("hello {name}");
/// })
/// .retry(RetryPolicy::fixed(Duration::from_secs(5)));
/// # let _ = greet;
/// ```
pub fn task_fn<P, F, Fut>(name: impl Into<String>, run: F) -> Handler
where
    P: DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoTaskResult> + Send + 'static,
{
    Handler {
        name: name.into(),
        retry: RetryPolicy::default(),
        concurrency: None,
        timeout: None,
        run: Arc::new(move |ctx| match decode(&ctx) {
            Ok(payload) => {
                let future = run(payload, ctx);
                Box::pin(async move { future.await.into_task_result() })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }),
    }
}

/// How the error of an attempt begins whose payload the task cannot read.
pub(crate) const NOT_DECODED: &str = "the payload could not be decoded: ";

fn decode<P: DeserializeOwned>(ctx: &JobContext) -> Result<P, TaskError> {
    ctx.job()
        .payload
        .decode()
        .map_err(|error| TaskError::new(format!("{NOT_DECODED}{}", without_values(&error.to_string()))))
}

/// The decoder's message without the value that it quotes: payloads may hold personal data, and errors are stored and
/// logged. What stays is the kind of what was found, what was expected, and where.
fn without_values(message: &str) -> String {
    for (start, keeps_kind) in [("invalid type: ", true), ("invalid value: ", true), ("unknown variant ", false)] {
        if let (Some(found), Some(expected)) = (message.strip_prefix(start), message.rfind(", expected")) {
            let kind = if keeps_kind { found.split([' ', ',']).next().unwrap_or_default() } else { "" };
            return format!("{}{kind}{}", if keeps_kind { start } else { "unknown variant" }, &message[expected..]);
        }
    }
    message.to_owned()
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("name", &self.name)
            .field("retry", &self.retry)
            .field("concurrency", &self.concurrency)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_decoding_do_not_quote_values() {
        #[derive(serde::Deserialize, Debug)]
        enum Choice {
            A,
        }
        let text = |error: serde_json::Error| without_values(&error.to_string());
        let number = serde_json::from_str::<u64>("\"my, expected secret\"").unwrap_err();
        assert_eq!(text(number), "invalid type: string, expected u64 at line 1 column 21");
        let small = serde_json::from_str::<u8>("4711").unwrap_err();
        assert_eq!(text(small), "invalid value: integer, expected u8 at line 1 column 4");
        let choice = serde_json::from_str::<Choice>("\"secret\"").unwrap_err();
        assert_eq!(text(choice), "unknown variant, expected `A` at line 1 column 8");
        let missing = serde_json::from_str::<std::collections::BTreeMap<String, u8>>("[1").unwrap_err();
        assert!(!text(missing).is_empty());
    }
}
