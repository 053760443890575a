//! Starting, watching and steering workflows, from anywhere.
//!
//! A [`Client`] needs the storage alone: no function of a workflow, and no engine. One that belongs to an [`Engine`](crate::Engine) begins
//! workflows in that engine's process; any other puts them into a queue, for the engines that listen to it.

mod batch;
mod debounce;
mod handle;
mod manage;
mod queues;
mod read;
mod schedules;
mod start;
mod versions;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use self::batch::Retention;
pub use self::handle::Handle;
pub(crate) use self::handle::decode;
pub use self::manage::ForkFrom;
pub(crate) use self::schedules::{LATE, tick, tick_id, times};
pub use self::schedules::{Schedule, Tick};
use crate::engine::core::Core;
use crate::engine::hub::Hub;
use crate::engine::writer::Writer;
use crate::error::Result;
use crate::open::Options;
use crate::store::{Change, Store};

/// How often waiters look that were told nothing.
pub(crate) const POLL: Duration = Duration::from_secs(1);

/// Starts, watches and steers workflows. Clones are the same client.
#[derive(Clone)]
pub struct Client {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    core: Option<Arc<Core>>,
    /// What hears news for a client without an engine, once somebody waits.
    listener: Arc<OnceLock<AbortOnDropHandle<()>>>,
    /// What stores together the starts that meet, of a client without an engine.
    writer: Arc<OnceLock<(Writer, AbortOnDropHandle<()>)>>,
    application: Option<String>,
    poll: Duration,
}

impl Client {
    /// A client of the workflows that this URL means: `postgres://user@host/database` or `sqlite://orders.db` (with the feature `sqlite`). It makes or upgrades the
    /// tables, which needs the right to create them.
    ///
    /// # Errors
    /// When the URL is wrong, the database cannot be reached, or its tables are not as they should be.
    pub async fn connect(url: &str) -> Result<Self> {
        Options::new().url(url).client().await
    }

    /// A client of workflows in a storage.
    #[must_use]
    pub fn of_store(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            hub: Arc::default(),
            core: None,
            listener: Arc::default(),
            writer: Arc::default(),
            application: None,
            poll: POLL,
        }
    }

    pub(crate) fn of_core(core: &Arc<Core>) -> Self {
        Self {
            store: Arc::clone(&core.store),
            hub: Arc::clone(&core.hub),
            core: Some(Arc::clone(core)),
            listener: Arc::default(),
            writer: Arc::default(),
            application: core.settings.application.clone(),
            poll: core.settings.poll,
        }
    }

    /// Starts are for this application, and versions are looked for among its own.
    #[must_use]
    pub fn application(mut self, name: impl Into<String>) -> Self {
        self.application = Some(name.into());
        self
    }

    /// Where the workflows are kept.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The writer of a client without an engine. What fails is told at once.
    fn writer(&self) -> &Writer {
        let (writer, _) = self.writer.get_or_init(|| {
            let (writer, work) = Writer::new(Arc::clone(&self.store), CancellationToken::new(), false);
            (writer, AbortOnDropHandle::new(tokio::spawn(work)))
        });
        writer
    }

    /// Hears news, if nobody does yet.
    fn listen(&self) {
        if self.core.is_some() {
            return;
        }
        self.listener.get_or_init(|| {
            let (mut changes, hub) = (self.store.changes(), Arc::clone(&self.hub));
            AbortOnDropHandle::new(tokio::spawn(async move {
                while let Some(change) = changes.next().await {
                    match change {
                        Change::Steered(id) => hub.wake(&Change::Finished(id)),
                        change => hub.wake(&change),
                    }
                }
            }))
        });
    }

    /// Asks until there is an answer, at most until the time is over: at once, when news come, and now and then.
    async fn wait_for<T>(
        &self,
        change: Change,
        timeout: Duration,
        mut ask: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.listen();
        let waiter = self.hub.wait(change);
        let over = tokio::time::sleep(timeout);
        tokio::pin!(over);
        loop {
            let heard = waiter.heard();
            tokio::pin!(heard);
            heard.as_mut().enable();
            match ask().await {
                Ok(Some(value)) => return Ok(Some(value)),
                Ok(None) => {}
                // A database that is away for a while is waited for.
                Err(error) if error.is_transient() => tracing::debug!(%error, "waiting for the storage"),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = heard => {}
                () = tokio::time::sleep(self.poll) => {}
                () = &mut over => return ask().await,
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("store", &self.store.name()).finish_non_exhaustive()
    }
}
