//! The known name that was probably meant.

pub use backfill::nearest::{did_you_mean, nearest};

/// That there is no such name, and which one was probably meant.
pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    format!("no {what} is called {name:?}{}", did_you_mean(name, known))
}
