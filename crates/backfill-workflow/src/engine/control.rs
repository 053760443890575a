//! What a running workflow must hear: that it was cancelled, or belongs to somebody else.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const LOST: u8 = 2;

/// One signal for cancellation, deadlines and lost ownership. It goes one way: whatever was said first holds.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: AtomicU8,
    changed: Notify,
}

impl Control {
    /// The workflow was cancelled, or its time is up.
    pub(crate) fn cancel(&self) {
        self.say(CANCELLED);
    }

    /// Somebody else runs the workflow, or it has ended, or the engine closes.
    pub(crate) fn lose(&self) {
        self.say(LOST);
    }

    fn say(&self, state: u8) {
        let _ = self.state.compare_exchange(RUNNING, state, Ordering::AcqRel, Ordering::Acquire);
        if state == LOST {
            self.state.store(LOST, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST
    }

    /// Ends when the workflow is not to go on.
    pub(crate) async fn interrupted(&self) {
        self.until(|state| state != RUNNING).await;
    }

    /// Ends when the workflow is somebody else's.
    pub(crate) async fn lost(&self) {
        self.until(|state| state == LOST).await;
    }

    async fn until(&self, is: impl Fn(u8) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is(self.state.load(Ordering::Acquire)) {
                return;
            }
            changed.await;
        }
    }
}
