//! Writing what has gathered.
//!
//! Each commit waits for the disk. While one is under way, others gather, and the next write takes them all: with one workflow nothing waits for
//! company, and with hundreds a commit carries hundreds of steps. A write that fails for what passes is tried again until the engine
//! closes; of a batch that is refused, each member is tried alone, so that one cannot spoil the others.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::store::{Checkpoint, Checkpointed, Created, Finish, NewRun, Store};

/// How many orders may wait. Whoever has one more waits with it.
const CAPACITY: usize = 4096;
/// How many orders one write takes.
const BATCH: usize = 512;
/// How many writes are under way at once. A second one lets those begin that came just too late for the first.
const LANES: usize = 2;
/// How often a batch is tried as a whole that a storage fails to write.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

enum Order {
    Create(Box<NewRun>, oneshot::Sender<Result<Created>>),
    Checkpoint(Box<Checkpoint>, oneshot::Sender<Result<Checkpointed>>),
    Finish(Box<Finish>, oneshot::Sender<Result<bool>>),
}

/// Takes what is to be written, and answers when it is.
#[derive(Debug)]
pub(crate) struct Writer {
    orders: mpsc::Sender<Order>,
}

impl Writer {
    /// The writer, and what does its work until the token ends it. Callers that still wait then are told [`Error::Closed`].
    /// What passes is waited for if the writer is `patient`; otherwise callers are told.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        end: CancellationToken,
        patient: bool,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (orders, queue) = mpsc::channel(CAPACITY);
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let lanes = (0..LANES).map(move |_| lane(Arc::clone(&store), Arc::clone(&queue), end.clone(), patient));
        let work = futures::future::join_all(lanes);
        (Self { orders }, async move {
            work.await;
        })
    }

    pub(crate) async fn create(&self, run: NewRun) -> Result<Created> {
        self.ask(|answer| Order::Create(Box::new(run), answer)).await
    }

    pub(crate) async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Checkpointed> {
        self.ask(|answer| Order::Checkpoint(Box::new(checkpoint), answer)).await
    }

    pub(crate) async fn finish(&self, finish: Finish) -> Result<bool> {
        self.ask(|answer| Order::Finish(Box::new(finish), answer)).await
    }

    /// Cancellation: an order that was taken is written, whether or not somebody still waits for the answer.
    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<Result<T>>) -> Order) -> Result<T> {
        let (answer, heard) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| Error::Closed)?;
        heard.await.unwrap_or(Err(Error::Closed))
    }
}

async fn lane(
    store: Arc<dyn Store>,
    queue: Arc<tokio::sync::Mutex<mpsc::Receiver<Order>>>,
    end: CancellationToken,
    patient: bool,
) {
    let mut orders = Vec::new();
    loop {
        // The lock is held while one lane waits for orders; the other has nothing to do then, either.
        let taken = end
            .run_until_cancelled(async { queue.lock().await.recv_many(&mut orders, BATCH).await })
            .await
            .unwrap_or(0);
        if taken == 0 {
            queue.lock().await.close();
            return;
        }
        end.run_until_cancelled(write(&*store, std::mem::take(&mut orders), patient)).await;
    }
}

async fn write(store: &dyn Store, orders: Vec<Order>, patient: bool) {
    let (mut creates, mut finishes) = (Batch::default(), Batch::default());
    let (mut steps, mut effects) = (Batch::default(), Batch::default());
    for order in orders {
        match order {
            Order::Create(run, answer) => creates.push(*run, answer),
            // A step that was dropped meanwhile is as good as never begun.
            Order::Checkpoint(_, answer) if answer.is_closed() => {}
            Order::Checkpoint(one, answer) if one.effect.is_none() => steps.push(*one, answer),
            Order::Checkpoint(one, answer) => effects.push(*one, answer),
            Order::Finish(finish, answer) => finishes.push(*finish, answer),
        }
    }
    // Plain steps first, which are one statement; and steps before ends: one that lost a race may still be on its way when its workflow ends.
    creates.write(store, patient).await;
    steps.write(store, patient).await;
    effects.write(store, patient).await;
    finishes.write(store, patient).await;
}

/// What is written in batches.
trait Item: Sized + Send + Sync {
    type Answer: Send;

    fn store<'a>(store: &'a dyn Store, items: &'a [Self]) -> BoxFuture<'a, Result<Vec<Self::Answer>>>;
}

impl Item for NewRun {
    type Answer = Created;

    fn store<'a>(store: &'a dyn Store, items: &'a [Self]) -> BoxFuture<'a, Result<Vec<Created>>> {
        store.create(items)
    }
}

impl Item for Checkpoint {
    type Answer = Checkpointed;

    fn store<'a>(store: &'a dyn Store, items: &'a [Self]) -> BoxFuture<'a, Result<Vec<Checkpointed>>> {
        store.checkpoint(items)
    }
}

impl Item for Finish {
    type Answer = bool;

    fn store<'a>(store: &'a dyn Store, items: &'a [Self]) -> BoxFuture<'a, Result<Vec<bool>>> {
        store.finish(items)
    }
}

struct Batch<I: Item> {
    items: Vec<I>,
    answers: Vec<oneshot::Sender<Result<I::Answer>>>,
}

impl<I: Item> Default for Batch<I> {
    fn default() -> Self {
        Self { items: Vec::new(), answers: Vec::new() }
    }
}

impl<I: Item> Batch<I> {
    fn push(&mut self, item: I, answer: oneshot::Sender<Result<I::Answer>>) {
        self.items.push(item);
        self.answers.push(answer);
    }

    async fn write(self, store: &dyn Store, patient: bool) {
        if self.items.is_empty() {
            return;
        }
        match persist(store, &self.items, patient).await {
            Ok(results) => {
                for (answer, result) in self.answers.into_iter().zip(results) {
                    // Whoever asked may have been dropped.
                    let _ = answer.send(Ok(result));
                }
            }
            // If the storage is away, each member would wait for as long to be told the same.
            Err(error) if self.items.len() == 1 || (!patient && error.is_away()) => {
                for answer in self.answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            Err(_) => {
                for (item, answer) in self.items.iter().zip(self.answers) {
                    let result = persist(store, std::slice::from_ref(item), patient).await;
                    let result = result.and_then(|mut results| {
                        results.pop().ok_or_else(|| Error::decode("the storage's answer", "it has no row"))
                    });
                    let _ = answer.send(result);
                }
            }
        }
    }
}

/// Tries until it is written or refused.
async fn persist<I: Item>(store: &dyn Store, items: &[I], patient: bool) -> Result<Vec<I::Answer>> {
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        match I::store(store, items).await {
            // A storage that answers, and fails again and again, may fail for one of them: the others are written by themselves.
            Err(error) if items.len() > 1 && tries >= TRIES && !error.is_away() => return Err(error),
            Err(error) if patient && error.is_transient() => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "a write failed, and is tried again");
                tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}
