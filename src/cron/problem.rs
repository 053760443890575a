//! What is wrong with a crontab, and where.

pub use backfill_core::CrontabProblem;

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
        CrontabProblem::new(line, before.chars().count() + 1, self.text, self.problem)
    }
}
