//! Jobs in this process's memory: for tests, demonstrations and examples.
//!
//! The smallest correct implementation of [`Storage`]: one lock, one map. It keeps the seam honest, and it follows the
//! same rules as PostgreSQL, case for case (see the contract suite). Nothing survives the process.
//!
//! Each file has one trait's verbs, and what they do to `State`.

mod add;
mod admin;
mod claim;
mod consumer;
mod inspect;
mod messages;
mod schedules;
mod settle;
mod state;
#[cfg(feature = "testing")]
mod time;
mod transfer;
mod workers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{broadcast, watch};

use super::messages::{Changes, Messages};
use super::{
    Admin, Capabilities, Check, CheckStatus, Consumer, Doctor, Effort, Inspect, Migrated, Schedules, Storage, Transfer,
};
use crate::error::Result;
use crate::job::{Job, NewJob};
use state::State;

/// Jobs in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    /// How many jobs have been added or made ready so far.
    added: Arc<watch::Sender<u64>>,
    /// What may have changed.
    changes: Arc<broadcast::Sender<Changes>>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            added: Arc::new(watch::Sender::new(0)),
            changes: Arc::new(broadcast::Sender::new(1_024)),
        }
    }
}

impl MemoryStorage {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held can only come from running out of memory; the state is a plain map.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs behind these in their queues may be first now.
    fn notify_behind(&self, jobs: &[Job]) {
        self.notify(usize::from(jobs.iter().any(|job| job.queue.is_some())));
    }

    fn notify(&self, count: usize) {
        if count > 0 {
            self.added.send_modify(|added| *added = added.wrapping_add(count as u64));
        }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(u64::MAX)
    }

    async fn migrate(&self) -> Result<Migrated> {
        Ok(Migrated::new(None, 1))
    }

    async fn version(&self) -> Result<i32> {
        Ok(1)
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(self.state().now())
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        let stored = self.state().add(jobs);
        self.notify(stored.len());
        Ok(stored)
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        Arc::new(self.clone())
    }

    fn schedules(&self) -> Option<&dyn Schedules> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn messages(&self) -> Option<&dyn Messages> {
        Some(self)
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        Some(self)
    }
}

#[async_trait]
impl Doctor for MemoryStorage {
    async fn diagnose(&self, _: Effort) -> Vec<Check> {
        let status = CheckStatus::Fine { detail: "nothing survives this process".to_owned() };
        vec![Check::new("memory", status)]
    }
}
