//! What a notification says.

use serde::Deserialize;

use crate::storage::Wakeup;

/// What a notification on `jobs:insert` says. The text may be empty (old schemas), foreign, or a count of removals.
#[derive(Default, Deserialize)]
pub(super) struct Notice {
    count: Option<f64>,
    /// Jobs became ready that are not new: they may stand where claims have passed by.
    #[serde(default)]
    pub(super) back: bool,
}

impl Notice {
    pub(super) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub(super) fn jobs_added(&self) -> Option<Wakeup> {
        let count = self.count.unwrap_or(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        (count >= 1.0).then_some(Wakeup::JobsAdded(count as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_leniently() {
        let jobs_added = |text: &str| Notice::read(text).jobs_added();
        assert!(Notice::read(r#"{"r":0.5,"back":true,"count":7}"#).back);
        assert!(!Notice::read(r#"{"r":0.5,"count":7}"#).back);
        assert_eq!(jobs_added(r#"{"r":0.5,"count":7}"#), Some(Wakeup::JobsAdded(7)));
        for unclear in ["", "hello", "{}", r#"{"count":null}"#, r#"{"count":"x"}"#, "[]"] {
            assert_eq!(jobs_added(unclear), Some(Wakeup::JobsAdded(1)), "{unclear}");
        }
        assert_eq!(jobs_added(r#"{"r":0.5,"count":-1}"#), None);
        assert_eq!(jobs_added(r#"{"r":0.5,"count":0}"#), None);
        assert_eq!(jobs_added(r#"{"count":1e300}"#), Some(Wakeup::JobsAdded(u64::MAX)));
    }
}
