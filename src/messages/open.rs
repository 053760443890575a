//! Opening a queue.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::listen::Hub;
use super::names::Names;
use super::{DEFAULT_RETENTION, DEFAULT_SCHEMA, Inner, Queue};
use crate::error::{Error, Result};
use crate::job::limits::{DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_PAYLOAD_BYTES, MAX_DELAY};
use crate::storage::{AnyStorage, Backend, OpenOptions};

/// Builds a [`Queue`].
#[derive(Clone)]
#[must_use]
pub struct QueueBuilder {
    database_url: Option<String>,
    schema: Option<String>,
    options: OpenOptions,
    namespace: String,
    migrate: bool,
    retention: Duration,
    max_attempts: u32,
    max_payload_bytes: usize,
}

impl Default for QueueBuilder {
    fn default() -> Self {
        Self {
            database_url: None,
            schema: None,
            options: OpenOptions::default().messages(true),
            namespace: String::new(),
            migrate: true,
            retention: DEFAULT_RETENTION,
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
        }
    }
}

impl QueueBuilder {
    /// Where the messages are kept.
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// The schema, in PostgreSQL. Default: [`DEFAULT_SCHEMA`].
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Which namespace; any string. Default: the empty one.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Whether to make or upgrade what is needed. Default: yes. If not, building fails with a clear error where something is missing.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// For how long is remembered what has ended: so long it can be looked at, its id is not given again, and completing it twice is
    /// answered as once. Default: a day; at the most a hundred years. Zero: not at all.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(MAX_DELAY);
        self
    }

    /// How often a message may be claimed, unless it says so itself. Default: 25. After the last time it counts as failed.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The most bytes that a message may have as JSON. Default: 8 MiB.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// How to open the storage: connections, timeouts, prepared statements.
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options.messages(true);
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// When settings do not go together, the database cannot be reached, or the schema cannot be used.
    pub async fn build(self) -> Result<Queue> {
        let Some(url) = &self.database_url else {
            return Err(Error::InvalidClient("no database URL was given; call database_url".to_owned()));
        };
        let backend = Backend::of(url)?;
        let mut options = self.options.clone();
        if let Some(schema) = &self.schema {
            options = options.schema(schema);
        } else if backend.has_schemas() {
            options = options.schema_if_none(DEFAULT_SCHEMA);
        }
        let storage = options.open_ready(&backend, self.migrate).await?;
        self.with_storage(storage)
    }

    /// The same in a storage that is there already, as it is. What was said of databases does not matter.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a storage without messages, such as one in PostgreSQL that was opened without them.
    pub fn with_storage(self, storage: impl Into<AnyStorage>) -> Result<Queue> {
        let storage = Arc::clone(storage.into().storage());
        storage.require_messages()?;
        let names = Names::new(&self.namespace);
        let hub = Hub::new(Arc::clone(&storage), names.prefix());
        let inner = Inner {
            storage,
            names,
            retention: self.retention,
            max_attempts: self.max_attempts,
            max_payload_bytes: self.max_payload_bytes,
            hub,
        };
        Ok(Queue { inner: Arc::new(inner) })
    }
}

/// The URL may hold a password, so it is not shown.
impl fmt::Debug for QueueBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBuilder")
            .field("database_url", &self.database_url.as_ref().map(|_| "…"))
            .field("schema", &self.schema)
            .field("namespace", &self.namespace)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}
