//! Ids and tokens.

use uuid::Uuid;

/// A new id, which sorts behind those that this process has made before.
pub(crate) fn fresh() -> String {
    Uuid::now_v7().to_string()
}

/// A token that nobody can guess or repeat.
pub(crate) fn token() -> String {
    Uuid::new_v4().to_string()
}
