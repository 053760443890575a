//! The words of the job queue `backfill`, and the seam behind which its jobs are kept.
//!
//! Programs use the crate `backfill`, which has all of this under the same names. This one is for authors of storages: it
//! brings no database driver.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`job`] | the words everybody shares: [`Job`](job::Job), [`JobSpec`](job::JobSpec), keys, priorities, queues, limits |
//! | [`storage`] | the seam: the [`Storage`](storage::Storage) trait, the types of its verbs, the contract, and jobs in memory |
//! | [`search`] | searching jobs: one grammar for all who look |
//! | [`error`] | the one [`Error`] type |

pub mod error;
pub mod job;
mod json;
#[doc(hidden)]
pub mod nearest;
pub mod search;
pub mod storage;
#[doc(hidden)]
pub mod text;

pub use error::{CrontabProblem, Error, Result};
