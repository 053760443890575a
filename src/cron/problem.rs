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

impl fmt::Display for CrontabProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {:?} {}", self.line, self.column, self.text, self.problem)
    }
}

/// A problem whose place is known within its line only, in bytes.
#[derive(Debug)]
pub(super) struct Complaint {
    pub offset: usize,
    pub text: String,
    pub problem: String,
}

impl Complaint {
    pub(super) fn new(offset: usize, text: &str, problem: impl Into<String>) -> Self {
        Self { offset, text: text.to_owned(), problem: problem.into() }
    }

    pub(super) fn at(self, line: usize, text: &str) -> CrontabProblem {
        let before = text.get(..self.offset).unwrap_or(text);
        CrontabProblem { line, column: before.chars().count() + 1, text: self.text, problem: self.problem }
    }
}
