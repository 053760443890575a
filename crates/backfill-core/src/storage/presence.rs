//! Signs of life.

/// A pool that fell silent, and what was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// The pool's id.
    pub pool: String,
    /// How many jobs it held.
    pub jobs: u64,
}

impl Rescued {
    /// What the released jobs get as `last_error`.
    #[must_use]
    pub fn last_error(pool: &str) -> String {
        format!("the worker pool {pool} stopped showing signs of life while it ran this job")
    }
}
