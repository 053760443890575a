//! Heartbeats of workers, and switches by which an operator stops them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::record::ascii;
use super::{Document, DocumentChange, Queue, SWITCH, Unit, WORKER, refused};
use crate::error::{Error, Result};

/// Stands for all hosts, or all queues. One that is called so cannot be switched by itself.
pub const ALL: &str = "*";

/// A worker that has sent a heartbeat and is not overdue.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerSeen {
    /// Its name.
    pub worker: String,
    /// Its host.
    pub host: String,
    /// The queue that it serves.
    pub queue: String,
    /// What it says of itself.
    pub info: Option<String>,
    /// Until when it counts as alive, unless it sends another heartbeat.
    pub until: Option<DateTime<Utc>>,
}

/// A switch that is off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Switch {
    /// Of which host; `*` is all.
    pub host: String,
    /// For which queue; `*` is all.
    pub queue: String,
    /// Who switched it off.
    pub by: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct StoredWorker {
    worker: String,
    host: String,
    queue: String,
    info: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredSwitch {
    host: String,
    queue: String,
    by: String,
    since: DateTime<Utc>,
}

impl Queue {
    /// Shows that a worker is alive: it counts so until that time has passed, by the storage's clock, wherever it is looked at. Answers whether it may
    /// claim (see [`switch_off`](Self::switch_off)).
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn heartbeat(
        &self,
        worker: &str,
        host: &str,
        queue: &str,
        info: Option<&str>,
        stale_after: Duration,
    ) -> Result<bool> {
        let stored = StoredWorker {
            worker: worker.to_owned(),
            host: host.to_owned(),
            queue: queue.to_owned(),
            info: info.map(str::to_owned),
        };
        let key = self.inner.names.document(WORKER, &[queue, host, worker]);
        let value = ascii("a heartbeat", &stored)?;
        let unit = Unit::new().change(DocumentChange::put(key, value).lasting(stale_after));
        self.do_unit(unit).await?.map_err(|refusal| refused(&refusal))?;
        self.is_on(host, queue).await
    }

    /// The workers of a queue that are alive.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn workers(&self, queue: &str) -> Result<Vec<WorkerSeen>> {
        let found = self.all_documents(WORKER, &self.inner.names.beginning(&[queue])).await?;
        let seen = |document: Document| {
            let stored: StoredWorker = decode(&document)?;
            let StoredWorker { worker, host, queue, info } = stored;
            Ok(WorkerSeen { worker, host, queue, info, until: document.until })
        };
        found.into_iter().map(seen).collect()
    }

    /// Switches a host off for a queue; `*` is all hosts, or all queues. When this returns, no claim that names the host takes
    /// anything any more, also none that is under way. What is claimed already stays claimed.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn switch_off(&self, host: &str, queue: &str, by: &str) -> Result<()> {
        let since = self.inner.storage.now().await?;
        let stored = StoredSwitch { host: host.to_owned(), queue: queue.to_owned(), by: by.to_owned(), since };
        let change = DocumentChange::put(self.switch_key(host, queue), ascii("a switch", &stored)?);
        self.do_unit(Unit::new().change(change)).await?.map(drop).map_err(|refusal| refused(&refusal))
    }

    /// Switches it on again. Nothing else is on by this: a switch of all hosts stays.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn switch_on(&self, host: &str, queue: &str) -> Result<()> {
        let change = DocumentChange::remove(self.switch_key(host, queue));
        self.do_unit(Unit::new().change(change)).await?.map(drop).map_err(|refusal| refused(&refusal))
    }

    /// Whether a host may claim messages of a queue. It may, unless somebody has switched it off.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn is_on(&self, host: &str, queue: &str) -> Result<bool> {
        let is_off = |switch: &Switch| {
            (switch.host == host || switch.host == ALL) && (switch.queue == queue || switch.queue == ALL)
        };
        Ok(!self.switches().await?.iter().any(is_off))
    }

    /// The switches that are off.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn switches(&self) -> Result<Vec<Switch>> {
        let found = self.all_documents(SWITCH, self.inner.names.prefix()).await?;
        let switch = |document: Document| {
            let StoredSwitch { host, queue, by, since } = decode(&document)?;
            Ok(Switch { host, queue, by, since })
        };
        found.into_iter().map(switch).collect()
    }

    fn switch_key(&self, host: &str, queue: &str) -> super::DocumentKey {
        self.inner.names.document(SWITCH, &[host, queue])
    }

    async fn all_documents(&self, kind: &str, beginning: &str) -> Result<Vec<Document>> {
        const PAGE: u32 = 1_000;
        let mut all: Vec<Document> = Vec::new();
        loop {
            let after = all.last().map(|document| document.key.key.clone());
            let page = self.messages()?.documents(kind, beginning, after.as_deref(), PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T> {
    document.value.decode().map_err(|problem| {
        Error::invalid_message("the document", &document.key.key, &format!("could not be read: {problem}"))
    })
}
