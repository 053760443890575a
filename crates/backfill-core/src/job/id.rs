//! A job's id.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A job's id: unique within a storage, never used again. Later jobs have greater ones, as a rule.
///
/// What is inside is the storage's business. A person reads a number; so does JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(i64);

impl JobId {
    /// The id that a storage knows by this number.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number that a storage knows it by.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The numbers of these ids, as a storage takes them.
    #[must_use]
    pub fn numbers(ids: &[Self]) -> Vec<i64> {
        ids.iter().map(|id| id.0).collect()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl From<i64> for JobId {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_and_serialises_as_its_number() {
        let id: JobId = "17".parse().unwrap();
        assert_eq!((id.to_string(), serde_json::to_string(&id).unwrap()), ("17".to_owned(), "17".to_owned()));
        assert_eq!(serde_json::from_str::<JobId>("17").unwrap(), id);
        assert!("x".parse::<JobId>().is_err() && JobId::from(3) < id && id.number() == 17);
    }
}
