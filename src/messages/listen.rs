//! Waiting for messages without asking again and again.
//!
//! One task for all subscriptions of a [`Queue`] and its clones, the *hub*, hears the storage's news and wakes whom they concern. Once a second it
//! also looks: at the lines that somebody waits for, all in one call, and for leases that have ended. So a wakeup that was missed, or
//! a message whose time has come, is found within a second.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::Queue;
use super::record::forget_abandoned;
use crate::error::Result;
use crate::storage::Storage;
use crate::storage::messages::{Names, News};

/// How often the hub looks.
const LOOK: Duration = Duration::from_secs(1);
/// How often expired documents are forgotten, and how many at a time.
const SWEEP: u64 = 60;
const SWEEP_AT_ONCE: u32 = 10_000;
/// So many pages of records are looked through at a time.
const SWEEP_PAGES: usize = 20;
/// How long to wait after the storage has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Wakes subscriptions.
#[derive(Debug)]
pub(super) struct Hub {
    shared: Arc<Shared>,
    /// Of the namespace.
    prefix: String,
    storage: Arc<dyn Storage>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Whether it was told to end.
    closed: AtomicBool,
}

/// Who waits for which line.
#[derive(Debug, Default)]
struct Shared(Mutex<HashMap<String, Vec<Weak<Waiter>>>>);

#[derive(Debug, Default)]
struct Waiter {
    /// Lines in which something may be ready, since the waiter last looked.
    woken: Mutex<BTreeSet<String>>,
    notify: Notify,
}

impl Hub {
    pub(super) fn new(storage: Arc<dyn Storage>, prefix: &str) -> Self {
        Self {
            shared: Arc::default(),
            prefix: prefix.to_owned(),
            storage,
            task: Mutex::default(),
            closed: AtomicBool::default(),
        }
    }

    /// Begins to listen, if it does not yet. (Where there is no runtime, nobody waits.)
    pub(super) fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.closed.load(Ordering::Relaxed)
            && task.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (shared, storage, prefix) = (Arc::clone(&self.shared), Arc::clone(&self.storage), self.prefix.clone());
            *task = Some(runtime.spawn(async move { run(&shared, &*storage, &prefix).await }));
        }
    }

    /// Something may be ready in this line: heard here first, from whoever did it.
    pub(super) fn wake(&self, line: &str) {
        self.shared.wake(line);
    }

    pub(super) async fn end(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It was aborted.
            let _ = task.await;
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Shared {
    fn waiters(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Weak<Waiter>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, line: &str) {
        if let Some(waiters) = self.waiters().get(line) {
            for waiter in waiters.iter().filter_map(Weak::upgrade) {
                waiter.wake(line);
            }
        }
    }

    fn wake_all(&self) {
        for (line, waiters) in &*self.waiters() {
            for waiter in waiters.iter().filter_map(Weak::upgrade) {
                waiter.wake(line);
            }
        }
    }

    /// The lines that somebody waits for; forgets those that nobody does.
    fn lines(&self) -> Vec<String> {
        let mut waiters = self.waiters();
        waiters.retain(|_, of_line| {
            of_line.retain(|waiter| waiter.strong_count() > 0);
            !of_line.is_empty()
        });
        waiters.keys().cloned().collect()
    }
}

impl Waiter {
    fn wake(&self, line: &str) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_owned());
        self.notify.notify_one();
    }
}

/// Both at once: a listener that is not polled may keep a connection that the looks need.
async fn run(shared: &Shared, storage: &dyn Storage, prefix: &str) {
    futures::join!(hear(shared, storage), look(shared, storage, prefix));
}

async fn hear(shared: &Shared, storage: &dyn Storage) {
    let Some(messages) = storage.messages() else { return };
    let mut news = messages.news();
    while let Some(news) = news.next().await {
        match news {
            News::Changed(changes) => match &changes.lines {
                Names::All => shared.wake_all(),
                Names::These(lines) => lines.iter().for_each(|line| shared.wake(line)),
            },
            // Something may have been missed.
            News::Listening => shared.wake_all(),
            News::Lost { reason, .. } => tracing::debug!(reason, "not listening; looking once a second"),
            _ => {}
        }
    }
}

async fn look(shared: &Shared, storage: &dyn Storage, prefix: &str) {
    let mut swept = None;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for looks in 1.. {
        ticks.tick().await;
        let is_time = looks % SWEEP == 1;
        if let Err(error) = look_around(shared, storage, is_time.then_some((prefix, &mut swept))).await {
            tracing::debug!(%error, "could not look for messages");
            sleep(PAUSE).await;
        }
    }
}

/// If it is time, it sweeps, too: of this namespace's records those after the last ones.
async fn look_around(
    shared: &Shared,
    storage: &dyn Storage,
    sweeps: Option<(&str, &mut Option<String>)>,
) -> Result<()> {
    let messages = storage.require_messages()?;
    messages.end_leases(None).await?;
    if let Some((prefix, swept)) = sweeps {
        for _ in 0..SWEEP_PAGES {
            forget_abandoned(messages, prefix, swept).await?;
            if swept.is_none() {
                break;
            }
        }
        // As many as there are: what ends is remembered by one each.
        while messages.sweep_documents(SWEEP_AT_ONCE).await? >= u64::from(SWEEP_AT_ONCE) {}
    }
    let lines = shared.lines();
    if !lines.is_empty() {
        for depth in messages.depths(&lines, 1).await? {
            if depth.ready > 0 {
                shared.wake(&depth.line);
            }
        }
    }
    Ok(())
}

/// Waits for messages of some queues. What comes between two waits is not missed.
#[derive(Debug)]
pub struct Subscription {
    waiter: Arc<Waiter>,
    /// The queues, by their lines.
    queues: HashMap<String, String>,
    /// Which hub wakes it.
    queue: Queue,
}

impl Subscription {
    /// Waits until something may be ready in one of the queues, and answers in which; `None` when the time has passed.
    ///
    /// It says where to look, no more: another worker may be faster.
    pub async fn wait(&mut self, timeout: Duration) -> Option<String> {
        self.queue.inner.hub.start();
        // Beyond what a clock can say, a timeout is none.
        let until =
            Instant::now().checked_add(timeout).unwrap_or_else(|| Instant::now() + Duration::from_hours(24 * 365));
        loop {
            let woken = self.waiter.woken.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if let Some(line) = woken {
                return self.queues.get(&line).cloned();
            }
            timeout_at(until, self.waiter.notify.notified()).await.ok()?;
        }
    }
}

impl Queue {
    /// Waits for messages of these queues from now on. Subscribe, claim until nothing is ready, wait, and so on: no message comes
    /// unnoticed in between.
    #[must_use]
    pub fn subscribe(&self, queues: &[&str]) -> Subscription {
        let waiter = Arc::new(Waiter::default());
        let queues: HashMap<String, String> =
            queues.iter().map(|queue| (self.inner.names.line(queue), (*queue).to_owned())).collect();
        let mut waiters = self.inner.hub.shared.waiters();
        for line in queues.keys() {
            waiters.entry(line.clone()).or_default().push(Arc::downgrade(&waiter));
        }
        drop(waiters);
        self.inner.hub.start();
        Subscription { waiter, queues, queue: self.clone() }
    }
}
