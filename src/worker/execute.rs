//! Running one job, whatever comes of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::OptionFuture;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::job::{Job, RunAt};
use crate::storage::Outcome;
use crate::task::{Answer, Chain, Handler, JobContext, RetryPolicy, Sequel, TaskError, TaskResult, settle_items};

/// Runs a job to its outcome. A panic is a failed attempt; when `dropped` fires, the job's future is dropped. That, and an error
/// after `ending` has asked the job to end, is the worker's doing, and no failure; but a job that says itself what is to follow
/// is taken at its word.
///
/// What is dropped sees its context cancelled first.
///
/// There is one of these futures for each job, so it is kept small: what few jobs need is in a box.
pub(crate) async fn execute(
    chain: &Chain,
    handler: &Arc<Handler>,
    job: &Job,
    ctx: JobContext,
    ending: &CancellationToken,
    dropped: &CancellationToken,
) -> Outcome {
    if job.payload.is_damaged() {
        let error = "the payload is not valid UTF-8, so the task was not started; repair or delete the row";
        return failed(job, handler.retry_policy(), TaskError::new(error));
    }
    let span = tracing::info_span!("job", id = %job.id, task = %job.task, attempt = job.attempts);
    let too_long = handler.time_limit().map(|limit| {
        let cancellation = ctx.cancellation_token().clone();
        Box::pin(async move {
            tokio::time::sleep(limit).await;
            cancellation.cancel();
            limit
        })
    });
    // Built inside the guard too: a task may panic before its future exists.
    let run = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| chain.run(handler, ctx))));
    let result = async {
        tokio::select! {
            biased;
            result = AssertUnwindSafe(run?).catch_unwind() => result.map(|result| Some((result, ending.is_cancelled()))),
            () = dropped.cancelled() => Ok(None),
            Some(limit) = OptionFuture::from(too_long) => {
                Ok(Some((Err(TaskError::new(format!("the job ran longer than its timeout of {limit:?}"))), false)))
            }
        }
    }
    .instrument(span)
    .await;
    match result {
        Ok(Some((result, asked_to_end))) => outcome(job, handler.retry_policy(), result, asked_to_end),
        Ok(None) => Outcome::interrupted(""),
        Err(panic) => failed(job, handler.retry_policy(), TaskError::new(panic_text(&*panic))),
    }
}

/// What a failed attempt of this job leads to when the task itself cannot say.
pub(super) fn failed(job: &Job, policy: &RetryPolicy, error: TaskError) -> Outcome {
    outcome(job, policy, Err(error), false)
}

fn outcome(job: &Job, policy: &RetryPolicy, result: TaskResult, asked_to_end: bool) -> Outcome {
    let (error, payload) = match result {
        Ok(Answer::Done) => return Outcome::completed(),
        Ok(Answer::Snooze(until)) => return Outcome::snoozed(until),
        Ok(Answer::Items(items)) => match settle_items(&job.payload, items) {
            Ok(()) => return Outcome::completed(),
            Err(failure) => failure,
        },
        Err(error) => (error, None),
    };
    let (error, next) = error.into_parts();
    let retry = match next {
        Sequel::Dead => return Outcome::dead(error),
        Sequel::Retry(when) => when,
        Sequel::Policy if asked_to_end => return Outcome::interrupted(&error).left(payload),
        Sequel::Policy => RunAt::In(delay(policy, job.attempts)),
    };
    Outcome::failed(error, retry).left(payload)
}

/// A policy may be a user's closure, and may panic.
fn delay(policy: &RetryPolicy, attempts: i16) -> Duration {
    let attempt = u32::try_from(attempts).unwrap_or(1);
    catch_unwind(AssertUnwindSafe(|| policy.delay(attempt))).unwrap_or_else(|_| RetryPolicy::default().delay(attempt))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(|| "the task panicked".to_owned(), |text| format!("the task panicked: {text}"))
}
