//! What all parts of a running engine share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hub::Hub;
use super::run::{Execution, Outcome, Place};
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::store::{
    Change, Checkpoint, Checkpointed, Claimed, Created, Filter, Finish, Held, Ms, Status, Store, Transition,
};
use crate::workflow::Registered;

/// How an engine was set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) executor: String,
    pub(crate) version: String,
    pub(crate) application: Option<String>,
    pub(crate) lease: Duration,
    pub(crate) poll: Duration,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) listen: Option<HashSet<String>>,
    pub(crate) max_running: usize,
}

/// What all parts of a running engine share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) writer: Writer,
    pub(crate) settings: Settings,
    pub(crate) registry: HashMap<&'static str, Registered>,
    pub(crate) jobs: Option<super::Jobs>,
    /// The workflows that run here.
    live: Mutex<HashMap<Arc<str>, Arc<Execution>>>,
    /// How many of each queue and part run here.
    places: Mutex<HashMap<Place, usize>>,
    /// Queues that may have work.
    woken: Mutex<HashSet<String>>,
    all_woken: AtomicBool,
    /// Wakes the dispatcher.
    pub(crate) nudge: Notify,
    /// Wakes the sweeper.
    pub(crate) sweep: Notify,
    pub(crate) due: AtomicI64,
    /// Wakes what starts the scheduled.
    pub(crate) schedules: Notify,
    queues: Mutex<Option<(std::time::Instant, Arc<Vec<crate::store::QueueRow>>)>>,
    pub(crate) tracker: TaskTracker,
    /// That nothing more is to be begun.
    pub(crate) closing: CancellationToken,
    /// That nothing more is to be written.
    pub(crate) closed: CancellationToken,
    /// That whatever runs here is given up, also what begins from now on.
    abandoned: AtomicBool,
    /// The tokens of what is put back after a pause.
    returning: Mutex<HashSet<String>>,
    /// When a heartbeat was written last.
    pub(crate) last_beat: Mutex<Option<std::time::Instant>>,
    /// Whether this engine may take work.
    pub(crate) paused: AtomicBool,
    /// How far the storage's clock is ahead of this process's.
    skew: AtomicI64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        writer: Writer,
        settings: Settings,
        registry: HashMap<&'static str, Registered>,
        jobs: Option<super::Jobs>,
        closed: CancellationToken,
    ) -> Self {
        Self {
            store,
            hub,
            writer,
            settings,
            registry,
            jobs,
            live: Mutex::default(),
            places: Mutex::default(),
            woken: Mutex::default(),
            all_woken: AtomicBool::new(false),
            nudge: Notify::new(),
            sweep: Notify::new(),
            due: AtomicI64::new(Ms::MAX),
            schedules: Notify::new(),
            queues: Mutex::default(),
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            closed,
            abandoned: AtomicBool::new(false),
            returning: Mutex::default(),
            last_beat: Mutex::default(),
            paused: AtomicBool::new(false),
            skew: AtomicI64::new(0),
        }
    }

    /// The queues' settings, and when they were read.
    pub(crate) fn queues(&self) -> MutexGuard<'_, Option<(std::time::Instant, Arc<Vec<crate::store::QueueRow>>)>> {
        lock(&self.queues)
    }

    /// The storage's time, as near as this process knows it.
    pub(crate) fn now(&self) -> Ms {
        self.store.clock().unwrap_or_else(|| Utc::now().timestamp_millis() + self.skew.load(Ordering::Relaxed))
    }

    /// Asks the storage what time it is.
    pub(crate) async fn set_clock(&self) -> Result<()> {
        let before = Utc::now().timestamp_millis();
        let there = self.store.now().await?;
        let after = Utc::now().timestamp_millis();
        // Half of the way there and back.
        self.skew.store(there - i64::midpoint(before, after), Ordering::Relaxed);
        Ok(())
    }

    /// Waits until this moment by the storage's clock.
    pub(crate) async fn sleep_until(&self, until: Ms) {
        loop {
            let now = self.now();
            if now >= until {
                return;
            }
            self.store.sleep_until(until, now).await;
        }
    }

    /// Cancels an execution whose time is up. Answers whether it is cancelled now: somebody else may have it, or the engine closes.
    pub(crate) async fn cancel(&self, id: &str, owner: &str) -> bool {
        let cancel = Transition::CancelHeld { held: vec![Held { run: id.to_owned(), owner: owner.to_owned() }] };
        loop {
            match self.store.transition(&cancel).await {
                Ok(moved) => return !moved.is_empty(),
                Err(error) if error.is_transient() && !self.closed.is_cancelled() => {
                    tracing::warn!(workflow = id, %error, "a workflow whose time is up could not be cancelled; it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(_) => return false,
            }
        }
    }

    /// Tells an execution that runs here that it was cancelled, or is somebody else's. Another one of the same workflow goes on.
    pub(crate) fn steered(&self, id: &str, owner: Option<&str>, cancelled: bool) {
        if let Some(execution) = lock(&self.live).get(id)
            && owner == Some(execution.owner.as_str())
        {
            if cancelled {
                execution.control.cancel();
            } else {
                execution.control.lose();
            }
        }
        self.hub.wake(&Change::Finished(id.to_owned()));
    }

    /// Tells whoever runs a workflow here that it is gone.
    pub(crate) fn lose(&self, id: &str) {
        if let Some(execution) = lock(&self.live).get(id) {
            execution.control.lose();
        }
        self.hub.wake(&Change::Finished(id.to_owned()));
    }

    pub(crate) fn runs_here(&self, id: &str) -> bool {
        lock(&self.live).contains_key(id)
    }

    /// The tokens of what runs here, and of what is put back after a pause.
    pub(crate) fn owners(&self) -> Vec<String> {
        let mut owners: Vec<String> = lock(&self.returning).iter().cloned().collect();
        owners.extend(lock(&self.live).values().map(|one| one.owner.clone()));
        owners
    }

    /// What this process believes to run.
    pub(crate) fn held(&self) -> Vec<Held> {
        let live = lock(&self.live);
        live.values().map(|one| Held { run: one.id.to_string(), owner: one.owner.clone() }).collect()
    }

    pub(crate) fn running(&self) -> usize {
        lock(&self.live).len()
    }

    pub(crate) fn running_at(&self, place: &Place) -> usize {
        lock(&self.places).get(place).copied().unwrap_or(0)
    }

    pub(crate) fn running_in(&self, queue: &str) -> usize {
        lock(&self.places).iter().filter(|(place, _)| place.queue == queue).map(|(_, count)| *count).sum()
    }

    /// Says that a queue may have work.
    pub(crate) fn wake_queue(&self, queue: &str) {
        lock(&self.woken).insert(queue.to_owned());
        self.nudge.notify_one();
    }

    /// Says that any queue may have work.
    pub(crate) fn wake_all_queues(&self) {
        self.all_woken.store(true, Ordering::Release);
        self.nudge.notify_one();
    }

    /// The queues that may have work, and whether all may.
    pub(crate) fn take_woken(&self) -> (HashSet<String>, bool) {
        (std::mem::take(&mut *lock(&self.woken)), self.all_woken.swap(false, Ordering::AcqRel))
    }

    /// Says that something is due at this moment.
    pub(crate) fn note_due(&self, at: Ms) {
        if self.due.fetch_min(at, Ordering::AcqRel) > at {
            self.sweep.notify_one();
        }
    }

    /// Runs a workflow that is this process's own.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        execution: Execution,
        registered: &Registered,
        input: Option<String>,
        format: Option<String>,
    ) {
        let execution = Arc::new(execution);
        lock(&self.live).insert(Arc::clone(&execution.id), Arc::clone(&execution));
        if let Some(place) = &execution.place {
            *lock(&self.places).entry((**place).clone()).or_default() += 1;
        }
        if self.abandoned.load(Ordering::Acquire) {
            execution.control.lose();
        }
        let (begin, ctx) = (Arc::clone(&registered.begin), crate::Ctx::new(Arc::clone(&execution)));
        // Begun inside its task, so that a function that panics before its first step harms nobody else.
        let body = Box::pin(async move {
            let work = begin(ctx, input.as_deref(), format.as_deref());
            drop((input, format));
            work.await
        });
        self.tracker.spawn(execution.drive(body));
    }

    /// Runs what was claimed, or ends it if it was begun too often.
    pub(crate) async fn run_claimed(self: &Arc<Self>, claimed: Claimed) {
        let Claimed { run, steps } = claimed;
        let Some(registered) = self.registry.get(run.name.as_str()) else { return };
        let max = registered.max_attempts.map_or(self.settings.max_attempts, |attempts| attempts.0);
        if max.is_some_and(|max| run.attempts > i64::from(max) + 1) {
            tracing::error!(
                workflow = run.id,
                name = run.name,
                attempts = run.attempts,
                "begun too often without an end"
            );
            let finish = Finish {
                run: run.id.clone(),
                owner: run.owner.clone().unwrap_or_default(),
                status: Status::Exhausted,
                output: None,
                error: None,
            };
            if let Err(error) = self.writer.finish(finish).await {
                tracing::warn!(workflow = run.id, %error, "could not be set aside");
            }
            self.hub.wake(&Change::Finished(run.id));
            return;
        }
        let execution = Execution::new(Arc::clone(self), registered.name, &run, steps);
        self.spawn(execution, registered, run.input, run.format);
    }

    /// Puts a workflow back into its queue after a while, longer with each attempt.
    pub(crate) fn put_back(self: &Arc<Self>, id: &str, owner: &str, attempts: i64) {
        let core = Arc::clone(self);
        let held = Held { run: id.to_owned(), owner: owner.to_owned() };
        let exponent = u32::try_from(attempts.clamp(1, 7) - 1).unwrap_or(0);
        let pause = Duration::from_secs(1 << exponent);
        lock(&self.returning).insert(owner.to_owned());
        self.tracker.spawn(async move {
            let _returned = Returned { core: Arc::clone(&core), owner: held.owner.clone() };
            let closing = core.closing.clone();
            // If the engine closes, the lease's end gives it back.
            if closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            loop {
                match core.store.transition(&Transition::Return { held: vec![held.clone()] }).await {
                    Err(error) if error.is_transient() && !closing.is_cancelled() => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Ok(moved) => {
                        for queue in moved.into_iter().filter_map(|one| one.queue) {
                            core.wake_queue(&queue);
                        }
                        return;
                    }
                    Err(_) => return,
                }
            }
        });
    }

    /// Forgets an execution that has ended here.
    pub(crate) fn forget(&self, execution: &Execution) {
        let mut live = lock(&self.live);
        if live.get(&execution.id).is_some_and(|one| one.owner == execution.owner) {
            live.remove(&execution.id);
        }
        drop(live);
        if let Some(place) = &execution.place {
            let mut places = lock(&self.places);
            if let Some(count) = places.get_mut(&**place) {
                *count -= 1;
                if *count == 0 {
                    places.remove(&**place);
                }
            }
            drop(places);
            self.wake_queue(&place.queue);
        }
    }

    /// Drops everything that runs here. The rows stay as they are.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        for execution in lock(&self.live).values() {
            execution.control.lose();
        }
    }

    /// Stores a workflow as this process's own, and begins it. It is begun also if the caller is dropped meanwhile.
    pub(crate) async fn create_and_begin(
        self: &Arc<Self>,
        new: crate::store::NewRun,
        outcome: Arc<OnceLock<Outcome>>,
    ) -> Result<Created> {
        let core = Arc::clone(self);
        let work = self.tracker.spawn(async move {
            let created = core.writer.create(new.clone()).await?;
            if let Created::New { deadline } = created {
                core.begin(&new, deadline, Some(outcome));
            }
            Ok(created)
        });
        work.await.unwrap_or(Err(Error::Closed))
    }

    /// Records a step that starts a workflow, and begins that. It is begun also if the caller is dropped meanwhile.
    pub(crate) async fn checkpoint_and_begin(
        self: &Arc<Self>,
        checkpoint: Checkpoint,
        new: crate::store::NewRun,
    ) -> Result<Checkpointed> {
        let core = Arc::clone(self);
        let work = self.tracker.spawn(async move {
            let answer = core.writer.checkpoint(checkpoint).await?;
            match &answer {
                Checkpointed::Child(Created::New { deadline }) => core.begin(&new, *deadline, None),
                // Perhaps an earlier write of this step, whose answer was lost. Then the row has the token of this call.
                Checkpointed::Recorded(_) => core.begin_if_ours(&new).await,
                _ => {}
            }
            Ok(answer)
        });
        work.await.unwrap_or(Err(Error::Closed))
    }

    async fn begin_if_ours(self: &Arc<Self>, new: &crate::store::NewRun) {
        let found = self.store.runs(&Filter::of_ids([&new.id])).await.map(|mut runs| runs.pop());
        // What cannot be looked at now is found by the next look for what should run here.
        let Ok(Some(run)) = found else { return };
        let token = new.start.as_ref().map(|start| &start.owner);
        if run.status == Status::Pending && run.owner.as_ref() == token && !self.runs_here(&run.id) {
            self.begin(new, run.deadline, None);
        }
    }

    /// Begins a workflow that was stored as this process's own a moment ago.
    pub(crate) fn begin(
        self: &Arc<Self>,
        new: &crate::store::NewRun,
        deadline: Option<Ms>,
        outcome: Option<Arc<OnceLock<Outcome>>>,
    ) {
        let Some(registered) = self.registry.get(new.name.as_str()) else { return };
        let Some(start) = &new.start else { return };
        let mut execution = Execution::started(Arc::clone(self), registered.name, new, &start.owner, deadline);
        if let Some(outcome) = outcome {
            execution = execution.with_outcome(outcome);
        }
        self.spawn(execution, registered, Some(new.input.clone()), Some(crate::codec::PORTABLE.to_owned()));
    }
}

/// That an execution is put back after a pause. Until then nobody else does it.
struct Returned {
    core: Arc<Core>,
    owner: String,
}

impl Drop for Returned {
    fn drop(&mut self) {
        lock(&self.core.returning).remove(&self.owner);
    }
}
