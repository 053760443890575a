//! Calls that are not answered.
//!
//! A connection can die without a word: a cable, a firewall that forgets, a machine that vanishes. Whoever waits for an
//! answer on it waits until the operating system gives up, which takes a quarter of an hour. So no call of a worker waits for
//! ever: each has a limit, and a limit that must be long (a write may have to wait for a lock) is cut short when the heartbeat,
//! which is never long, proves that the old connections are *dead* while new ones work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Consumer;
use crate::error::{Error, FailureKind, Result};

/// A storage, and the news that its connections died.
#[derive(Clone, Debug)]
pub(crate) struct GuardedCalls {
    storage: Arc<dyn Consumer>,
    dead: Arc<watch::Sender<()>>,
}

impl GuardedCalls {
    pub(crate) fn to(storage: Arc<dyn Consumer>) -> Self {
        Self { storage, dead: Arc::new(watch::Sender::new(())) }
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Consumer> {
        &self.storage
    }

    /// Waits for an answer until the limit, or until the connections are known to be dead. What was asked for may happen all
    /// the same.
    pub(crate) async fn call<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut dead = self.dead.subscribe();
        let unanswered = tokio::select! {
            // An answer that is there counts, however late it is looked at.
            biased;
            answer = call => return answer,
            () = tokio::time::sleep(limit) => Unanswered::For(limit),
            _ = dead.changed() => Unanswered::Dead,
        };
        Err(Error::storage("get an answer", FailureKind::Unknown, unanswered))
    }

    /// Ends the calls that wait at this moment.
    pub(crate) fn cut(&self) {
        self.dead.send_replace(());
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("there was none for {0:?}")]
    For(Duration),
    #[error("the connection is dead")]
    Dead,
}

/// Whether a call was given up because it took too long.
pub(crate) fn is_unanswered(error: &Error) -> bool {
    matches!(error.cause(), Some(Unanswered::For(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_its_answer_at_its_limit_or_when_the_line_is_cut() {
        let calls = GuardedCalls::to(Arc::new(MemoryStorage::default()));
        let limit = Duration::from_secs(30);
        assert_eq!(calls.call(limit, async { Ok(7) }).await.unwrap(), 7);
        let error = calls.call(limit, std::future::pending::<Result<()>>()).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("30s"), "{error}");
        let cut = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            calls.cut();
        };
        let (ended, ()) = tokio::join!(calls.call(limit, std::future::pending::<Result<()>>()), cut);
        assert!(ended.unwrap_err().to_string().contains("dead"));
        // It concerns the calls of that moment only.
        assert_eq!(calls.call(limit, async { Ok(8) }).await.unwrap(), 8);
    }
}
