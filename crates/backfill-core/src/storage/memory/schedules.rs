//! The gate of crontabs.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::MemoryStorage;
use super::state::State;
use crate::error::Result;
use crate::job::Job;
use crate::storage::{DueJob, KnownCrontab, Schedules};

#[async_trait]
impl Schedules for MemoryStorage {
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        Ok(self.state().known_crontabs())
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        self.state().register_crontabs(identifiers, since);
        Ok(())
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        let added = self.state().add_due(moment, due);
        self.notify(added.iter().flatten().count());
        Ok(added)
    }
}

impl State {
    pub(super) fn known_crontabs(&self) -> Vec<KnownCrontab> {
        self.crontabs.values().cloned().collect()
    }

    pub(super) fn register_crontabs(&mut self, identifiers: &[String], since: DateTime<Utc>) {
        for identifier in identifiers {
            self.crontabs
                .entry(identifier.clone())
                .or_insert_with(|| KnownCrontab::new(identifier.clone(), since, None));
        }
    }

    pub(super) fn add_due(&mut self, moment: DateTime<Utc>, due: &[DueJob]) -> Vec<Option<Job>> {
        due.iter()
            .map(|due| {
                let identifier = due.identifier.clone();
                let known = self
                    .crontabs
                    .entry(identifier.clone())
                    .or_insert_with(|| KnownCrontab::new(identifier, moment, None));
                if known.last_execution.is_some_and(|last| last >= moment) {
                    return None;
                }
                known.last_execution = Some(moment);
                let now = self.now();
                Some(self.add_one(&due.job, now))
            })
            .collect()
    }
}
