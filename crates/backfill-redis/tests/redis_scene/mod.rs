//! What tests of faults and of several servers share: jobs, and commands of an administrator.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::HashSet;
use std::time::Duration;

use backfill_core::job::{JobId, JobSpec, NewJob};
use backfill_core::storage::{Inspect, JobFilter};
use backfill_redis::RedisStorage;

use crate::redis_server::Server;

pub const TASK: &str = "task";
/// Longer than anything takes.
pub const WITHIN: Duration = Duration::from_secs(60);

pub fn job(n: i64) -> NewJob {
    JobSpec::new(TASK, n).check(1_000_000).expect("a job")
}

pub async fn command(server: &Server, words: &[&str]) -> redis::Value {
    try_command(server, words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

pub async fn try_command(server: &Server, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(server.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(&mut connection).await
}

pub async fn all_ids(storage: &RedisStorage) -> HashSet<JobId> {
    storage.jobs(&JobFilter::new().limit(1_000_000)).await.expect("list").into_iter().map(|job| job.id).collect()
}
