//! Deleting what is old.

use std::time::Duration;

use super::Client;
use crate::error::Result;
use crate::options::millis;
use crate::store::Expired;

/// What is kept of workflows that have ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Those that ended longer ago are deleted.
    pub older_than: Option<Duration>,
    /// All but so many of those that ended last are deleted.
    pub keep_newest: Option<u64>,
}

/// How many workflows one transaction deletes.
const BATCH: i64 = 500;

impl Client {
    /// Deletes workflows that have ended, oldest first, in small transactions. What has not ended is never deleted. Answers how many.
    ///
    /// # Errors
    /// When the storage fails. What was deleted until then stays deleted.
    pub async fn delete_old(&self, retention: Retention) -> Result<u64> {
        crate::ctx::outside_transactions("deleting")?;
        let completed_before = match retention.older_than {
            Some(age) => Some(self.store.now().await?.saturating_sub(millis(age))),
            None => None,
        };
        let keep_newest = retention.keep_newest.map(|keep| i64::try_from(keep).unwrap_or(i64::MAX));
        let mut total = 0;
        loop {
            let deleted = self.store.delete_expired(&Expired { completed_before, keep_newest, batch: BATCH }).await?;
            total += deleted;
            if deleted == 0 {
                return Ok(total);
            }
        }
    }
}
