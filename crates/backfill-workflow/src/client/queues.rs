//! The queues' settings.

use super::Client;
use crate::error::Result;
use crate::queue::Queue;
use crate::store::QueueRow;

impl Client {
    /// Stores a queue's settings, for all processes, from now on.
    ///
    /// # Errors
    /// When they make no sense together, or the storage fails.
    pub async fn set_queue(&self, queue: &Queue) -> Result<()> {
        crate::ctx::outside_transactions("changing a queue")?;
        self.store.put_queue(queue.checked()?, queue.keeps_existing()).await?;
        if let Some(core) = &self.core {
            *core.queues() = None;
            core.wake_queue(queue.name());
        }
        Ok(())
    }

    /// The queues that somebody has configured.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn queues(&self) -> Result<Vec<QueueRow>> {
        self.store.queues().await
    }

    /// Forgets a queue's settings. Its workflows stay, and wait until somebody configures it again. Answers whether it was known.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn delete_queue(&self, name: &str) -> Result<bool> {
        crate::ctx::outside_transactions("changing a queue")?;
        self.store.delete_queue(name).await
    }

    /// The queues' settings, as starts need them.
    pub(super) async fn known_queues(&self) -> Result<std::sync::Arc<Vec<QueueRow>>> {
        match &self.core {
            Some(core) => core.known_queues().await,
            None => self.store.queues().await.map(Into::into),
        }
    }
}
