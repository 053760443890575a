//! Priorities: smaller runs sooner.

use std::fmt;

use crate::error::Error;

/// When a job runs relative to others that are ready: the smallest number first.
///
/// Any `i16` is a priority; the named ones give a team a common scale.
///
/// ```
/// use backfill_core::job::Priority;
/// assert!(Priority::EMERGENCY < Priority::BULK);
/// assert_eq!(Priority::from(7), Priority(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub i16);

impl Priority {
    /// −20: before everything.
    pub const EMERGENCY: Self = Self(-20);
    /// −10: somebody is waiting.
    pub const FAST_HIGH: Self = Self(-10);
    /// −5: somebody will look soon.
    pub const FAST: Self = Self(-5);
    /// 0: the default.
    pub const BULK: Self = Self(0);
    /// 5: after the rest.
    pub const BULK_LOW: Self = Self(5);
    /// 10: when nothing else is left.
    pub const BULK_LOWEST: Self = Self(10);
}

impl From<i16> for Priority {
    fn from(value: i16) -> Self {
        Self(value)
    }
}

impl TryFrom<i64> for Priority {
    type Error = Error;

    fn try_from(value: i64) -> Result<Self, Error> {
        i16::try_from(value).map(Self).map_err(|_| Error::InvalidJob {
            what: "priority",
            value: value.to_string(),
            problem: format!("must be from {} to {}", i16::MIN, i16::MAX),
        })
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
