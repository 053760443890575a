//! Documents: small values that several processes agree about.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::job::{Payload, limits};
use crate::storage::WorkerId;

/// The most characters that a kind may have.
pub const MAX_KIND_CHARS: usize = 128;
/// The most bytes that a key may have.
pub const MAX_KEY_BYTES: usize = 1024;

/// The most bytes that the JSON text of a document may have (1 MiB). What is larger belongs in a store of its own.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Which document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct DocumentKey {
    /// What documents like it are called.
    pub kind: String,
    /// Its name among those.
    pub key: String,
}

impl DocumentKey {
    /// The document of this kind and key.
    #[must_use]
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: key.into() }
    }

    /// Refuses what no document may be called.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check(&self) -> Result<()> {
        let (kind, key) = (&self.kind, &self.key);
        if kind.is_empty() || kind.chars().count() > MAX_KIND_CHARS || kind.contains('\0') {
            let problem = format!("must have 1 to {MAX_KIND_CHARS} characters and no NUL character");
            return Err(Error::invalid_message("the kind of a document", kind, &problem));
        }
        if key.len() > MAX_KEY_BYTES || key.contains('\0') {
            let problem = format!("must have at most {MAX_KEY_BYTES} bytes and no NUL character");
            return Err(Error::invalid_message("the key of a document", key, &problem));
        }
        Ok(())
    }
}

/// A stored document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// Which.
    pub key: DocumentKey,
    /// Its JSON text.
    pub value: Payload,
    /// Greater after each change; also after it was removed and stored anew.
    pub version: u64,
    /// It goes when this worker deregisters or is rescued.
    pub owner: Option<WorkerId>,
    /// It goes at this time.
    pub until: Option<DateTime<Utc>>,
}

impl Document {
    /// A document that stays.
    #[must_use]
    pub fn new(key: DocumentKey, value: Payload, version: u64) -> Self {
        Self { key, value, version, owner: None, until: None }
    }

    /// Whether it is there: its time has not come.
    #[must_use]
    pub fn is_there(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// What must be so for a unit to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expect {
    /// Which document.
    pub key: DocumentKey,
    /// Its version; `None`: it is not there.
    pub version: Option<u64>,
}

impl Expect {
    /// It is not there.
    #[must_use]
    pub fn absent(key: DocumentKey) -> Self {
        Self { key, version: None }
    }

    /// It is there, and has this version.
    #[must_use]
    pub fn version(key: DocumentKey, version: u64) -> Self {
        Self { key, version: Some(version) }
    }
}

/// What to do to a document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DocumentChange {
    /// Store it, whether or not it is there.
    #[non_exhaustive]
    Put {
        /// Which.
        key: DocumentKey,
        /// Its JSON text.
        value: Payload,
        /// It goes when this worker deregisters or is rescued; the worker must be registered.
        owner: Option<WorkerId>,
        /// It goes so long after now; after a hundred years at the latest.
        lasts: Option<Duration>,
    },
    /// Remove it, if it is there.
    #[non_exhaustive]
    Remove {
        /// Which.
        key: DocumentKey,
    },
}

impl DocumentChange {
    /// Store this, to stay.
    #[must_use]
    pub fn put(key: DocumentKey, value: Payload) -> Self {
        Self::Put { key, value, owner: None, lasts: None }
    }

    /// Remove it, if it is there.
    #[must_use]
    pub fn remove(key: DocumentKey) -> Self {
        Self::Remove { key }
    }

    /// The same, and it goes with this worker.
    #[must_use]
    pub fn owned_by(mut self, worker: WorkerId) -> Self {
        if let Self::Put { owner, .. } = &mut self {
            *owner = Some(worker);
        }
        self
    }

    /// The same, and it goes so long after now.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        if let Self::Put { lasts, .. } = &mut self {
            *lasts = Some(time);
        }
        self
    }

    /// Which document.
    #[must_use]
    pub fn key(&self) -> &DocumentKey {
        let (Self::Put { key, .. } | Self::Remove { key }) = self;
        key
    }

    /// How many bytes its value has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if let Self::Put { value, .. } = self { value.as_str().len() } else { 0 }
    }

    /// Refuses what no document can be.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`].
    pub fn check(&self) -> Result<()> {
        self.key().check()?;
        match self {
            Self::Put { key, value, .. } if value.as_str().len() > MAX_DOCUMENT_BYTES => {
                let problem = format!("has {} bytes, more than the most of {MAX_DOCUMENT_BYTES}", value.as_str().len());
                Err(Error::invalid_message("the document", &key.key, &problem))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn owner(&self) -> Option<&WorkerId> {
        if let Self::Put { owner, .. } = self { owner.as_ref() } else { None }
    }

    /// What is stored by this; `None` if it is removed.
    pub(super) fn stored(&self, version: u64, now: DateTime<Utc>) -> Option<Document> {
        let Self::Put { key, value, owner, lasts } = self else { return None };
        Some(Document {
            key: key.clone(),
            value: value.clone(),
            version,
            owner: owner.clone(),
            until: lasts.map(|lasts| limits::later(now, lasts)),
        })
    }
}

/// What stands behind all keys that begin so, byte by byte; `None` if nothing is known to. (By its last ASCII character: the others may have
/// no successor that a database can write.)
#[must_use]
pub fn end_of_prefix(prefix: &str) -> Option<String> {
    let last = prefix.bytes().rposition(|byte| byte < 0x7f)?;
    let mut end = prefix[..last].to_owned();
    end.push(char::from(prefix.as_bytes()[last] + 1));
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_begins_so_is_before_the_end(prefix in ".{0,9}", rest in ".{0,9}", other in ".{0,9}") {
            if let Some(end) = end_of_prefix(&prefix) {
                prop_assert!(prefix.clone() + &rest < end);
                prop_assert!(other < end || !other.starts_with(&prefix));
            } else {
                prop_assert!(prefix.bytes().all(|byte| byte >= 0x7f));
            }
        }
    }
}
