//! For how long others take a worker for alive.
//!
//! A process may be stopped at any moment (by a debugger, a hypervisor, a machine that sleeps) and go on as if nothing had
//! happened. Meanwhile others may have declared it dead and have run what it had claimed. So a job is started only while the
//! *lease* of the identity that claimed it lasts: as long since its last answered heartbeat as others wait before they declare a
//! worker dead, and no longer than until it is known that they did.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// When a heartbeat was sent, by both clocks (one stands still while a machine sleeps).
pub(super) type Sent = (Instant, SystemTime);

pub(super) fn sent_now() -> Sent {
    (Instant::now(), SystemTime::now())
}

/// The lease of one identity.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    length: Duration,
    /// The last heartbeat; `None` when the lease has ended for good.
    last: Arc<Mutex<Option<Sent>>>,
}

impl Lease {
    /// Begins with the first heartbeat.
    pub(super) fn new(length: Duration, sent: Sent) -> Self {
        Self { length, last: Arc::new(Mutex::new(Some(sent))) }
    }

    /// A heartbeat was answered that was sent at this moment, and the identity is known.
    pub(super) fn extend(&self, sent: Sent) {
        if let Some(last) = self.last.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *last = sent;
        }
    }

    /// The identity was declared dead.
    pub(super) fn end(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over_for().is_some()
    }

    /// For how long it has been over, if it is. One that has ended for good ends anew at each moment: another identity is on its way.
    pub(super) fn over_for(&self) -> Option<Duration> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, by_wall)) = last else { return Some(Duration::ZERO) };
        let quiet = last.elapsed().max(by_wall.elapsed().unwrap_or_default());
        quiet.checked_sub(self.length).filter(|over| !over.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_from_heartbeat_to_heartbeat_and_never_comes_back() {
        let lease = Lease::new(Duration::from_secs(15), sent_now());
        tokio::time::advance(Duration::from_secs(14)).await;
        lease.extend(sent_now());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!lease.is_over());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(lease.over_for().map(|over| over.as_secs()), Some(1), "after a pause");
        lease.extend(sent_now());
        assert!(!lease.is_over(), "nobody noticed the pause");
        lease.clone().end();
        lease.extend(sent_now());
        assert!(lease.is_over());
    }
}
