//! The thread that writes.
//!
//! Each call hands over a piece of *work*, a function that gets the connection inside a transaction. Whatever has gathered while
//! the last transaction was being written goes into the next one, each piece in a savepoint, so that one that fails takes
//! nothing of the others back. The callers are answered after the commit. A caller that has gone before its work began is passed
//! by; what has begun ends, whether or not anybody waits for it.
//!
//! Single jobs that gathered are one piece of work together.
//!
//! Other processes want to write too. SQLite has no queue for them: whoever waits asks again now and then, and would never meet a
//! free file beside a writer that begins again at once. So the thread asks often, and leaves a gap whenever it has had the file for
//! long.
//!
//! The thread has a small runtime of its own, so that nothing the program does with its threads can keep a transaction open. It
//! ends when the last handle to its file is gone, which waits for it: it closes the connections that only read, and its own last.

mod work;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use backfill_core::error::FailureKind;
use backfill_core::job::{Job, NewJob};
use backfill_core::{Error, Result};
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::file::MonotonicClock;
use crate::place::{Log, Place, is_gone};
use work::{Adds, Call, Work};

/// The most calls that one transaction answers.
const GROUP: usize = 1_000;
/// How long the thread waits for other processes before its calls fail.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How often it asks, in microseconds between: from and to.
const ASKS: (u64, u64) = (500, 1_500);
/// After so much writing without a pause it leaves a gap, in which others find the file free.
const LONG: Duration = Duration::from_millis(100);
const GAP: Duration = Duration::from_millis(4);
/// How often the file is opened before that is an error: processes that begin at once disturb each other in changing the
/// journal's mode, which does not wait.
const OPENINGS: u32 = 50;
/// How long the last handle waits for the thread to end, and the thread for connections that are still reading. What takes longer ends
/// with the program, which does no harm: the log is there, and whoever opens the file next copies it back.
const MAX_END: Duration = Duration::from_secs(2);
const MAX_READING: Duration = Duration::from_secs(1);

/// What callers pass.
enum Message {
    Work(Box<dyn Work>),
    /// A job to be stored, without a key.
    Add(NewJob, oneshot::Sender<Result<Job>>),
    /// A connection that is to be closed.
    Close(SqliteConnection),
    /// The last handle is gone.
    End,
}

pub(crate) struct Writer {
    calls: mpsc::UnboundedSender<Message>,
    waited: Waited,
    thread: ThreadId,
    /// Of which nothing comes but its end: the thread's.
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

/// Closes connections.
pub(crate) struct Closer(mpsc::UnboundedSender<Message>);

impl Closer {
    pub(crate) fn close(&self, connection: SqliteConnection) {
        // If the thread has ended, it closes by being dropped, some time.
        let _ = self.0.send(Message::Close(connection));
    }
}

impl Writer {
    pub(crate) fn start(options: SqliteConnectOptions, place: Arc<Place>, clock: Arc<MonotonicClock>) -> Result<Self> {
        // Never holds more than callers wait for.
        let (calls, received) = mpsc::unbounded_channel();
        let waited = Waited::default();
        let closing = JoinSet::new();
        let thread = Thread { options, place, clock, connection: None, closing, waited: waited.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::storage("start the thread that writes", FailureKind::Unknown, error))?;
        let (end, ended) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("backfill-sqlite".to_owned())
            .spawn(move || {
                runtime.block_on(thread.serve(received));
                drop(end);
            })
            .map_err(|error| Error::storage("start the thread that writes", FailureKind::Unknown, error))?;
        Ok(Self { calls, waited, thread: thread.thread().id(), ended: Mutex::new(ended) })
    }

    pub(crate) fn closer(&self) -> Closer {
        Closer(self.calls.clone())
    }

    /// Lets the thread end, and waits for that, though not for long.
    pub(crate) fn end(&self) {
        let _ = self.calls.send(Message::End);
        // A piece of work holds none, or it would wait for itself.
        if std::thread::current().id() != self.thread {
            let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(MAX_END);
        }
    }

    /// Does a piece of work in a transaction, and answers when that is on the disk.
    ///
    /// Dropping the future before it ends leaves open whether the work is done, as a whole or not at all.
    pub(crate) async fn write<T, F>(&self, action: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, sqlx::Result<T>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::storage(action, FailureKind::Unknown, "the thread that writes has ended");
        let call = Box::new(Call { action, work: Some(work), result: None, answer });
        self.calls.send(Message::Work(call)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Stores one job that has no key, with others that are added at the same time.
    pub(crate) async fn add(&self, job: NewJob) -> Result<Job> {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::storage("store jobs", FailureKind::Unknown, "the thread that writes has ended");
        self.calls.send(Message::Add(job, answer)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// How long transactions have to wait.
    pub(crate) fn waited(&self) -> Waited {
        self.waited.clone()
    }
}

/// How long the transaction that is under way, or was last, had to wait for other processes, in milliseconds.
#[derive(Clone, Default)]
pub(crate) struct Waited(Arc<AtomicU64>);

impl Waited {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, time: Duration) {
        self.0.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

struct Thread {
    options: SqliteConnectOptions,
    place: Arc<Place>,
    clock: Arc<MonotonicClock>,
    connection: Option<(SqliteConnection, Log)>,
    /// Connections that are being closed. One may still read.
    closing: JoinSet<()>,
    waited: Waited,
}

impl Thread {
    async fn serve(mut self, mut calls: mpsc::UnboundedReceiver<Message>) {
        let mut messages = Vec::new();
        let mut busy = Duration::ZERO;
        let mut ends = false;
        while !ends {
            // Nothing to do is a gap too.
            if calls.is_empty() {
                busy = Duration::ZERO;
            } else if busy >= LONG {
                tokio::time::sleep(GAP).await;
                busy = Duration::ZERO;
            }
            if calls.recv_many(&mut messages, GROUP).await == 0 {
                break;
            }
            let begun = Instant::now();
            ends = messages.iter().any(|message| matches!(message, Message::End));
            let mut group = self.group(&mut messages);
            if group.is_empty() {
                continue;
            }
            let committed = self.transaction(&mut group).await.map_err(Arc::new);
            if let Err(error) = &committed {
                tracing::debug!(%error, "a transaction failed");
                // While it is open, no other file can be taken for this one.
                if !is_gone(error) {
                    self.connection = None;
                }
            }
            for work in group.drain(..) {
                work.finish(committed.clone());
            }
            busy += begun.elapsed();
        }
        let _ = timeout(MAX_READING, async { while self.closing.join_next().await.is_some() {} }).await;
        if let Some((connection, _)) = self.connection {
            // What is on the disk already stays there, whatever this says.
            let _ = connection.close().await;
        }
    }

    /// The work that is wanted, in its order but for single jobs, which are stored first.
    fn group(&mut self, messages: &mut Vec<Message>) -> Vec<Box<dyn Work>> {
        let mut adds = Adds {
            clock: Arc::clone(&self.clock),
            jobs: Vec::new(),
            answers: Vec::new(),
            failed: None,
            results: Vec::new(),
        };
        let mut group: Vec<Box<dyn Work>> = Vec::new();
        while self.closing.try_join_next().is_some() {}
        for message in messages.drain(..) {
            match message {
                Message::Work(work) => group.push(work),
                Message::Add(_, answer) if answer.is_closed() => {}
                Message::Add(job, answer) => {
                    adds.jobs.push(job);
                    adds.answers.push(answer);
                }
                Message::Close(connection) => {
                    self.closing.spawn(async move {
                        let _ = connection.close().await;
                    });
                }
                Message::End => {}
            }
        }
        group.insert(0, Box::new(adds));
        group.retain(|work| !work.is_abandoned());
        group
    }

    async fn transaction(&mut self, group: &mut [Box<dyn Work>]) -> sqlx::Result<()> {
        let (waited, place) = (self.waited.clone(), Arc::clone(&self.place));
        let (connection, log) = self.connection().await?;
        let begun = Instant::now();
        // Immediate: the lock is taken, and waited for, before anything is read.
        let mut tx = loop {
            match connection.begin_with("begin immediate").await {
                Err(error) if is_busy(&error) && begun.elapsed() < MAX_WAIT => {
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(ASKS.0..ASKS.1))).await;
                }
                begun => break begun?,
            }
        };
        waited.set(begun.elapsed());
        if let Err(gone) = place.check().and_then(|()| log.check()) {
            let _ = tx.rollback().await;
            return Err(gone);
        }
        if let [work] = group {
            if !work.run(&mut tx).await {
                return tx.rollback().await;
            }
        } else {
            for work in group {
                let mut savepoint = tx.begin().await?;
                if work.run(&mut savepoint).await {
                    savepoint.commit().await?;
                } else {
                    savepoint.rollback().await?;
                }
            }
        }
        tx.commit().await
    }

    async fn connection(&mut self) -> sqlx::Result<&mut (SqliteConnection, Log)> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => (self.open().await?, self.place.log()),
        };
        Ok(self.connection.insert(connection))
    }

    async fn open(&self) -> sqlx::Result<SqliteConnection> {
        let mut tries = 0;
        loop {
            match self.place.open(&self.options).await {
                Err(error) if is_busy(&error) && tries < OPENINGS => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(u64::from(tries.min(20)) * 5)).await;
                }
                opened => return opened,
            }
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(kind(error), Some(5 | 6))
}

/// Whether something was refused for what is in it: a constraint (which a trigger's `raise` is too), or a row that a trigger left
/// out.
fn is_for_content(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(_)) || kind(error) == Some(19)
}

/// The lowest byte of SQLite's code.
fn kind(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
}
