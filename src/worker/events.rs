//! What a worker tells about itself, for logs and metrics.
//!
//! Events go through a channel of limited length that the worker never waits for. Whoever reads more slowly than it tells is
//! told how many events it missed ([`Event::Lagged`]). As long as nobody listens, nothing is even put together.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use serde::{Serialize, Serializer};

use super::Summary;
use super::engine::Hold;
use crate::cron::CronEvent;
use crate::job::{Job, JobId, RunAt};
use crate::storage::{Outcome, WorkerId};

/// Something that happened in a worker.
///
/// A job's own events come in this order: `JobStarted`, one of `JobSucceeded`, `JobFailed`, `JobDead` and `JobSnoozed`
/// (what came of it), and `Written` once that is durable.
/// As JSON it is an object whose field `event` has the kind, in snake case; durations are in seconds.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The worker is registered; it begins to claim.
    Started {
        /// The worker's id.
        worker: Arc<WorkerId>,
        /// The storage's name.
        storage: String,
        /// The tasks it runs, sorted.
        tasks: Vec<String>,
        /// How many jobs it runs at the same time.
        concurrency: usize,
    },
    /// Wakeups are delivered from now on.
    Listening,
    /// Wakeups are not delivered at present; polling has to do.
    ListenerLost {
        /// Why.
        reason: String,
    },
    /// A wakeup came.
    Notified {
        /// About how many jobs were added.
        count: u64,
    },
    /// The worker asks for jobs.
    Claiming {
        /// How many, at the most.
        limit: usize,
    },
    /// A claim was answered.
    Claimed {
        /// How many jobs came; possibly none.
        jobs: usize,
    },
    /// A job was handed off, without a claim. It starts, or is released.
    HandedOff {
        /// The job.
        job: Arc<Job>,
    },
    /// A claim failed; it is tried again.
    ClaimFailed {
        /// Why.
        error: String,
    },
    /// The worker does other work from now on, as its handle was told.
    WorkChanged {
        /// The tasks it runs, sorted.
        tasks: Vec<String>,
        /// How many jobs it runs at the same time.
        concurrency: usize,
    },
    /// The worker asks for no jobs until this changes. Told when the reason does.
    Holding {
        /// Why.
        reason: Hold,
    },
    /// Jobs that were claimed ahead and could not start in time, or at all, are released.
    Released {
        /// How many.
        jobs: usize,
    },
    /// A prefetch found so few jobs that the next one waits.
    RefetchDelayed {
        /// How many it found.
        found: usize,
        /// How long the next one waits.
        #[serde(serialize_with = "seconds")]
        delay: Duration,
    },
    /// So many jobs were added meanwhile that the next prefetch waits no longer.
    RefetchDelayAborted {
        /// How many.
        count: u64,
    },
    /// A job was started.
    JobStarted {
        /// The job.
        job: Arc<Job>,
    },
    /// Its task is done with it.
    JobSucceeded {
        /// The job.
        job: Arc<Job>,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// Its attempt failed, and another one follows.
    JobFailed {
        /// The job.
        job: Arc<Job>,
        /// What becomes its `last_error`.
        error: String,
        /// When it is tried again.
        retry: RunAt,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// Its attempt failed, and it was the last one.
    JobDead {
        /// The job.
        job: Arc<Job>,
        /// What becomes its `last_error`.
        error: String,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// Its task put it off.
    JobSnoozed {
        /// The job.
        job: Arc<Job>,
        /// Until when.
        until: RunAt,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// It was cut off by the worker's end. That is no failure: it is ready again at once.
    JobInterrupted {
        /// The job.
        job: Arc<Job>,
        /// What becomes its `last_error`.
        error: String,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// What came of these jobs is stored.
    Written {
        /// The jobs.
        jobs: Vec<JobId>,
        /// Those of other jobs whose claim had been broken: their results came too late, and count for nothing.
        stale: Vec<JobId>,
    },
    /// Results could not be written; they are kept and tried again.
    WriteFailed {
        /// How many.
        jobs: usize,
        /// Why.
        error: String,
    },
    /// Something happened in the crontab's scheduler.
    Cron(CronEvent),
    /// Jobs whose locks were older than four hours were looked for.
    Swept {
        /// How many were released.
        jobs: u64,
    },
    /// They could not be looked for.
    SweepFailed {
        /// Why.
        error: String,
    },
    /// Another worker missed its heartbeats, and its jobs were released.
    Rescued {
        /// The worker's id.
        worker: String,
        /// How many jobs it held.
        jobs: u64,
    },
    /// A heartbeat could not be sent.
    HeartbeatFailed {
        /// Why.
        error: String,
    },
    /// Others declared this worker dead; it goes on under another identity.
    Evicted {
        /// The identity it had.
        was: Arc<WorkerId>,
        /// The identity it asks for.
        now: Arc<WorkerId>,
    },
    /// The schema was migrated beyond what this version knows; the worker ends.
    BreakingMigration {
        /// The revision.
        revision: i32,
    },
    /// A signal was heard.
    Signal {
        /// Its name, such as `SIGTERM`.
        name: &'static str,
    },
    /// The worker comes to an end: nothing is started any more.
    ShuttingDown {
        /// How many jobs are running.
        running: usize,
        /// Whether it was forced to end at once.
        forced: bool,
    },
    /// The worker has ended.
    Ended {
        /// What it did, unless it ended with an error.
        summary: Option<Summary>,
        /// The error, if it ended with one.
        error: Option<String>,
    },
    /// The reader was too slow: this many events are gone.
    Lagged {
        /// How many.
        missed: u64,
    },
}

impl Event {
    pub(super) fn of_outcome(job: Arc<Job>, outcome: &Outcome, took: Duration) -> Self {
        match outcome {
            Outcome::Completed { .. } => Self::JobSucceeded { job, took },
            Outcome::Failed { error, retry, .. } if job.attempts < job.max_attempts => {
                Self::JobFailed { job, error: error.clone(), retry: *retry, took }
            }
            Outcome::Failed { error, .. } | Outcome::Dead { error, .. } => {
                Self::JobDead { job, error: error.clone(), took }
            }
            Outcome::Snoozed { until, .. } => Self::JobSnoozed { job, until: *until, took },
            Outcome::Interrupted { error, .. } => Self::JobInterrupted { job, error: error.clone(), took },
            _ => Self::Released { jobs: 1 },
        }
    }
}

/// A stream of events; see [`Worker::events`](super::Worker::events). It ends when the worker is dropped.
pub struct EventStream(BoxStream<'static, Event>);

impl EventStream {
    /// The next event; `None` when the worker is gone. (Those who have the crate `futures` may use it as a stream.)
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventStream")
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// The sending side. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Events {
    capacity: usize,
    /// Made when somebody first asks for events.
    sender: Arc<OnceLock<broadcast::Sender<Event>>>,
}

impl Events {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, sender: Arc::default() }
    }

    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = self.sender.get().filter(|sender| sender.receiver_count() > 0) {
            // Whether somebody still hears it does not matter.
            let _ = sender.send(event());
        }
    }

    pub(super) fn subscribe(&self) -> EventStream {
        let receiver = self.sender.get_or_init(|| broadcast::Sender::new(self.capacity)).subscribe();
        let events = stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(RecvError::Lagged(missed)) => Some((Event::Lagged { missed }, receiver)),
                Err(RecvError::Closed) => None,
            }
        });
        EventStream(events.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Payload;

    #[test]
    fn an_event_is_an_object_that_names_its_kind() {
        let json = |event: &Event| serde_json::to_value(event).expect("json");
        let holding = json(&Event::Holding { reason: Hold::Full });
        assert_eq!(holding, serde_json::json!({ "event": "holding", "reason": "full" }));
        let job = Arc::new(Job::new(7, "t", Payload::empty(), chrono::DateTime::UNIX_EPOCH));
        let retry = RunAt::In(Duration::from_millis(1500));
        let failed = json(&Event::JobFailed { job, error: "no".to_owned(), retry, took: Duration::from_millis(250) });
        assert_eq!((&failed["event"], &failed["job"]["id"]), (&"job_failed".into(), &7.into()));
        assert_eq!((&failed["took"], &failed["retry"]), (&0.25.into(), &1.5.into()));
        let cron = json(&Event::Cron(CronEvent::Started { at: chrono::DateTime::UNIX_EPOCH }));
        assert_eq!((&cron["event"], &cron["cron"]), (&"cron".into(), &"started".into()));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed_and_the_stream_ends() {
        let events = Events::new(4);
        events.tell(|| unreachable!("nobody listens"));
        let mut stream = events.subscribe();
        for count in 0..10 {
            events.tell(|| Event::Notified { count });
        }
        drop(events);
        let mut seen = Vec::new();
        while let Some(event) = stream.next().await {
            seen.push(event);
        }
        assert!(matches!(seen[0], Event::Lagged { missed: 6 }), "{seen:?}");
        assert!(matches!(seen[4], Event::Notified { count: 9 }) && seen.len() == 5, "{seen:?}");
    }
}
