//! What is promised when something goes wrong. Each case has a server of its own.

mod costs;
mod handoff;
#[path = "../redis_scene/mod.rs"]
mod redis_scene;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod server;

use backfill_core::storage::{ClaimRef, ClaimedJob, Consumer, Outcome, Registration, Settlement, Storage, WorkerId};
use backfill_redis::RedisStorage;
use redis_scene::TASK;
use redis_server::Server;

async fn open(server: &Server) -> RedisStorage {
    let storage = RedisStorage::open(&server.url(), "faults").expect("open");
    storage.migrate().await.expect("migrate");
    storage
}

async fn worker(storage: &dyn Consumer) -> WorkerId {
    let worker = WorkerId::random();
    assert!(storage.register(&Registration::new(&worker, &[TASK.to_owned()])).await.expect("register"));
    worker
}

fn completed(jobs: &[ClaimedJob]) -> Vec<Settlement> {
    jobs.iter().map(|job| Settlement::new(ClaimRef::of(job), Outcome::completed())).collect()
}
