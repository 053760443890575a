//! What the engine says of itself to the thread that sends the heartbeats. Each turn writes atomics alone; no lock is between the two,
//! but where flags are asked for before each claim.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::engine::Hold;
use super::flags::ForbiddenFlags;
use super::work::Work;
use crate::storage::WorkerStatus;

/// What a worker is doing. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Status(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    running: AtomicUsize,
    /// Its place in [`Hold::ALL`], or one beyond.
    hold: AtomicU8,
    work: watch::Receiver<Arc<Work>>,
    forbidden_flags: Mutex<Vec<String>>,
}

impl Status {
    pub fn new(work: watch::Receiver<Arc<Work>>, flags: &ForbiddenFlags) -> Self {
        let forbidden_flags = Mutex::new(flags.listed().to_vec());
        Self(Arc::new(Cells { running: AtomicUsize::new(0), hold: AtomicU8::new(u8::MAX), work, forbidden_flags }))
    }

    pub fn runs(&self, jobs: usize) {
        self.0.running.store(jobs, Ordering::Relaxed);
    }

    /// These flags were forbidden when somebody was asked last.
    pub fn forbids(&self, flags: &[String]) {
        let mut known = self.flags();
        if *known != flags {
            *known = flags.to_vec();
        }
    }

    fn flags(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.forbidden_flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn holds(&self, hold: Option<Hold>) {
        let place = hold.and_then(|hold| Hold::ALL.iter().position(|other| *other == hold));
        self.0.hold.store(place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX), Ordering::Relaxed);
    }

    /// What is told of it.
    pub fn now(&self) -> WorkerStatus {
        let work = Arc::clone(&self.0.work.borrow());
        let mut status = WorkerStatus::new(work.concurrency);
        status.running = self.0.running.load(Ordering::Relaxed);
        // That a claim is on its way is true for a moment only.
        let hold = Hold::ALL.get(usize::from(self.0.hold.load(Ordering::Relaxed)));
        status.hold = hold.filter(|hold| **hold != Hold::Claiming).map(|hold| hold.as_str().to_owned());
        status.limits = work.limited.iter().cloned().collect();
        status.forbidden_flags.clone_from(&self.flags());
        status
    }
}
