//! For tests of workflows.
//!
//! - [`MemoryStore::with_still_clock`](crate::store::MemoryStore::with_still_clock) is a storage whose clock the test moves: a sleep of a week is over when
//!   the test says so.
//! - [`Crash`] lets the process die at a write of your choice, as far as the storage can tell.
//! - [`check`] runs today's code against a recorded history, and names the first difference.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use backfill_workflow::store::MemoryStore;
//! use backfill_workflow::{Ctx, Engine, Failure, Start};
//!
//! async fn reminder(ctx: Ctx, (): ()) -> Result<String, Failure> {
//!     ctx.sleep(Duration::from_secs(7 * 24 * 3600)).await?;
//!     Ok("it is time".to_owned())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Failure> {
//! let store = MemoryStore::with_still_clock();
//! let mut builder = Engine::builder().store(Arc::new(store.clone()));
//! let reminder = builder.register("reminder", reminder);
//! let engine = builder.launch().await?;
//!
//! let handle = engine.start(reminder, &(), Start::new()).await?;
//! while engine.steps(handle.id()).await?.is_empty() {
//!     tokio::task::yield_now().await;
//! }
//! store.advance(Duration::from_secs(7 * 24 * 3600));
//! assert_eq!(handle.result().await?, "it is time");
//! # Ok(())
//! # }
//! ```

mod check;
mod crash;

pub use self::check::{Difference, check};
pub use self::crash::{Crash, Write};
