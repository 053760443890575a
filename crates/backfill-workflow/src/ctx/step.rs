//! Steps.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ctx, INSIDE, clock, replay, row};
use crate::codec;
use crate::engine::run::Execution;
use crate::error::Error;
use crate::failure::Failure;

/// How long a step waits between its tries: `first × factor^n`, `longest` at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Before the second try.
    pub first: Duration,
    /// How much longer each wait is than the one before.
    pub factor: f64,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Backoff {
    /// 100 ms, twice as long each time, five seconds at most.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), factor: 2.0, longest: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// The same wait each time.
    #[must_use]
    pub fn constant(wait: Duration) -> Self {
        Self { first: wait, factor: 1.0, longest: wait }
    }

    /// The wait before the try that follows so many.
    #[must_use]
    pub fn wait(&self, tries: u32) -> Duration {
        let exponent = i32::try_from(tries.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.longest).min(self.longest)
    }
}

type Work<'a, T> = Box<dyn FnMut() -> BoxFuture<'a, Result<T, Failure>> + Send + 'a>;
type RetryIf = dyn Fn(&Failure) -> bool + Send + Sync;

/// A step: its code, and how often it is tried. It has its number from the call of [`Ctx::step`] on, and does its work when it is awaited.
///
/// Dropped before its end, it leaves no record, and a restarted workflow does it anew; but if it was being recorded at that moment, it may be
/// recorded all the same.
#[must_use = "a step does nothing until it is awaited"]
pub struct Step<'a, T> {
    state: State<'a, T>,
}

enum State<'a, T> {
    Waiting(Option<Plan<'a, T>>),
    Running(BoxFuture<'a, Result<T, Failure>>),
}

struct Plan<'a, T> {
    execution: Arc<Execution>,
    /// `None` inside another step, of which this one is a part.
    number: Option<i32>,
    name: Cow<'static, str>,
    work: Work<'a, T>,
    retries: u32,
    backoff: Backoff,
    retry_if: Option<Box<RetryIf>>,
    timeout: Option<Duration>,
    /// Why it cannot be done.
    problem: Option<Error>,
}

impl Ctx {
    /// A step: code with effects on the world, whose result is recorded. A restarted workflow has the recorded result instead of doing it
    /// again, whether it was an answer or a failure.
    ///
    /// The code runs at least once: if the process dies between the effect and its record, it runs again. Give what it calls an idempotency
    /// key (such as [`Ctx::id`] with the step's name), or use [`Ctx::tx`] for effects in the same database.
    ///
    /// Its name is recorded, too; names that begin with `DBOS.` are refused. A step inside a step is a part of it and has no record of its own.
    pub fn step<'a, T, F, Fut>(&self, name: impl Into<Cow<'static, str>>, mut work: F) -> Step<'a, T>
    where
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, Failure>> + Send + 'a,
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let name = name.into();
        let problem = if name.starts_with("DBOS.") {
            Some(Error::invalid("the step's name", &name, "begins with DBOS., which is for the engine's own steps"))
        } else {
            crate::options::text("the step's name", &name).err()
        };
        self.named_step(name, problem, Box::new(move || work().boxed()))
    }

    /// A step under any name, with the engine's own among them.
    pub(super) fn named_step<'a, T>(
        &self,
        name: impl Into<Cow<'static, str>>,
        problem: Option<Error>,
        work: Work<'a, T>,
    ) -> Step<'a, T> {
        let number = self.inside().is_none().then(|| self.execution.take_numbers(1));
        let plan = Plan {
            execution: Arc::clone(&self.execution),
            number,
            name: name.into(),
            work,
            retries: 0,
            backoff: Backoff::default(),
            retry_if: None,
            timeout: None,
            problem,
        };
        Step { state: State::Waiting(Some(plan)) }
    }
}

impl<T> Step<'_, T> {
    fn plan(mut self, change: impl FnOnce(&mut Plan<'_, T>)) -> Self {
        if let State::Waiting(Some(plan)) = &mut self.state {
            change(plan);
        }
        self
    }

    /// How often it is tried again after a failure: not at all by default.
    pub fn retries(self, retries: u32) -> Self {
        self.plan(|plan| plan.retries = retries)
    }

    /// How long it waits between its tries: [`Backoff::default`] if nothing is said.
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.plan(|plan| plan.backoff = backoff)
    }

    /// Which failures are worth another try: all of them by default.
    pub fn retry_if(self, worth: impl Fn(&Failure) -> bool + Send + Sync + 'static) -> Self {
        self.plan(|plan| plan.retry_if = Some(Box::new(worth)))
    }

    /// How long each try may take. One that takes longer is dropped and has failed with [`Error::StepTimeout`].
    pub fn timeout(self, limit: Duration) -> Self {
        self.plan(|plan| plan.timeout = Some(limit))
    }
}

impl<'a, T: Serialize + DeserializeOwned + Send + 'a> Future for Step<'a, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Running(work) => return work.as_mut().poll(context),
                State::Waiting(plan) => match plan.take() {
                    Some(plan) => self.state = State::Running(plan.run().boxed()),
                    // A future that has ended is not polled again.
                    None => return Poll::Pending,
                },
            }
        }
    }
}

// The work is behind a box, and is never moved out of it.
impl<T> Unpin for Step<'_, T> {}

impl<'a, T: Serialize + DeserializeOwned + Send + 'a> Plan<'a, T> {
    async fn run(mut self) -> Result<T, Failure> {
        if let Some(problem) = self.problem {
            return Err(problem.into());
        }
        let Some(number) = self.number else { return self.attempts().await };
        let execution = Arc::clone(&self.execution);
        execution.gate().await?;
        if let Some(row) = execution.replayed(number, &self.name)? {
            return replay(row);
        }
        let started_at = clock();
        let inside = (Arc::clone(&execution.id), self.name.to_string());
        let result = execution.interruptible(INSIDE.scope(inside, self.attempts())).await?;
        let mut step = row(number, &self.name, started_at);
        match &result {
            Ok(value) => {
                let what = format!("the output of the step {:?}", self.name);
                match codec::encode(&what, value) {
                    Ok(text) => step.output = Some(text),
                    Err(error) => {
                        let failure = Failure::from(error);
                        step.error = Some(codec::encode_error(failure.envelope()));
                        execution.write(step, None).await?;
                        return Err(failure);
                    }
                }
            }
            Err(failure) => step.error = Some(codec::encode_error(failure.envelope())),
        }
        execution.write(step, None).await?;
        result
    }

    /// Tries until it succeeds, or no try is left.
    async fn attempts(&mut self) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let worth = self.retry_if.as_ref().is_none_or(|worth| worth(&failure));
            if tries > self.retries || !worth {
                return Err(failure);
            }
            let wait = self.backoff.wait(tries);
            tracing::warn!(step = &*self.name, tries, wait_ms = wait.as_millis(), %failure, "a step failed, and is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self) -> Result<T, Failure> {
        // A panic in the closure itself, before its future, is one of the step's, too.
        let work = std::panic::catch_unwind(AssertUnwindSafe(|| (self.work)()));
        let work = async move {
            match work {
                Ok(work) => AssertUnwindSafe(work).catch_unwind().await,
                Err(panic) => Err(panic),
            }
        };
        let ended = match self.timeout {
            None => work.await,
            Some(limit) => match tokio::time::timeout(limit, work).await {
                Ok(ended) => ended,
                Err(_) => return Err(Error::StepTimeout { step: self.name.to_string(), limit }.into()),
            },
        };
        ended.unwrap_or_else(|panic| Err(Failure::new("Panic", crate::panic_message(&*panic))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest() {
        let backoff = Backoff::default();
        let waits: Vec<u128> = (1..=8).map(|tries| backoff.wait(tries).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.wait(u32::MAX), Duration::from_secs(5));
        assert_eq!(Backoff::constant(Duration::from_secs(1)).wait(9), Duration::from_secs(1));
    }
}
