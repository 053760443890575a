//! Durable workflows: async functions that survive the crash of their process.
//!
//! Each step of a workflow is recorded in a database. After a crash, at whatever moment, the workflow goes on where it was, in any living process,
//! without anybody's help. The tables are those of DBOS: its clients for Python, TypeScript and Go start, watch and steer these workflows.
//!
//! ```
//! use backfill_workflow::{Ctx, Engine, Failure, Start};
//!
//! async fn order(ctx: Ctx, article: String) -> Result<String, Failure> {
//!     let payment = ctx.step("charge", || async { Ok(format!("paid for {article}")) }).await?;
//!     ctx.step("ship", || async { Ok(()) }).retries(5).await?;
//!     Ok(payment)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Failure> {
//! let mut builder = Engine::builder().url("memory:");
//! let order = builder.register("order", order);
//! let engine = builder.launch().await?;
//!
//! let handle = engine.start(order, &"a book".to_owned(), Start::new().id("order-17")).await?;
//! assert_eq!(handle.result().await?, "paid for a book");
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//!
//! | room | what lives there |
//! | --- | --- |
//! | `engine` | what runs workflows in this process: [`Engine`], [`EngineBuilder`] |
//! | [`ctx`] | what a workflow's code has in its hands: [`Ctx`], its steps, sleeps, messages, events, streams, children |
//! | `client` | starting, watching and steering from anywhere: [`Client`], [`Handle`] |
//! | `workflow`, `options`, `queue` | what is started, and how: [`Workflow`], [`Start`], [`Queue`], [`Schedule`] |
//! | [`store`] | the seam: rows, and nothing of policy; workflows in memory |
//! | `postgres` | workflows in DBOS's schema (feature `postgres`) |
//! | `sqlite` | workflows in a file (feature `sqlite`) |
//! | `codec`, `failure`, `error` | values on the wire, and what goes wrong: [`Failure`], [`Error`] |
//! | [`testing`] | for tests: a clock to move, a crash at any write, a check of changed code against a history |
//!
//! # The words
//!
//! - A *step* is what is recorded; its *number* counts the calls of a workflow's code. The record is a *checkpoint*.
//! - An *execution* is one run of a workflow's code. Its *owner token* is in the row: whoever has another one cannot write (the *fence*).
//! - An *executor* is a process that runs workflows. Its *lease* says until when it is taken to live.
//! - To *recover* is to put the workflows of a dead executor back into their queues; they *replay* what is recorded, and go on.
//!
//! docs/workflows.md teaches all of it, with what is exactly once and what is not.
//!
//! # Features
//!
//! | feature | what it gives |
//! | --- | --- |
//! | `postgres` | workflows in a PostgreSQL database; on by default |
//! | `sqlite` | workflows in an SQLite file; needs a C compiler |
//! | `macros` | the attribute `#[workflow]`, and functions that are collected without a list |
//! | `time-zones` | schedules in time zones other than UTC |

pub mod client;
mod codec;
pub mod ctx;
pub mod engine;
pub mod error;
mod failure;
mod id;
mod open;
mod options;
#[cfg(feature = "postgres")]
pub mod postgres;
mod queue;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod store;
pub mod testing;
mod workflow;

#[cfg(feature = "macros")]
pub use backfill_workflow_macros::workflow;
pub use client::{Client, ForkFrom, Handle, Retention, Schedule, Tick};
pub use codec::{Args, PORTABLE};
#[cfg(feature = "postgres")]
pub use ctx::PgTx;
#[cfg(feature = "sqlite")]
pub use ctx::SqliteTx;
pub use ctx::{Backoff, Child, Ctx, Step};
pub use engine::{Engine, EngineBuilder};
pub use error::{Error, Result};
pub use failure::{Envelope, Failure, WorkflowError};
pub use open::DEFAULT_SCHEMA;
pub use options::{OnDuplicate, Start};
pub use queue::Queue;
pub use store::{Filter, Run, Status};
pub use workflow::Workflow;

/// For what the attribute writes.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::engine::Collected;

    /// What a workflow's function answers.
    pub trait Answer {
        /// When it goes well.
        type Output;
        /// When it does not.
        type Error;
    }

    impl<O, E> Answer for Result<O, E> {
        type Output = O;
        type Error = E;
    }
}

/// The programs of the pages compile.
#[cfg(all(doctest, feature = "postgres", feature = "sqlite"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/workflows.md")]
    struct Workflows;
}

/// What a panic has said.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}
