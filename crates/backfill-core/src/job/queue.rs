//! Queues: whether a job may run beside others, or only after them (FIFO groups).

use std::fmt;

/// Where a job waits.
///
/// A *serial* queue runs one job at a time, in order of priority and time, across every worker of either
/// language. Jobs without a queue run in parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Queue {
    /// No queue: runs as soon as a worker has a free slot. The default.
    #[default]
    Parallel,
    /// The serial queue of this name.
    Serial(String),
}

impl Queue {
    /// The serial queue of this name.
    pub fn serial(name: impl Into<String>) -> Self {
        Self::Serial(name.into())
    }

    /// The serial queue of one thing: `serial_for("account", 7)` is the queue `account:7`.
    pub fn serial_for(entity: impl fmt::Display, id: impl fmt::Display) -> Self {
        Self::Serial(format!("{entity}:{id}"))
    }

    /// The queue's name, if it is serial.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Parallel => None,
            Self::Serial(name) => Some(name),
        }
    }
}
