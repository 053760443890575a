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
        format!("the worker pool {pool} stopped showing signs of life while it held this job")
    }

    /// When a released job that has used so many attempts is due, in seconds from now, at the latest: at a time by chance until then.
    ///
    /// After the first death all of a pool's jobs come back at once. One that has died with a worker again may be what kills it, or
    /// stand beside what does: such jobs come back apart from each other, so that the next death takes fewer with it. The bound is
    /// twice e to the power of the attempts, and 10 minutes at most.
    #[must_use]
    pub fn spread(attempts: i16) -> f64 {
        if attempts > 1 { (2.0 * f64::from(attempts).exp()).min(600.0) } else { 0.0 }
    }
}
