//! Who a worker is: its locks, its heartbeat, and what becomes of its claims without it.

mod fenced;
mod heartbeats;
mod identity;
mod late_commits;
mod rescue;
#[path = "../support/mod.rs"]
mod support;
