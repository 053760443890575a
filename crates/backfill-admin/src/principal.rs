//! Who asks, and what they may do. A permission is checked where something is done, not where its button is shown.

use std::collections::BTreeSet;

/// Something that one may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Permission {
    /// See jobs, queues, tasks, workers and findings.
    View,
    /// See payloads, but for redacted values, and search in them.
    Payload,
    /// Let jobs run now.
    Run,
    /// Make jobs dead.
    Discard,
    /// Delete jobs.
    Delete,
    /// Release what a worker holds.
    Unlock,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::View, Self::Payload, Self::Run, Self::Discard, Self::Delete, Self::Unlock];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Payload => "payload",
            Self::Run => "run",
            Self::Discard => "discard",
            Self::Delete => "delete",
            Self::Unlock => "unlock",
        }
    }
}

/// What somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(BTreeSet<Permission>);

impl Permissions {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// See everything but payloads.
    #[must_use]
    pub fn viewer() -> Self {
        [Permission::View].into_iter().collect()
    }

    /// See everything, run jobs and make them dead.
    #[must_use]
    pub fn operator() -> Self {
        [Permission::View, Permission::Payload, Permission::Run, Permission::Discard].into_iter().collect()
    }

    /// Everything.
    #[must_use]
    pub fn admin() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Whether this is among them.
    #[must_use]
    pub fn has(&self, permission: Permission) -> bool {
        self.0.contains(&permission)
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|permission| permission.as_str()).collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().collect())
    }
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// Who it is, as shown on the page and in the log.
    pub name: String,
    /// What they may do.
    pub permissions: Permissions,
}

impl Principal {
    /// Somebody who may do this.
    #[must_use]
    pub fn new(name: impl Into<String>, permissions: Permissions) -> Self {
        Self { name: name.into(), permissions }
    }
}
