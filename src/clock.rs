//! Whose clock says what time it is.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

/// Whose clock decides when a job is ready.
///
/// Whichever it is: locks, heartbeats and delays after failures are by the storage's clock, because several processes
/// must agree on them; and the crontab is by this process's clock, as with Node.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>>);

impl Clock {
    /// The storage's: that of the PostgreSQL server, or this machine's for a file or memory. The default.
    #[must_use]
    pub fn storage() -> Self {
        Self(None)
    }

    /// This process's own (Node's `useNodeTime`).
    #[must_use]
    pub fn application() -> Self {
        Self::custom(Utc::now)
    }

    /// A clock of your own, such as one that a test moves.
    #[must_use]
    pub fn custom(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// The time to hand to the storage, or `None` if it should use its own.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.0.as_ref().map(|now| now())
    }

    /// The time in this process.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.time().unwrap_or_else(Utc::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(application)" } else { "Clock(storage)" })
    }
}
