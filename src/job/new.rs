//! A job that has passed the checks and is about to be stored.

use super::{JobKeyMode, Payload, Priority, RunAt};

/// A checked job: what a [`JobSpec`](super::JobSpec) becomes before a storage sees it.
///
/// Every value is inside the limits of [`limits`](super::limits), and no two jobs of one batch share a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewJob {
    /// The task's name.
    pub task: String,
    /// Its JSON text.
    pub payload: Payload,
    /// Its serial queue, if any.
    pub queue: Option<String>,
    /// Not before this time; `None` is now.
    pub run_at: Option<RunAt>,
    /// From 1.
    pub max_attempts: i16,
    /// Its key, if any.
    pub key: Option<String>,
    /// What to do when the key is taken.
    pub key_mode: JobKeyMode,
    /// Smaller runs sooner.
    pub priority: Priority,
    /// Sorted, each once.
    pub flags: Vec<String>,
}
