//! What is wrong with a crontab, and where.

use std::fmt;

/// What is wrong with a crontab, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrontabProblem {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
    /// The offending text.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

impl CrontabProblem {
    /// A problem at this place.
    #[must_use]
    pub fn new(line: usize, column: usize, text: String, problem: String) -> Self {
        Self { line, column, text, problem }
    }
}

impl fmt::Display for CrontabProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {:?} {}", self.line, self.column, self.text, self.problem)
    }
}
