//! What tells a worker to look for jobs.

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

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

impl Wakeup {
    /// The wakeups of a storage that one process uses: of a number of jobs that were made ready so far, which only grows.
    #[must_use]
    pub fn by_count(ready: watch::Receiver<u64>) -> BoxStream<'static, Self> {
        let added = stream::unfold((ready, 0), |(mut ready, told)| async move {
            let total = *ready.wait_for(|total| *total != told).await.ok()?;
            Some((Self::JobsAdded(total.wrapping_sub(told)), (ready, total)))
        });
        // When every handle of the storage is gone nothing can be added, but the stream does not end.
        stream::iter([Self::Listening]).chain(added).chain(stream::pending()).boxed()
    }
}
