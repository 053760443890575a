//! Who waits for what, in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::store::Change;

/// Wakes those who wait for a change, by the change's name. A wakeup says that something may have happened; whoever waits looks.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    waiting: Mutex<HashMap<Change, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    notify: Arc<Notify>,
    count: usize,
}

/// One who waits. It is forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    hub: Arc<Hub>,
    change: Change,
    notify: Arc<Notify>,
}

impl Hub {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Change, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait. What happens from now on is heard by [`Waiter::heard`] if that was enabled before the look.
    pub(crate) fn wait(self: &Arc<Self>, change: Change) -> Waiter {
        let mut waiting = self.waiting();
        let entry = waiting.entry(change.clone()).or_default();
        entry.count += 1;
        let notify = Arc::clone(&entry.notify);
        drop(waiting);
        Waiter { hub: Arc::clone(self), change, notify }
    }

    /// Wakes those who wait for this.
    pub(crate) fn wake(&self, change: &Change) {
        if *change == Change::Anything {
            for entry in self.waiting().values() {
                entry.notify.notify_waiters();
            }
        } else if let Some(entry) = self.waiting().get(change) {
            entry.notify.notify_waiters();
        }
    }
}

impl Waiter {
    /// Ends with the next wakeup. Enable it before you look, so that none is lost between the look and the wait.
    pub(crate) fn heard(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.hub.waiting();
        if let Some(entry) = waiting.get_mut(&self.change) {
            entry.count -= 1;
            if entry.count == 0 {
                waiting.remove(&self.change);
            }
        }
    }
}
