//! Workflows: a name with the types of what goes in and comes out.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::ctx::Ctx;
use crate::engine::run::Body;
use crate::failure::{Failure, WorkflowError};

/// A workflow: its name, with the types of its input, its output and its error.
///
/// Registering a function gives one; [`Workflow::named`] gives one to a program that does not have the function. It is only a name, so it
/// may be copied, kept in a constant, and used with any [`Client`](crate::Client).
pub struct Workflow<I, O, E = Failure> {
    name: &'static str,
    types: PhantomData<fn(I) -> Result<O, E>>,
}

impl<I, O, E> Workflow<I, O, E> {
    /// The workflow of this name. Nothing checks that its types are those of the function that runs it: what cannot be read is an error
    /// there.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<I, O, E> Clone for Workflow<I, O, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O, E> Copy for Workflow<I, O, E> {}

impl<I, O, E> fmt::Debug for Workflow<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({:?})", self.name)
    }
}

type Begin = dyn Fn(Ctx, Option<&str>, Option<&str>) -> Body + Send + Sync;

/// How often a workflow may be begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempts(pub(crate) Option<u32>);

/// A workflow's function, without its types.
pub(crate) struct Registered {
    pub(crate) name: &'static str,
    pub(crate) begin: Arc<Begin>,
    /// How often it may be begun again, if the engine does not say it.
    pub(crate) max_attempts: Option<Attempts>,
}

impl Registered {
    pub(crate) fn new<F, Fut, I, O, E>(name: &'static str, function: F) -> Self
    where
        F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        E: WorkflowError,
    {
        let begin = move |ctx: Ctx, input: Option<&str>, format: Option<&str>| -> Body {
            match codec::decode_input::<I>(input, format) {
                Err(error) => Box::pin(async move { Err(Failure::from(error).envelope().clone()) }),
                Ok(input) => {
                    let work = function(ctx, input);
                    Box::pin(async move {
                        match work.await {
                            Ok(output) => codec::encode("the workflow's output", &output)
                                .map_err(|error| Failure::from(error).envelope().clone()),
                            Err(error) => Err(Failure::record(&error)),
                        }
                    })
                }
            }
        };
        Self { name, begin: Arc::new(begin), max_attempts: None }
    }
}
