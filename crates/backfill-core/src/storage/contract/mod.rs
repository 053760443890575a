//! The cases that every storage must pass.
//!
//! For authors of storages, behind the feature `contract`. Each case gets an empty, migrated storage of its own and
//! panics when the contract is broken:
//!
//! ```text
//! async fn fresh() -> backfill_core::storage::contract::Subject { … }
//! backfill_core::storage_contract_tests!(fresh);
//! ```
//!
//! A storage without some of the traits names those that it has: `storage_contract_tests!(fresh: admin)`. The macro makes one `#[tokio::test]` of each case, on a runtime with several threads. A storage that several processes can
//! use also passes the cases of [`processes`], in which the test starts itself again and kills itself.
//!
//! | module | what is promised |
//! | --- | --- |
//! | [`adding`] | answers, defaults, each key mode, hostile strings |
//! | [`claiming`] | exactly once among eight claimers, order, serial queues, flags, limits, wakeups, handing off, lost answers |
//! | [`queues`] | the order of serial queues, and runs of their jobs |
//! | [`settling`] | each outcome, the fence, settling twice |
//! | [`heartbeat`] | heartbeats, rescue, identities |
//! | [`cron`] | the gate of crontabs |
//! | [`managing`] | the administrative verbs, counts that add up |
//! | [`messages`] | lines, leases, units, documents, events, groups; a list of its own |
//! | [`moving`] | moving jobs to another storage, each once |
//! | [`processes`] | the same from several processes, and what a killed one leaves behind |

#![allow(clippy::missing_panics_doc, reason = "a case panics when the contract is broken; that is what it is for")]

pub mod adding;
mod cases;
pub mod claiming;
pub mod cron;
pub mod heartbeat;
pub mod managing;
pub mod messages;
pub mod moving;
pub mod processes;
pub mod queues;
pub mod searching;
pub mod settling;

use std::sync::Arc;

use super::{
    Admin, ClaimRef, ClaimRequest, ClaimedJob, Consumer, Inspect, Outcome, Registration, Schedules, Settlement,
    Transfer, WorkerId,
};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{Job, JobId, JobSpec, RunAt};

/// An empty storage for one case, as a worker has it.
pub type Subject = Arc<dyn Consumer>;

/// What a case reads the truth by.
fn inspect(storage: &Subject) -> &dyn Inspect {
    storage.inspect().expect("the storage implements Inspect")
}

fn admin(storage: &Subject) -> &dyn Admin {
    storage.admin().expect("the storage implements Admin")
}

fn schedules(storage: &Subject) -> &dyn Schedules {
    storage.schedules().expect("the storage implements Schedules")
}

fn transfer(storage: &Subject) -> &dyn Transfer {
    storage.transfer().expect("the storage implements Transfer")
}

/// Fails unless the storage has these capabilities, and no others.
pub fn has_exactly(storage: &Subject, named: &[&str]) {
    let has = [
        ("schedules", storage.schedules().is_some()),
        ("admin", storage.admin().is_some()),
        ("transfer", storage.transfer().is_some()),
    ];
    for (capability, has) in has {
        assert_eq!(named.contains(&capability), has, "{capability}");
    }
}

/// The task of most cases.
const TASK: &str = "contract";

fn spec() -> JobSpec {
    JobSpec::new(TASK, serde_json::json!({ "n": 1 }))
}

async fn add(storage: &Subject, specs: Vec<JobSpec>) -> Vec<Job> {
    let jobs: Vec<_> = specs
        .into_iter()
        .map(|spec| spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid"))
        .collect();
    storage.add(&jobs).await.expect("add")
}

async fn add_one(storage: &Subject, spec: JobSpec) -> Job {
    add(storage, vec![spec]).await.remove(0)
}

/// A registered worker.
async fn register(storage: &Subject) -> WorkerId {
    let worker = WorkerId::random();
    assert!(storage.register(&Registration::new(&worker, &[])).await.expect("register"));
    worker
}

async fn claim(storage: &Subject, worker: &WorkerId, limit: usize) -> Vec<ClaimedJob> {
    storage.claim(&ClaimRequest::new(worker, &[TASK.to_owned()], limit)).await.expect("claim").jobs
}

/// Claims exactly one job.
async fn claim_one(storage: &Subject, worker: &WorkerId) -> ClaimedJob {
    let mut jobs = claim(storage, worker, 1).await;
    assert_eq!(jobs.len(), 1, "one job is ready");
    jobs.remove(0)
}

async fn settle(storage: &Subject, worker: &WorkerId, job: &ClaimedJob, outcome: Outcome) -> Vec<JobId> {
    storage.settle(worker, &[Settlement::new(ClaimRef::of(job), outcome)]).await.expect("settle").applied
}

fn failed(error: &str, retry: impl Into<RunAt>) -> Outcome {
    Outcome::failed(error.to_owned(), retry.into())
}

async fn read(storage: &Subject, id: JobId) -> Option<Job> {
    inspect(storage).job(id).await.expect("read")
}

/// Reads a job that must be there.
async fn must_read(storage: &Subject, id: JobId) -> Job {
    read(storage, id).await.expect("the job exists")
}
