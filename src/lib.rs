//! A job queue on PostgreSQL, where it shares its schema with Node's graphile-worker, in an SQLite file, or in Redis.
//!
//! Web handlers add jobs in their own transaction; a worker runs them; a Node fleet and a Rust fleet can work on one
//! schema at once.
//!
//! ```no_run
//! use backfill::{TaskPayload, Worker};
//!
//! #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
//! struct SendInvoice {
//!     order: u64,
//! }
//!
//! async fn send_invoice(job: SendInvoice) -> Result<(), std::io::Error> {
//!     println!("the invoice for order {} is sent", job.order);
//!     Ok(())
//! }
//!
//! # async fn example() -> backfill::Result<()> {
//! let jobs = backfill::connect("postgres://user:password@localhost/app").await?;
//! jobs.add(SendInvoice { order: 17 }).await?;
//!
//! jobs.worker().task(send_invoice).run().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//!
//! A job travels `client → storage → worker → storage`.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`job`] | the words everybody shares: [`Job`], [`JobSpec`], [`JobKeyMode`], [`Priority`], [`Queue`], limits |
//! | [`task`] | what a user implements: [`Task`], [`JobContext`], what it may answer, [`RetryPolicy`] |
//! | [`storage`] | where jobs are kept, by a URL: PostgreSQL, a file (feature `sqlite`), Redis (feature `redis`), memory; the [`Storage`](storage::Storage) trait |
//! | [`client`] | adding jobs, and managing them: [`BackfillClient`] |
//! | [`worker`] | running jobs: [`Worker`] |
//! | [`search`] | finding jobs: one grammar for programs, the binary and the page |
//! | [`explain`] | why a job does not run |
//! | [`moving`] | moving waiting jobs from one storage to another |
//! | `messages` | a durable queue for programs: leases, events, both or neither (feature `messages`) |
//! | [`cron`] | crontab text, schedules, and the scheduler that adds what is due |
//! | `testing` | the test kit: what was added, tasks alone, time, faults (feature `testing`) |
//! | [`error`] | the one [`Error`] type |
//!
//! # Features
//!
//! | feature | what it gives |
//! | --- | --- |
//! | `postgres` | jobs in a PostgreSQL schema (`postgres://user@host/database`); on by default |
//! | `sqlite` | jobs in an SQLite file (`sqlite://jobs.db`); needs a C compiler |
//! | `redis` | jobs in Redis or Valkey (`redis://localhost`) |
//! | `messages` | a durable queue for programs, with leases and events: `backfill::messages` |
//! | `testing` | the test kit, for the tests of programs: `backfill::testing` |
//! | `time-zones` | schedules in time zones other than UTC |
//! | `tls-rustls` | TLS to PostgreSQL and Redis by rustls; on by default |
//! | `contract` | the cases that every storage must pass, for authors of storages |
//!
//! ARCHITECTURE.md follows a job through the rooms; DATABASE.md is about the schema and its permissions.

mod backends;
pub mod client;
mod clock;
pub mod cron;
pub mod explain;
#[cfg(feature = "messages")]
pub mod messages;
pub mod moving;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod storage;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod worker;

#[doc(hidden)]
pub use backfill_core::job::__Serialize;
pub use backfill_core::{error, job, search};
#[doc(hidden)]
pub use backfill_core::{nearest, text};
/// Derives [`TaskPayload`](trait@TaskPayload) for a payload's type.
pub use backfill_macros::TaskPayload;
/// The versions that this crate's interface speaks of, for programs that have no wish of their own.
#[cfg(feature = "redis")]
pub use backfill_redis as redis;
#[cfg(feature = "sqlite")]
pub use backfill_sqlite as sqlite;
pub use client::{BackfillClient, BackfillClientBuilder};
pub use clock::Clock;
pub use cron::{CronEntry, Crontab};
pub use error::{Error, Result};
pub use job::{Job, JobId, JobKeyMode, JobSpec, JobState, Payload, Priority, Queue, RunAt, TaskPayload};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use sqlx;
pub use storage::{
    Cleaned, Cleanup, Counts, JobFilter, KnownCrontab, Migrated, QueueInfo, Reschedule, TaskInfo, WorkerInfo,
};
pub use task::{
    Answer, Handler, IntoHandler, IntoTaskResult, JobContext, Middleware, Next, RetryPolicy, Task, TaskError,
    TaskResult, handler, handler_with, middleware_fn, task_fn,
};
pub use worker::{Event, EventStream, Prefetch, ShutdownHandle, Summary, Worker, WorkerBuilder};
pub use {chrono, serde_json};

#[cfg(feature = "contract")]
pub use backfill_core::{
    storage_contract_tests, storage_message_process_tests, storage_message_tests, storage_process_tests,
};

/// Opens the queue that this URL means: `postgres://user@host/database`, `sqlite://jobs.db` (with the feature `sqlite`),
/// `redis://localhost` (with the feature `redis`) or `memory:`.
///
/// It goes to the network, and to the disk: it connects, waits for up to 30 seconds for a server that is starting, and makes or upgrades the
/// tables of the queue, which needs the right to create them. [`BackfillClient::builder`] has what can be set, such as another schema
/// or no migration.
///
/// # Errors
/// When the URL is wrong, the server cannot be reached or does not let this program in, or the tables cannot be made.
pub async fn connect(url: &str) -> Result<BackfillClient> {
    BackfillClient::new(url).await
}

/// The programs of the READMEs and of the guides compile.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../crates/backfill-core/README.md")]
    struct CoreReadme;
    #[doc = include_str!("../crates/backfill-macros/README.md")]
    struct MacrosReadme;
    #[cfg(feature = "sqlite")]
    #[doc = include_str!("../crates/backfill-sqlite/README.md")]
    struct SqliteReadme;
    #[doc = include_str!("../docs/guides/cron.md")]
    struct Cron;
    #[doc = include_str!("../docs/guides/deploying.md")]
    struct Deploying;
    #[doc = include_str!("../docs/guides/first-job.md")]
    struct FirstJob;
    #[cfg(feature = "messages")]
    #[doc = include_str!("../docs/guides/messages.md")]
    struct Messages;
    #[doc = include_str!("../docs/guides/operating.md")]
    struct Operating;
    #[doc = include_str!("../docs/guides/poolers.md")]
    struct Poolers;
    #[doc = include_str!("../docs/guides/retries.md")]
    struct Retries;
    #[doc = include_str!("../docs/guides/serial-queues.md")]
    struct SerialQueues;
    #[doc = include_str!("../docs/guides/testing.md")]
    struct Testing;
    #[doc = include_str!("../docs/guides/unique-jobs.md")]
    struct UniqueJobs;
    #[doc = include_str!("../docs/guides/upgrading.md")]
    struct Upgrading;
    #[doc = include_str!("../docs/guides/web-handler.md")]
    struct WebHandler;
}
