//! Versions of the program.

use super::Client;
use crate::error::{Error, Result};
use crate::store::VersionRow;

impl Client {
    /// The versions of this client's application that were launched, the latest first. The latest takes what is for no version in particular.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn versions(&self) -> Result<Vec<VersionRow>> {
        let mut versions = self.store.versions().await?;
        versions.retain(|version| version.application == self.application);
        Ok(versions)
    }

    /// The latest version.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn latest_version(&self) -> Result<Option<VersionRow>> {
        Ok(self.versions().await?.into_iter().next())
    }

    /// Makes a version the latest one, as to go back to an older program.
    ///
    /// # Errors
    /// When no such version was launched, or the storage fails.
    pub async fn set_latest_version(&self, name: &str) -> Result<()> {
        crate::ctx::outside_transactions("changing versions")?;
        if !self.versions().await?.iter().any(|version| version.name == name) {
            return Err(Error::invalid("the version", name, "was never launched; `versions` lists those that were"));
        }
        self.store.put_version(name, self.application.as_deref(), true).await
    }
}
