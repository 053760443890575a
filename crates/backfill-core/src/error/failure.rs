//! What kind of failure a storage met.

use std::sync::Arc;

/// What a storage's driver said, shared where one call served several callers.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// What kind of failure a storage met. It decides whether the call is tried again, and whether it may have been done.
///
/// | kind | done? | may it pass by itself? | did the storage answer? |
/// | --- | --- | --- | --- |
/// | [`Unreachable`](Self::Unreachable) | unknown | yes | no |
/// | [`Unavailable`](Self::Unavailable) | unknown | yes | yes |
/// | [`TimedOut`](Self::TimedOut) | no | yes, or in smaller pieces | yes |
/// | [`Conflict`](Self::Conflict) | no | yes | yes |
/// | [`Refused`](Self::Refused) | no | no | yes |
/// | [`Invalid`](Self::Invalid) | unknown | no | no |
/// | [`Internal`](Self::Internal) | unknown | yes | yes |
/// | [`Unknown`](Self::Unknown) | unknown | yes | no |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The storage was not there to be asked, as when the network is down; or it went away before it answered.
    Unreachable,
    /// The storage answered that it cannot be asked now: it is starting, or stopping, or has no connection to spare.
    Unavailable,
    /// The storage ended the call because it took too long.
    TimedOut,
    /// The storage did nothing because of what others did at the same time, or because of a state of its own that passes: a deadlock,
    /// a lock, a server that may only be read for now.
    Conflict,
    /// The storage said no to what was asked for, as a constraint does, or a trigger. The same call will be refused again.
    Refused,
    /// What was sent or answered could not be written or read as what it should be.
    Invalid,
    /// The storage answered that something is wrong with itself, as with a full disk.
    Internal,
    /// Nothing is known.
    Unknown,
}

impl FailureKind {
    /// Whether the same call may succeed later, by itself.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::Refused | Self::Invalid)
    }

    /// Whether the storage answered that it did nothing.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::TimedOut | Self::Conflict | Self::Refused)
    }

    /// Whether the storage was not there to be asked.
    #[must_use]
    pub fn is_away(self) -> bool {
        matches!(self, Self::Unreachable | Self::Unavailable)
    }

    /// Whether the storage is there and answered.
    #[must_use]
    pub fn is_answer(self) -> bool {
        self.is_refusal() || matches!(self, Self::Unavailable | Self::Internal)
    }
}
