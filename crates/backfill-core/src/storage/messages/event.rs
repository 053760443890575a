//! Events: what happened, in order, for whoever reads along.

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::job::Payload;
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;

/// The most characters that a stream's name may have.
const MAX_STREAM_CHARS: usize = 256;

/// An event to append.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewEvent {
    /// Where.
    pub stream: String,
    /// Its JSON text.
    pub payload: Payload,
}

impl NewEvent {
    /// This, appended to this stream.
    #[must_use]
    pub fn new(stream: impl Into<String>, payload: Payload) -> Self {
        Self { stream: stream.into(), payload }
    }

    /// Refuses what no event can be.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check(&self) -> Result<()> {
        if self.stream.is_empty() || self.stream.chars().count() > MAX_STREAM_CHARS || self.stream.contains('\0') {
            let problem = format!("must have 1 to {MAX_STREAM_CHARS} characters and no NUL character");
            return Err(Error::invalid_message("the name of a stream", &self.stream, &problem));
        }
        let bytes = self.payload.as_str().len();
        if bytes > DEFAULT_MAX_PAYLOAD_BYTES {
            let problem = format!("has a payload of {bytes} bytes, more than the most of {DEFAULT_MAX_PAYLOAD_BYTES}");
            return Err(Error::invalid_message("an event of", &self.stream, &problem));
        }
        Ok(())
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Where it stands. Later ones of its stream have greater positions; there may be gaps, which nothing ever fills.
    pub position: u64,
    /// Its stream.
    pub stream: String,
    /// When it was appended.
    pub at: DateTime<Utc>,
    /// Its JSON text.
    pub payload: Payload,
}

impl Event {
    /// An event that was stored so.
    #[must_use]
    pub fn new(position: u64, stream: String, at: DateTime<Utc>, payload: Payload) -> Self {
        Self { position, stream, at, payload }
    }
}
