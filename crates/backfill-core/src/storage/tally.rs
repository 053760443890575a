//! How many jobs there are, and how well that is known.
//!
//! Counting millions of rows takes seconds, so who looks again and again asks with a bounded [`Effort`], and gets numbers that say
//! how exact they are.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Counts;
use crate::job::JobState;

/// How much a storage may do to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effort {
    /// Whatever it takes: every number is exact.
    #[default]
    Exact,
    /// A fifth of a second or so, however many jobs there are: where they are many, numbers are estimated or capped, and say so.
    Bounded,
}

/// How well a number is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Precision {
    /// It was counted.
    #[default]
    Exact,
    /// It was counted up to here, and there are more: `10 000+`.
    AtLeast,
    /// It was estimated of a sample, or of the database's statistics: `≈ 7 000 000`.
    Estimated,
    /// It was not counted: that would take too long. The number is 0.
    Unknown,
}

/// A number, and how well it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Number {
    /// The number.
    pub value: u64,
    /// How well it is known.
    pub precision: Precision,
}

impl Number {
    /// A number that is known so well.
    #[must_use]
    pub fn new(value: u64, precision: Precision) -> Self {
        Self { value, precision }
    }

    /// A number that was counted.
    #[must_use]
    pub fn exact(value: u64) -> Self {
        Self { value, precision: Precision::Exact }
    }

    /// A number that was counted up to here.
    #[must_use]
    pub fn at_least(value: u64) -> Self {
        Self { value, precision: Precision::AtLeast }
    }

    /// A number that was estimated.
    #[must_use]
    pub fn estimated(value: u64) -> Self {
        Self { value, precision: Precision::Estimated }
    }

    /// A number that nobody has counted.
    #[must_use]
    pub fn unknown() -> Self {
        Self { value: 0, precision: Precision::Unknown }
    }

    /// The number of what was counted with a cap: at least that many, if the cap was reached.
    #[must_use]
    pub fn capped(value: u64, cap: u64) -> Self {
        if value >= cap { Self::at_least(cap) } else { Self::exact(value) }
    }
}

/// How many jobs are in each state, and how well that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// See [`JobState::Ready`].
    pub ready: Number,
    /// See [`JobState::Scheduled`].
    pub scheduled: Number,
    /// See [`JobState::Running`].
    pub running: Number,
    /// See [`JobState::Retrying`].
    pub retrying: Number,
    /// See [`JobState::Dead`].
    pub dead: Number,
}

impl Tally {
    /// The numbers of these counts, all of them known as well as this.
    #[must_use]
    pub fn of(counts: &Counts, precision: Precision) -> Self {
        let number = |state| Number { value: counts.get(state), precision };
        Self {
            ready: number(JobState::Ready),
            scheduled: number(JobState::Scheduled),
            running: number(JobState::Running),
            retrying: number(JobState::Retrying),
            dead: number(JobState::Dead),
        }
    }

    /// The number of one state.
    #[must_use]
    pub fn get(&self, state: JobState) -> Number {
        match state {
            JobState::Ready => self.ready,
            JobState::Scheduled => self.scheduled,
            JobState::Running => self.running,
            JobState::Retrying => self.retrying,
            JobState::Dead => self.dead,
        }
    }

    /// The numbers alone.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for state in JobState::ALL {
            counts.add(state, self.get(state).value);
        }
        counts
    }

    /// How well the number of each state is known.
    #[must_use]
    pub fn precisions(&self) -> BTreeMap<&'static str, Precision> {
        JobState::ALL.into_iter().map(|state| (state.as_str(), self.get(state).precision)).collect()
    }

    /// All jobs: known as well as the number that is known worst.
    #[must_use]
    pub fn total(&self) -> Number {
        let worst = JobState::ALL.map(|state| self.get(state).precision).into_iter().max();
        Number { value: self.counts().total(), precision: worst.unwrap_or_default() }
    }
}

/// An object with a member for each state: `{"value": 7, "precision": "exact"}`.
impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(JobState::ALL.len()))?;
        for state in JobState::ALL {
            map.serialize_entry(state.as_str(), &self.get(state))?;
        }
        map.end()
    }
}
