//! A worker's events, kept.

use std::fmt::Write;
use std::panic::Location;

use futures::FutureExt;

use super::span::{IntoDuration, human};
use crate::worker::{Event, EventStream, Worker};

/// Keeps a worker's events, from the moment when it is made.
///
/// ```
/// # use backfill::{Event, JobContext, JobSpec, task_fn};
/// # use backfill::testing::{EventRecorder, TestQueue};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> backfill::Result<()> {
/// let queue = TestQueue::memory();
/// queue.client().add(JobSpec::new("greet", "Ada")).await?;
/// let greet = task_fn("greet", |_: String, _: JobContext| async {});
/// let worker = queue.worker().task(greet).build()?;
/// let mut events = EventRecorder::of(&worker);
/// worker.run_until_idle().await?;
/// assert!(events.seen().iter().any(|event| matches!(event, Event::JobSucceeded { job, .. } if job.task == "greet")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventRecorder {
    stream: EventStream,
    seen: Vec<Event>,
}

impl EventRecorder {
    /// Records this worker's events from now on. If more events than the worker's
    /// [`event_capacity`](crate::WorkerBuilder::event_capacity) pass between two calls, some are missing, and [`Event::Lagged`] says so.
    #[must_use]
    pub fn of(worker: &Worker) -> Self {
        Self { stream: worker.events(), seen: Vec::new() }
    }

    /// The events so far.
    pub fn seen(&mut self) -> &[Event] {
        // The runtime's share for one task does not count: what is there is read.
        while let Some(Some(event)) = tokio::task::unconstrained(self.stream.next()).now_or_never() {
            self.seen.push(event);
        }
        &self.seen
    }

    /// Waits for an event of which this is so, and returns it; it may have been told already.
    ///
    /// # Panics
    /// When the time is over, or the worker is gone, with the events that were seen.
    #[track_caller]
    pub fn wait_for(
        &mut self,
        timeout: impl IntoDuration,
        is_it: impl Fn(&Event) -> bool,
    ) -> impl Future<Output = Event> {
        let (caller, timeout) = (Location::caller(), timeout.into_duration());
        async move {
            if let Some(event) = self.seen().iter().find(|event| is_it(event)) {
                return event.clone();
            }
            let wait = async {
                while let Some(event) = self.stream.next().await {
                    self.seen.push(event.clone());
                    if is_it(&event) {
                        return Some(event);
                    }
                }
                None
            };
            match tokio::time::timeout(timeout, wait).await {
                Ok(Some(event)) => event,
                ended => {
                    let why = if ended.is_ok() {
                        "the worker is gone".to_owned()
                    } else {
                        format!("waited for {}", human(timeout))
                    };
                    let events = self.seen.iter().fold(String::new(), |mut text, event| {
                        let _ = writeln!(text, "  {event:?}");
                        text
                    });
                    panic!("{why} at {caller}, and no such event was told; there were\n{events}")
                }
            }
        }
    }
}
