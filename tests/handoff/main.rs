//! Single new jobs that are stored as claimed by a worker with free slots.

mod eligible;
mod offers;
#[path = "../support/mod.rs"]
mod support;
mod unheard;
mod workers;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::worker::Event;
use backfill::{BackfillClient, Job, JobContext, JobSpec, Worker, task_fn};
use futures::{Stream, StreamExt};
use support::running::Running;
use support::soon;

/// What a worker tells.
type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Adds jobs until one is handed off: a client has to know the task, and to have looked for workers.
async fn add_until_handed(client: &BackfillClient) -> Job {
    soon("a job is handed off", async {
        loop {
            let job = client.add(JobSpec::new("t", ())).await.expect("add");
            if job.locked_by.is_some() {
                return job;
            }
        }
    })
    .await
}

/// A worker for jobs that end at once, which counts how often it starts one.
fn counting(client: &BackfillClient) -> (Worker, Arc<AtomicUsize>) {
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&starts);
    let handler = task_fn("t", move |(): (), _: JobContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    // A poll would find what was not notified.
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), starts)
}

/// Starts a worker, and waits until it listens.
async fn listening(worker: Worker) -> (Running, Events) {
    let mut events: Events = Box::pin(worker.events());
    let running = Running::of(worker);
    soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
    (running, events)
}

/// Plays what is handed off without being heard.
const UNHEARD: &str = "insert into S._private_jobs (task_id, attempts, locked_at, locked_by)
    select task.id, 1, now(), pool.id from S._private_tasks task, S.backfill_pools pool";
