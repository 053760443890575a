//! Job keys, which make jobs unique: at most one waiting job for one purpose.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// What happens when a job is added under a key that a job already has.
///
/// | the job that has the key | `Replace` | `PreserveRunAt` | `UnsafeDedupe` |
/// | --- | --- | --- | --- |
/// | waits, never tried | updated | updated but for `run_at` | left as it is |
/// | waits for a retry | updated, attempts back to 0 | the same, `run_at` too | left as it is |
/// | is running | keeps running without its key, is not retried; a new job is added | the same | left as it is |
/// | is dead | loses its key; a new job is added | the same | left as it is |
///
/// Updating sets everything to the new job's values, those it leaves out to their defaults. Two array payloads
/// are joined. The rules are those of the shared schema's SQL functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JobKeyMode {
    /// The new job takes the place of the old one. The default.
    #[default]
    Replace,
    /// As `Replace`, but a job that was never tried keeps its time: adding the same key again and again does
    /// not push the job into the future.
    PreserveRunAt,
    /// The first job stays, whatever its state. *Unsafe*, because a job that already runs may have read data
    /// from before the change that this call announces, and a dead one keeps its key for ever.
    UnsafeDedupe,
}

impl JobKeyMode {
    /// The name that the SQL functions and Node use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::PreserveRunAt => "preserve_run_at",
            Self::UnsafeDedupe => "unsafe_dedupe",
        }
    }
}

impl fmt::Display for JobKeyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobKeyMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "replace" => Ok(Self::Replace),
            "preserve_run_at" => Ok(Self::PreserveRunAt),
            "unsafe_dedupe" => Ok(Self::UnsafeDedupe),
            other => Err(Error::InvalidJob {
                what: "job key mode",
                value: other.to_owned(),
                problem: "must be replace, preserve_run_at or unsafe_dedupe".to_owned(),
            }),
        }
    }
}
