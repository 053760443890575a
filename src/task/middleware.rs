//! What wraps every task of a worker.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Handler, JobContext, TaskResult};

/// Runs around every job: before the task, after it, or instead of it.
///
/// For what all tasks share: tracing spans, metrics, a check of who asked. What it puts into the context with
/// [`JobContext::with`] the task finds there. A panic in it is a failed attempt like one in the task. The task's timeout
/// covers it too.
///
/// ```
/// use backfill::{JobContext, Middleware, Next, TaskResult};
/// use std::time::Instant;
///
/// struct Timing;
///
/// #[async_trait::async_trait]
/// impl Middleware for Timing {
///     async fn run(&self, ctx: JobContext, next: Next) -> TaskResult {
///         let (task, begin) = (ctx.job().task.clone(), Instant::now());
///         let result = next.run(ctx).await;
///         println!("{task} took {:?}, {}", begin.elapsed(), if result.is_ok() { "well" } else { "badly" });
///         result
///     }
/// }
/// ```
#[async_trait]
pub trait Middleware: Send + Sync + 'static {
    /// Runs a job. `next.run(ctx)` runs what is inside: further middleware, and at last the task.
    async fn run(&self, ctx: JobContext, next: Next) -> TaskResult;
}

/// Makes a middleware of an async closure.
///
/// ```
/// use backfill::middleware_fn;
///
/// let polite = middleware_fn(|ctx, next| async move {
///     println!("please run job {}", ctx.job().id);
///     next.run(ctx).await
/// });
/// # let _ = polite;
/// ```
pub fn middleware_fn<F, Fut>(run: F) -> impl Middleware
where
    F: Fn(JobContext, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = TaskResult> + Send + 'static,
{
    Closure(run)
}

struct Closure<F>(F);

#[async_trait]
impl<F, Fut> Middleware for Closure<F>
where
    F: Fn(JobContext, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = TaskResult> + Send + 'static,
{
    async fn run(&self, ctx: JobContext, next: Next) -> TaskResult {
        (self.0)(ctx, next).await
    }
}

/// The middleware of a worker, the outermost first. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Chain(Arc<[Arc<dyn Middleware>]>);

impl Chain {
    pub(crate) fn new(middleware: Vec<Arc<dyn Middleware>>) -> Self {
        Self(middleware.into())
    }

    pub(crate) fn run(&self, handler: &Arc<Handler>, ctx: JobContext) -> BoxFuture<'static, TaskResult> {
        if self.0.is_empty() {
            return handler.run(ctx);
        }
        Box::pin(Next { chain: self.clone(), place: 0, handler: Arc::clone(handler) }.run(ctx))
    }
}

/// What a [`Middleware`] wraps: further middleware, and at last the task.
pub struct Next {
    chain: Chain,
    place: usize,
    handler: Arc<Handler>,
}

impl Next {
    /// Runs it.
    ///
    /// # Errors
    /// When the attempt failed.
    pub async fn run(mut self, ctx: JobContext) -> TaskResult {
        let Some(middleware) = self.chain.0.get(self.place).cloned() else {
            return self.handler.run(ctx).await;
        };
        self.place += 1;
        middleware.run(ctx, self).await
    }

    /// The name of the task at the end.
    #[must_use]
    pub fn task(&self) -> &str {
        self.handler.name()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} middleware", self.0.len())
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("task", &self.task()).field("place", &self.place).finish_non_exhaustive()
    }
}
