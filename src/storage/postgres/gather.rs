//! Single adds that meet are stored together.
//!
//! Every transaction that notifies takes one lock of the whole server until it has committed, so single adds go one after the
//! other, however many connections there are. Here, while one add of this process is on its way, others *gather*, and are
//! stored by one statement when it is back. Each caller is answered when its own job is stored, durably, as if it had been
//! alone; who comes alone does not wait for anybody.
//!
//! Only jobs without keys gather: nothing that one of them does can be in another's way. If the statement is refused all the
//! same (a trigger of the user's may refuse a row), each job is tried by itself, so that nobody is told another's error.
//!
//! **Cancellation.** A caller that is dropped while its job is gathered leaves it there: it is stored or not, as with any add
//! whose answer is not awaited.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::PostgresStorage;
use super::errors::{may_be_stored, told_to_another};
use crate::error::{Error, Result};
use crate::job::{Job, NewJob};

/// The most jobs that are stored together.
const MOST: usize = 1_000;
/// The most bytes of payload that are stored together. (A larger job goes alone.)
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A job that waits, and who waits for it.
type Waiting = (NewJob, oneshot::Sender<Result<Job>>);

/// The jobs that gather.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody is storing, and will look here afterwards.
    busy: bool,
    waiting: Vec<Waiting>,
}

/// Who stores at present. Whatever ends it hands over to those who have gathered.
struct Turn<'a> {
    storage: &'a PostgresStorage,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.storage.gathering.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                state.busy = false;
                return;
            }
            let mut bytes = 0;
            let fits = |(job, _): &&Waiting| {
                bytes += job.payload.as_str().len();
                bytes <= MOST_BYTES
            };
            let many = state.waiting.iter().take(MOST).take_while(fits).count().max(1);
            state.waiting.drain(..many).collect::<Vec<Waiting>>()
        };
        let storage = self.storage.clone();
        // A caller may be dropped, and others wait for it. The task ends when what has gathered is stored.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // A caller may be dropped, and others wait for it. The task ends when what has gathered is stored.
            drop(runtime.spawn(async move {
                let turn = Turn { storage: &storage };
                storage.store_gathered(waiting).await;
                drop(turn);
            }));
        } else {
            // Dropped outside of any runtime: those who wait hear that their answer is lost.
            let mut state = self.storage.gathering.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy = false;
            state.waiting.clear();
        }
    }
}

impl PostgresStorage {
    /// Stores one job without a key, with those that others add at the same time.
    pub(super) async fn add_gathering(&self, job: &NewJob) -> Result<Job> {
        let answer = {
            let mut state = self.gathering.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.busy {
                let (tell, answer) = oneshot::channel();
                state.waiting.push((job.clone(), tell));
                Some(answer)
            } else {
                state.busy = true;
                None
            }
        };
        if let Some(answer) = answer {
            return answer.await.unwrap_or_else(|_| {
                Err(Error::Internal("the task that was storing this job has ended; it may be stored or not".to_owned()))
            });
        }
        let turn = Turn { storage: self };
        let stored = self.add_alone(job).await;
        drop(turn);
        stored
    }

    async fn store_gathered(&self, waiting: Vec<Waiting>) {
        // Whoever has gone away meanwhile has no wish any more.
        let waiting: Vec<Waiting> = waiting.into_iter().filter(|(_, tell)| !tell.is_closed()).collect();
        let (jobs, tells): (Vec<NewJob>, Vec<oneshot::Sender<Result<Job>>>) = waiting.into_iter().unzip();
        let places: Vec<usize> = (0..jobs.len()).collect();
        let stored = self.retrying(|| async {
            let mut stored: Vec<Option<Job>> = jobs.iter().map(|_| None).collect();
            let mut work = self.work().await?;
            self.add_plain(&mut work, &jobs, &places, &mut stored).await?;
            self.done(work).await?;
            Ok(stored)
        });
        match stored.await {
            Ok(stored) => {
                for ((job, stored), tell) in jobs.iter().zip(stored).zip(tells) {
                    // A job is left out when another transaction used its name first; who has gone away does not hear it.
                    let _ = tell.send(match stored {
                        Some(stored) => Ok(stored),
                        None => self.add_alone(job).await,
                    });
                }
            }
            // Nobody knows whether anything is stored.
            Err(Error::Database { action, source }) if may_be_stored(&source) => {
                for tell in tells {
                    let _ = tell.send(Err(Error::Database { action, source: told_to_another(&source) }));
                }
            }
            // One statement is refused as a whole, so nothing is stored; by themselves, each is told its own error.
            Err(_) => {
                for (job, tell) in jobs.iter().zip(tells) {
                    let _ = tell.send(self.add_alone(job).await);
                }
            }
        }
    }

    async fn add_alone(&self, job: &NewJob) -> Result<Job> {
        let stored = self.add_all(std::slice::from_ref(job)).await?;
        stored.into_iter().next().ok_or_else(|| Error::Internal("one job was added, and none is stored".to_owned()))
    }
}
