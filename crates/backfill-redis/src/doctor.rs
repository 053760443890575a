//! Looking for what is wrong.

use async_trait::async_trait;
use backfill_core::storage::{Check, CheckStatus, Doctor};

use crate::RedisStorage;

#[async_trait]
impl Doctor for RedisStorage {
    async fn diagnose(&self) -> Vec<Check> {
        vec![Check::new("server", CheckStatus::Fine { detail: self.address() })]
    }
}
