//! Functions as tasks.

use std::future::Future;

use serde::de::DeserializeOwned;

use super::{Handler, IntoTaskResult, JobContext, Task, task_fn};
use crate::job::TaskPayload;

/// What a worker takes as a task. `Form` tells the forms apart, and is always inferred.
///
/// - An `async fn` of a payload that names its task ([`TaskPayload`]), and of the [`JobContext`] if it wants that. It answers `()` or a
///   `Result` whose error may be any.
/// - A [`Task`].
/// - A [`Handler`], for what is to be set: how often at once, how long, when again.
///
/// ```
/// use backfill::{RetryPolicy, TaskPayload, handler};
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// struct SendInvoice {
///     order: u64,
/// }
///
/// async fn send_invoice(invoice: SendInvoice) -> Result<(), std::io::Error> {
///     println!("invoice {}: {}", invoice.order, std::fs::read_to_string("footer.txt")?);
///     Ok(())
/// }
///
/// let builder = |worker: backfill::WorkerBuilder| worker.task(send_invoice);
/// // Or with settings:
/// let handler = handler(send_invoice).concurrency(4).retry(RetryPolicy::fixed(Duration::from_secs(5)));
/// # let _ = (builder, handler);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something that a worker can run",
    label = "a task is an `async fn(payload)` or `async fn(payload, JobContext)`, a `Task`, or a `Handler`",
    note = "the payload has to derive `TaskPayload` and `serde::Deserialize`; for others there is `task_fn(\"name\", …)`"
)]
pub trait IntoHandler<Form> {
    /// The form in which a worker holds it.
    fn into_handler(self) -> Handler;
}

/// A function with what it needs, such as a connection pool: see [`handler_with`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task that takes a `{State}`",
    label = "such a task is an `async fn(state, payload)` or `async fn(state, payload, JobContext)`"
)]
pub trait IntoHandlerWith<State, Form> {
    /// The form in which a worker holds it.
    fn into_handler_with(self, state: State) -> Handler;
}

/// The form of a [`Handler`].
#[derive(Debug)]
#[doc(hidden)]
pub enum AsHandler {}

/// The form of a [`Task`].
#[derive(Debug)]
#[doc(hidden)]
pub enum AsTask {}

impl IntoHandler<AsHandler> for Handler {
    fn into_handler(self) -> Handler {
        self
    }
}

impl<T: Task> IntoHandler<AsTask> for T {
    fn into_handler(self) -> Handler {
        self.into()
    }
}

impl<P, F, Fut> IntoHandler<fn(P)> for F
where
    P: TaskPayload + DeserializeOwned + Send + 'static,
    F: Fn(P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoTaskResult> + Send + 'static,
{
    fn into_handler(self) -> Handler {
        task_fn(P::TASK, move |payload: P, _: JobContext| self(payload))
    }
}

impl<P, F, Fut> IntoHandler<fn(P, JobContext)> for F
where
    P: TaskPayload + DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoTaskResult> + Send + 'static,
{
    fn into_handler(self) -> Handler {
        task_fn(P::TASK, self)
    }
}

impl<S, P, F, Fut> IntoHandlerWith<S, fn(S, P)> for F
where
    S: Clone + Send + Sync + 'static,
    P: TaskPayload + DeserializeOwned + Send + 'static,
    F: Fn(S, P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoTaskResult> + Send + 'static,
{
    fn into_handler_with(self, state: S) -> Handler {
        task_fn(P::TASK, move |payload: P, _: JobContext| self(state.clone(), payload))
    }
}

impl<S, P, F, Fut> IntoHandlerWith<S, fn(S, P, JobContext)> for F
where
    S: Clone + Send + Sync + 'static,
    P: TaskPayload + DeserializeOwned + Send + 'static,
    F: Fn(S, P, JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoTaskResult> + Send + 'static,
{
    fn into_handler_with(self, state: S) -> Handler {
        task_fn(P::TASK, move |payload: P, ctx: JobContext| self(state.clone(), payload, ctx))
    }
}

/// Makes a [`Handler`] of a task, whose settings can be changed.
pub fn handler<Form>(task: impl IntoHandler<Form>) -> Handler {
    task.into_handler()
}

/// The same of a function that takes what it needs first: its *state*, which is cloned for each job. So it is cheap to clone, as
/// connection pools and `Arc`s are.
///
/// ```
/// use backfill::{JobContext, TaskPayload, handler_with};
/// use std::sync::Arc;
///
/// #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// struct Greet(String);
///
/// async fn greet(greeting: Arc<str>, Greet(name): Greet, ctx: JobContext) {
///     println!("{greeting} {name}, attempt {}", ctx.job().attempts);
/// }
///
/// let handler = handler_with(Arc::from("hello"), greet).concurrency(2);
/// assert_eq!(handler.name(), "greet");
/// ```
pub fn handler_with<State, Form>(state: State, task: impl IntoHandlerWith<State, Form>) -> Handler {
    task.into_handler_with(state)
}
