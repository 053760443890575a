//! What a check-up says.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// What was looked at, such as `privileges`.
    pub what: &'static str,
    /// What was seen.
    pub verdict: Verdict,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Fine {
        /// In short.
        detail: String,
    },
    /// Something is wrong.
    Found {
        /// What.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// It could not be looked at.
    Skipped {
        /// Why.
        why: String,
    },
}

impl Checked {
    /// What was seen of this.
    #[must_use]
    pub fn new(what: &'static str, verdict: Verdict) -> Self {
        Self { what, verdict }
    }
}
