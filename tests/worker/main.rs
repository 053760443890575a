//! Tasks, what they answer, and how jobs flow through a worker.

mod claims;
mod failures;
mod polls;
mod retries;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod tasks;

use backfill::{BackfillClient, Handler, Job, JobSpec, Worker};
use support::{client, soon};

/// Adds one job, runs the handler on it once, and answers what is left.
async fn run_one(handler: Handler, spec: JobSpec) -> (BackfillClient, Option<Job>) {
    let (client, ..) = client().await;
    let job = client.add(spec).await.expect("add");
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    soon("the run ends", worker.run_until_idle()).await.expect("run");
    let left = client.job(job.id).await.expect("read");
    (client, left)
}
