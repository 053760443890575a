//! What tells a worker to look for jobs.

use super::Handoff;

/// A reason to claim, or to stop; or a job without claiming.
#[derive(Clone, Debug, PartialEq)]
pub enum Wakeup {
    /// About this many jobs were added.
    JobsAdded(u64),
    /// A job was handed off, to the worker that hears this.
    HandedOff(Box<Handoff>),
    /// Wakeups are being delivered from now on; some may have been missed before, so look once.
    Listening,
    /// Wakeups are not delivered at present; polling has to do. The stream tries to reconnect.
    ListenerLost {
        /// Why.
        reason: String,
    },
    /// The storage was migrated to a breaking version that this crate does not know: stop.
    BreakingMigration {
        /// The version.
        revision: i32,
        /// The highest version that is known.
        supported: i32,
    },
}
