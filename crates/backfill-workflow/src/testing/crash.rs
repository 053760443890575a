//! A process that dies at a write.

use std::sync::Arc;

use async_trait::async_trait;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use backfill::client::Within;
use futures::stream::BoxStream;
use tokio::sync::watch;

use crate::error::Result;
use crate::store::{
    Beat, Change, Checkpoint, Checkpointed, Claim, Claimed, Count, Created, Encoded, EventRow, Expired, Export, Filter,
    Finish, Fork, Held, MessageRow, Moved, Ms, NewMessage, NewRun, QueueRow, Run, ScheduleChange, ScheduleRow, StepRow,
    Store, StoreTransaction, StreamRow, Transition, VersionRow,
};

/// A storage that is cut off at a write: the process that uses it is as good as dead from then on. Drop its engine, and launch another one on the storage
/// itself.
///
/// Writes that count are those of workflows: new ones, steps, ends.
#[derive(Clone)]
pub struct Crash {
    store: Arc<dyn Store>,
    state: Arc<watch::Sender<State>>,
}

/// What a process was writing when it died.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// A new workflow.
    Start {
        /// The workflow.
        id: String,
    },
    /// A step.
    Step {
        /// Its number.
        number: i32,
        /// Its name.
        name: String,
    },
    /// A workflow's end.
    End {
        /// What it answered.
        output: Option<String>,
        /// What it failed with, as it is recorded.
        error: Option<String>,
    },
}

impl Write {
    fn start(runs: &[NewRun]) -> Option<Self> {
        runs.first().map(|run| Self::Start { id: run.id.clone() })
    }

    fn step(checkpoints: &[Checkpoint]) -> Option<Self> {
        checkpoints.first().map(|one| Self::Step { number: one.step.number, name: one.step.name.clone() })
    }

    fn end(finishes: &[Finish]) -> Option<Self> {
        finishes.first().map(|one| Self::End { output: one.output.clone(), error: one.error.clone() })
    }
}

struct State {
    last: Option<Write>,
    /// How many writes are still done.
    left: Option<usize>,
    /// Whether the last one is done before the process dies, or not.
    written: bool,
    crashed: bool,
    stalled: bool,
}

impl Crash {
    /// Dies at the write with this number, from 0: after it was `written`, or before.
    pub fn at(store: Arc<dyn Store>, write: usize, written: bool) -> Self {
        Self::new(store, Some(write), written)
    }

    /// Dies at no write. It may be stalled.
    pub fn never(store: Arc<dyn Store>) -> Self {
        Self::new(store, None, false)
    }

    fn new(store: Arc<dyn Store>, left: Option<usize>, written: bool) -> Self {
        let state = State { last: None, left, written, crashed: false, stalled: false };
        Self { store, state: Arc::new(watch::Sender::new(state)) }
    }

    /// Ends when the process has died.
    pub async fn crashed(&self) {
        // The sender is ours, so that it cannot be gone.
        drop(self.state.subscribe().wait_for(|state| state.crashed).await);
    }

    /// What the process was writing when it died: the first of what it was writing at once.
    #[must_use]
    pub fn last(&self) -> Option<Write> {
        self.state.borrow().last.clone()
    }

    /// Lets nothing through any more, as if the process stood still.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Lets everything through again that has waited.
    pub fn go_on(&self) {
        self.state.send_modify(|state| state.stalled = false);
    }

    /// Waits while the process stands still, and for ever if it is dead.
    async fn alive(&self) {
        drop(self.state.subscribe().wait_for(|state| !state.crashed && !state.stalled).await);
    }

    /// A write that counts.
    async fn write<T>(&self, what: Option<Write>, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.alive().await;
        let mut now = false;
        self.state.send_modify(|state| match &mut state.left {
            Some(0) => now = true,
            Some(left) => *left -= 1,
            None => {}
        });
        if !now {
            return work.await;
        }
        if self.state.borrow().written {
            drop(work.await);
        }
        self.state.send_modify(|state| {
            state.last = what;
            state.crashed = true;
        });
        std::future::pending().await
    }
}

macro_rules! pass {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Crash {
            fn name(&self) -> &'static str {
                self.store.name()
            }

            fn clock(&self) -> Option<Ms> {
                self.store.clock()
            }

            async fn sleep_until(&self, until: Ms, now: Ms) {
                self.store.sleep_until(until, now).await;
            }

            async fn create(&self, runs: &[NewRun]) -> Result<Vec<Created>> {
                self.write(Write::start(runs), self.store.create(runs)).await
            }

            #[cfg(any(feature = "postgres", feature = "sqlite"))]
            async fn create_within(&self, within: Within<'_>, run: &NewRun) -> Result<Created> {
                self.write(Write::start(std::slice::from_ref(run)), self.store.create_within(within, run)).await
            }

            async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
                self.alive().await;
                self.store.claim(claim).await
            }

            async fn checkpoint(&self, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>> {
                self.write(Write::step(checkpoints), self.store.checkpoint(checkpoints)).await
            }

            async fn begin(&self) -> Result<Box<dyn StoreTransaction>> {
                self.alive().await;
                Ok(Box::new(Dying { crash: self.clone(), inner: self.store.begin().await? }))
            }

            async fn is_database_of(&self, client: &backfill::BackfillClient) -> Result<bool> {
                self.store.is_database_of(client).await
            }

            async fn finish(&self, finishes: &[Finish]) -> Result<Vec<bool>> {
                self.write(Write::end(finishes), self.store.finish(finishes)).await
            }

            fn changes(&self) -> BoxStream<'static, Change> {
                self.store.changes()
            }

            $(
                async fn $name(&self, $($argument: $type),*) -> Result<$answer> {
                    self.alive().await;
                    self.store.$name($($argument),*).await
                }
            )*
        }
    };
}

pass! {
    migrate() -> ();
    now() -> Ms;
    partitions(queue: &str) -> Vec<String>;
    beat(executor: &str, lease: Ms, live: &[Held]) -> Beat;
    retire(executor: &str) -> ();
    transition(transition: &Transition) -> Vec<Moved>;
    fork(fork: &Fork) -> bool;
    send(message: &NewMessage) -> bool;
    delete(ids: &[String]) -> Vec<String>;
    delete_expired(expired: &Expired) -> u64;
    import(exports: &[Export]) -> Vec<String>;
    runs(filter: &Filter) -> Vec<Run>;
    counts(filter: &Filter) -> Vec<Count>;
    has_message(run: &str, topic: &str) -> bool;
    steps(run: &str) -> Vec<StepRow>;
    messages(run: &str) -> Vec<MessageRow>;
    event(run: &str, key: &str) -> Option<Encoded>;
    events(run: &str) -> Vec<EventRow>;
    stream(run: &str, key: Option<&str>, from: i32) -> Vec<StreamRow>;
    queues() -> Vec<QueueRow>;
    put_queue(queue: &QueueRow, only_new: bool) -> ();
    delete_queue(name: &str) -> bool;
    schedules() -> Vec<ScheduleRow>;
    put_schedule(schedule: &ScheduleRow) -> ();
    change_schedule(name: &str, change: &ScheduleChange) -> bool;
    versions() -> Vec<VersionRow>;
    put_version(name: &str, application: Option<&str>, latest: bool) -> ();
}

/// A transaction of a process that may die at its commit.
struct Dying {
    crash: Crash,
    inner: Box<dyn StoreTransaction>,
}

#[async_trait]
impl StoreTransaction for Dying {
    fn connection(&mut self) -> &mut (dyn std::any::Any + Send) {
        self.inner.connection()
    }

    fn connection_ref(&self) -> &(dyn std::any::Any + Send) {
        self.inner.connection_ref()
    }

    async fn commit(self: Box<Self>, checkpoint: &Checkpoint) -> Result<Checkpointed> {
        let Self { crash, inner } = *self;
        crash.write(Write::step(std::slice::from_ref(checkpoint)), inner.commit(checkpoint)).await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}
