#![doc = "x"]
pub mod error;
pub mod job;
pub mod storage;
pub mod task;
pub mod client;
pub mod worker;
pub use error::{Error, Result};
pub use job::*;
pub use task::*;
