//! The faults that a test asks for.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, FailureKind, Result};

/// The faults of a storage that is behind a [`FaultyStorage`](super::FaultyStorage): none, until a test asks for one. It may ask at any
/// time.
///
/// A fault strikes adds (also those in the caller's own transaction), workers and crontabs. Reading and managing jobs always works, so that
/// a test can look.
#[derive(Debug, Default)]
pub struct Faults {
    fail_adds: AtomicUsize,
    lose_adds: AtomicUsize,
    lose_claims: AtomicUsize,
    lose_settles: AtomicUsize,
    lose_heartbeats: AtomicBool,
    fail_sweeps: AtomicBool,
    away: AtomicBool,
    /// Microseconds.
    slow: AtomicU64,
    late_settles: AtomicU64,
    claims: AtomicUsize,
    settles: AtomicUsize,
}

impl Faults {
    /// The next adds fail, so many of them: they are refused, and nothing is stored.
    pub fn fail_next_adds(&self, adds: usize) {
        self.fail_adds.store(adds, Ordering::SeqCst);
    }

    /// The next adds happen, and so many of their answers are lost, as when a connection dies after the commit. The caller gets an error and cannot
    /// tell whether the job is stored. A key makes it safe to add the job again.
    pub fn lose_answers(&self, adds: usize) {
        self.lose_adds.store(adds, Ordering::SeqCst);
    }

    /// Each call takes so much longer. Zero ends it.
    pub fn slow(&self, time: Duration) {
        self.slow.store(micros(time), Ordering::SeqCst);
    }

    /// The storage cannot be reached, until it is [`back`](Self::back).
    pub fn away(&self) {
        self.away.store(true, Ordering::SeqCst);
    }

    /// The storage can be reached again.
    pub fn back(&self) {
        self.away.store(false, Ordering::SeqCst);
    }

    /// A worker's claims happen, and the answer of each one with this number, or a multiple of it, is lost. Zero ends it.
    pub fn lose_claims(&self, every: usize) {
        self.lose_claims.store(every, Ordering::SeqCst);
    }

    /// A worker's results are written, and the answer of each write with this number, or a multiple of it, is lost. Zero ends it.
    pub fn lose_settles(&self, every: usize) {
        self.lose_settles.store(every, Ordering::SeqCst);
    }

    /// The answers of a worker's writes are so late. Zero ends it.
    pub fn delay_settles(&self, time: Duration) {
        self.late_settles.store(micros(time), Ordering::SeqCst);
    }

    /// Whether heartbeats arrive, and their answers do not.
    pub fn lose_heartbeats(&self, lose: bool) {
        self.lose_heartbeats.store(lose, Ordering::SeqCst);
    }

    /// Whether looking for stale locks fails.
    pub fn fail_sweeps(&self, fail: bool) {
        self.fail_sweeps.store(fail, Ordering::SeqCst);
    }

    /// How many claims workers have made so far.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::SeqCst)
    }

    /// Makes a call as slow as was asked for, and fails while the storage is away.
    pub(super) async fn reach(&self) -> Result<()> {
        wait(&self.slow).await;
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::storage("ask the storage", FailureKind::Unreachable, "the test has taken it away"));
        }
        Ok(())
    }

    /// An add, wherever it goes.
    pub(crate) async fn add<T>(&self, add: impl Future<Output = Result<T>>) -> Result<T> {
        self.reach().await?;
        if take_one(&self.fail_adds) {
            return Err(Error::storage("store jobs", FailureKind::Refused, "the test lets this add fail"));
        }
        let added = add.await?;
        if take_one(&self.lose_adds) { Err(lost()) } else { Ok(added) }
    }

    pub(super) fn claimed(&self) -> Result<()> {
        every(&self.lose_claims, &self.claims)
    }

    pub(super) async fn settled(&self) -> Result<()> {
        wait(&self.late_settles).await;
        every(&self.lose_settles, &self.settles)
    }

    pub(super) fn heard(&self) -> Result<()> {
        if self.lose_heartbeats.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }

    pub(super) fn sweep(&self) -> Result<()> {
        if self.fail_sweeps.load(Ordering::SeqCst) {
            return Err(Error::storage("release stale locks", FailureKind::Unknown, "the test lets sweeps fail"));
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

async fn wait(time: &AtomicU64) {
    let micros = time.load(Ordering::SeqCst);
    if micros > 0 {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

/// Whether one was left, which is taken.
fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn every(every: &AtomicUsize, calls: &AtomicUsize) -> Result<()> {
    let (call, every) = (calls.fetch_add(1, Ordering::SeqCst) + 1, every.load(Ordering::SeqCst));
    if every > 0 && call.is_multiple_of(every) { Err(lost()) } else { Ok(()) }
}

fn lost() -> Error {
    Error::storage("ask the storage", FailureKind::Unknown, "the answer was lost")
}
