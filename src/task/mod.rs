//! What a user implements: tasks.
//!
//! A task is an `async fn` of a payload that names it ([`TaskPayload`]), alone or with what it needs
//! ([`handler_with`]: a connection pool, a mail client). A closure becomes one for any payload with [`task_fn`]; a type does by the
//! trait [`Task`]. Each is turned into a [`Handler`], which is what a worker holds.
//!
//! What a task may answer:
//!
//! | answer | what happens to the job |
//! | --- | --- |
//! | `()` or `Ok(())` | it is deleted |
//! | an error | its text becomes `last_error`; tried again when its [`RetryPolicy`] says, until `max_attempts` |
//! | [`TaskError::retry_at`], [`TaskError::retry_in`] | the same, at a time of the task's own |
//! | [`TaskError::permanent`] | it is dead: kept, not tried again |
//! | [`Answer::snooze`] | it runs again later, and this attempt is not counted |
//! | [`Answer::items`] | for array payloads: the items that failed stay, the others are done |
//! | a panic | a failed attempt, with the panic's message |
//! | nothing, within its `timeout` | it is dropped: a failed attempt |
//! | nothing, or an error, when its worker has to end | ready again at once, and the attempt is not counted; if that follows on another such end, it is |
//!
//! A [`Middleware`] wraps every task of a worker: for spans and metrics, or to give tasks what they need.

mod answer;
mod batch;
mod context;
mod function;
mod handler;
mod middleware;
mod retry;

use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;

pub(crate) use answer::Sequel;
pub use answer::{Answer, IntoTaskResult, TaskError, TaskResult};
pub(crate) use batch::settle_items;
pub use context::JobContext;
pub(crate) use context::{FollowUps, output_of};
pub use function::{IntoHandler, IntoHandlerWith, handler, handler_with};
#[cfg(feature = "testing")]
pub(crate) use handler::NOT_DECODED;
pub use handler::{Handler, task_fn};
pub(crate) use middleware::Chain;
pub use middleware::{Middleware, Next, middleware_fn};
pub use retry::RetryPolicy;

use crate::job::TaskPayload;

/// Code that runs the jobs of one name, as a type: where a function with a state ([`handler_with`]) is not enough.
///
/// ```
/// use backfill::{JobContext, Task, TaskPayload};
///
/// #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// struct SendInvoice { order: u64 } // for jobs of the task "send_invoice"
///
/// struct Mailer; // fields hold what the task needs
///
/// impl Task for Mailer {
///     type Payload = SendInvoice;
///     type Output = Result<(), std::io::Error>;
///
///     async fn run(&self, invoice: SendInvoice, ctx: JobContext) -> Self::Output {
///         let footer = std::fs::read_to_string("footer.txt")?; // any error fails the attempt
///         println!("order {}, attempt {}: {footer}", invoice.order, ctx.job().attempts);
///         Ok(())
///     }
/// }
/// ```
pub trait Task: Send + Sync + 'static {
    /// What a job carries, which names the task. A payload that does not decode is a failed attempt.
    type Payload: TaskPayload + DeserializeOwned + Send;

    /// What a run ends with: `()`, `Result<(), E>` with any error, or an [`Answer`] in the place of `()`.
    type Output: IntoTaskResult;

    /// Runs one job. Called from many jobs at once.
    ///
    /// The future may be dropped at an `await` when the worker shuts down and the grace period is over; the
    /// job is then tried again. Watch [`JobContext::cancelled`] to end in an orderly way before that.
    ///
    /// # Errors
    /// When the attempt failed; see [`TaskError`] for what may follow.
    fn run(&self, payload: Self::Payload, ctx: JobContext) -> impl Future<Output = Self::Output> + Send;

    /// When a failed job is tried again. Default: [`RetryPolicy::graphile`].
    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::default()
    }

    /// How many jobs of this task one worker runs at the same time. Default: as many as of all tasks together.
    fn concurrency(&self) -> Option<usize> {
        None
    }

    /// How long a job may run before its future is dropped and its attempt has failed. Default: as long as it takes.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}
