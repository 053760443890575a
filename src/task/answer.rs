//! What a task may answer.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::job::RunAt;

/// What a task's future ends with.
pub type TaskResult = Result<Answer, TaskError>;

/// How a job that did not fail ended. See the table in the [module's documentation](crate::task).
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Answer {
    /// The job is done and will be deleted.
    #[default]
    Done,
    /// The job should run again at this time, and this attempt is not counted.
    Snooze(RunAt),
    /// One result for each item of an array payload, in order.
    Items(Vec<Result<(), TaskError>>),
}

impl Answer {
    /// Run again after this long (or at this time), without using up an attempt.
    pub fn snooze(when: impl Into<RunAt>) -> Self {
        Self::Snooze(when.into())
    }

    /// One result for each item of an array payload, in order.
    ///
    /// When some failed, the job keeps just those items and is tried again as after any failed attempt; all its
    /// items share its attempts. A list of another length than the payload's is a failed attempt that keeps
    /// every item, since nobody can tell which were done.
    pub fn items<E: Into<TaskError>>(results: impl IntoIterator<Item = Result<(), E>>) -> Self {
        Self::Items(results.into_iter().map(|result| result.map_err(Into::into)).collect())
    }
}

impl From<()> for Answer {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// Why an attempt failed, and what should follow.
///
/// Any error converts into it (and `String`, `&str`, `anyhow::Error`), so `?` works in a task:
///
/// ```
/// use backfill::TaskError;
/// use std::time::Duration;
///
/// async fn charge(card: &str) -> Result<(), TaskError> {
///     let limit: u32 = std::fs::read_to_string("limit")?.trim().parse()?;
///     if card.is_empty() {
///         return Err(TaskError::new("no card").permanent());
///     }
///     if limit == 0 {
///         return Err(TaskError::new("the provider is closed").retry_in(Duration::from_secs(3600)));
///     }
///     Ok(())
/// }
/// ```
///
/// It is no `std::error::Error` itself: that is what lets every error convert into it.
pub struct TaskError {
    message: String,
    next: Sequel,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sequel {
    /// The task's retry policy decides.
    Policy,
    /// The task has said when.
    Retry(RunAt),
    /// Never again.
    Dead,
}

impl TaskError {
    /// A failed attempt with this text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), next: Sequel::Policy }
    }

    /// Try again at this time instead of when the retry policy says.
    #[must_use]
    pub fn retry_at(mut self, time: DateTime<Utc>) -> Self {
        self.next = Sequel::Retry(RunAt::Time(time));
        self
    }

    /// Try again after this long instead of when the retry policy says.
    #[must_use]
    pub fn retry_in(mut self, delay: Duration) -> Self {
        self.next = Sequel::Retry(RunAt::In(delay));
        self
    }

    /// Do not try again: the job is dead at once.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.next = Sequel::Dead;
        self
    }

    /// The text that becomes the job's `last_error`.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_parts(self) -> (String, Sequel) {
        (self.message, self.next)
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::new(with_sources(&*error.into()))
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError").field("message", &self.message).field("next", &self.next).finish()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error's text followed by those of its causes, leaving out what a text already says.
fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// What the closure of [`task_fn`](crate::task_fn) may return: `()`, [`Answer`], or a `Result` of either with any error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something a task can answer",
    label = "a task's closure returns `()`, `Answer`, or `Result<() or Answer, E>`",
    note = "E may be `TaskError`, any `std::error::Error + Send + Sync + 'static`, `String`, `&str` or `anyhow::Error`"
)]
pub trait IntoTaskResult: Send {
    /// The answer, or why the attempt failed.
    ///
    /// # Errors
    /// When the attempt failed.
    fn into_task_result(self) -> TaskResult;
}

impl IntoTaskResult for () {
    fn into_task_result(self) -> TaskResult {
        Ok(Answer::Done)
    }
}

impl IntoTaskResult for Answer {
    fn into_task_result(self) -> TaskResult {
        Ok(self)
    }
}

impl<A: Into<Answer> + Send, E: Into<TaskError> + Send> IntoTaskResult for Result<A, E> {
    fn into_task_result(self) -> TaskResult {
        self.map(Into::into).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer says {0}")]
    struct Repeats(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once() {
        let error = TaskError::from(Outer(std::io::Error::other("inner")));
        assert_eq!(error.message(), "outer: inner");
        let error = TaskError::from(Repeats(std::io::Error::other("inner")));
        assert_eq!(error.message(), "outer says inner");
    }

    #[test]
    fn plain_strings_and_boxed_errors_convert() {
        assert_eq!(TaskError::from("text").message(), "text");
        let boxed: Box<dyn StdError + Send + Sync> = "boxed".into();
        assert_eq!(TaskError::from(boxed).message(), "boxed");
    }
}
