//! What may have changed.

use std::collections::BTreeSet;

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// From now on everything is told. Before this something may have been missed.
    Listening,
    /// Nothing is told any more, until it listens again.
    #[non_exhaustive]
    Lost {
        /// Why.
        reason: String,
    },
    /// Something has changed.
    Changed(Changes),
}

impl News {
    /// Nothing is told any more.
    #[must_use]
    pub fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into() }
    }
}

/// Where something has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Lines in which jobs may be ready now.
    pub lines: Names,
    /// Kinds of documents.
    pub documents: Names,
    /// Streams of events.
    pub streams: Names,
}

impl Changes {
    /// Anything may have changed.
    #[must_use]
    pub fn anywhere() -> Self {
        Self { lines: Names::All, documents: Names::All, streams: Names::All }
    }

    /// Jobs in these lines may be ready now.
    #[must_use]
    pub fn lines(lines: impl IntoIterator<Item = String>) -> Self {
        Self { lines: Names::These(lines.into_iter().collect()), ..Self::default() }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        [&self.lines, &self.documents, &self.streams].into_iter().all(Names::is_nothing)
    }
}

/// Some names, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// All.
    All,
    /// These.
    These(BTreeSet<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Names {
    /// Whether this name is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::These(names) if names.is_empty())
    }

    /// One more.
    pub fn insert(&mut self, name: &str) {
        if let Self::These(names) = self
            && !names.contains(name)
        {
            names.insert(name.to_owned());
        }
    }
}
