//! Where jobs are kept: the seam, and what is behind it.
//!
//! The seam itself, with the words for it, is the crate `backfill-core`, whose `storage` is here too; storages of further
//! kinds are crates of their own, which use that one.

mod guarded_calls;

pub use crate::backends::{AnyStorage, Backend, OpenOptions, make_ready, open};
pub use backfill_core::storage::*;

pub(crate) use guarded_calls::{GuardedCalls, is_unanswered};
