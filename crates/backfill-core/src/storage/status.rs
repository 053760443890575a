//! What a worker says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a worker is doing, as it told with one of its last heartbeats: seconds ago, not at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// How many jobs it runs at the same time, at most.
    pub concurrency: usize,
    /// How many it runs.
    pub running: usize,
    /// Why it asks for no jobs, such as `full` or `nothing_ready`; `None` while it asks.
    pub hold: Option<String>,
    /// Of tasks with a limit of their own: how many of their jobs it runs at the same time, at most.
    pub limits: BTreeMap<String, usize>,
    /// It leaves jobs alone that have any of these flags.
    pub forbidden_flags: Vec<String>,
}

impl WorkerStatus {
    /// A worker that runs up to so many jobs.
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self { concurrency, ..Self::default() }
    }

    /// As ASCII text, for storages that keep it so, in whatever encoding.
    #[must_use]
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        // A map of texts and numbers always is JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut text = String::with_capacity(json.len());
        for character in json.chars() {
            if character.is_ascii() {
                text.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // To write to a String cannot fail.
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
        text
    }

    /// What [`to_text`](Self::to_text) made; `None` if it is not that.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_ascii_and_read_back_whole() {
        let mut status = WorkerStatus::new(3);
        status.limits.insert("caf\u{e9} \u{1f980}".to_owned(), 2);
        let text = status.to_text();
        assert!(text.is_ascii(), "{text}");
        assert_eq!(WorkerStatus::from_text(&text), Some(status));
        assert_eq!(WorkerStatus::from_text("{\"running\": 1, \"later\": true}").map(|status| status.running), Some(1));
        assert_eq!(WorkerStatus::from_text("x"), None);
    }
}
