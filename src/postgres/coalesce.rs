//! Single adds that meet are stored together.
//!
//! Every transaction that notifies takes one lock of the whole server until it has committed, so single adds go one after the
//! other, however many connections there are. Here, while one add of this process is on its way, others *coalesce*: they wait, and are
//! stored by one statement when it is back. Each caller is answered when its own job is stored, durably, as if it had been
//! alone; who comes alone does not wait for anybody.
//!
//! Only jobs coalesce that can be in nobody's way: without a key, without a queue, and of a task whose name this process has seen
//! stored (a new name may have to wait for another transaction that is the first to use it). If the statement is refused all the
//! same (a trigger of the user's may refuse a row, by any code), its halves are tried until the one to blame is alone, so that nobody
//! is told another's error. And a caller that has waited for [`MAX_WAIT`] without being taken along goes alone.
//!
//! **Cancellation.** The storing is done by a task of its own, so that it goes on when callers do not poll, or are dropped: then
//! their jobs are stored or not, as with any add whose answer is not awaited.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::PostgresStorage;
use super::connection::errors::{for_another, is_rolled_back};
use super::connection::rights::Need;
use crate::error::{Error, Result};
use crate::job::{Job, NewJob};

/// The most jobs that are stored together.
const MOST: usize = 1_000;
/// The most bytes of payload that are stored together. (A larger job goes alone.)
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Who has not been taken along after this time goes alone.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// For so long the one to blame is looked for when a statement was refused for what may pass, as for a table that is locked: then
/// each half may take as long as the whole.
const SEARCH: Duration = Duration::from_secs(20);
/// How long nothing coalesces after jobs could not be stored together.
const PAUSE: Duration = Duration::from_secs(10);
/// The most names that are remembered.
const MOST_NAMES: usize = 1_000;

/// A job that waits, and who waits for it.
#[derive(Debug)]
struct Waiting {
    number: u64,
    job: NewJob,
    tell: oneshot::Sender<Result<Job>>,
}

/// Who waits: the number of the turn, and where to tell.
type Sender = (u64, oneshot::Sender<Result<Job>>);

/// The jobs that coalesce.
#[derive(Debug, Default)]
pub(super) struct Coalescer(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Somebody is storing, and will look here afterwards.
    busy: bool,
    waiting: Vec<Waiting>,
    numbers: u64,
    /// Names of tasks that have been stored.
    tasks: HashSet<String>,
    /// Nothing coalesces until then.
    paused_until: Option<Instant>,
}

impl Coalescer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this job can be in nobody's way.
    pub(super) fn may_coalesce(&self, job: &NewJob) -> bool {
        let state = self.state();
        job.is_plain()
            && job.queue.is_none()
            && state.tasks.contains(&job.task)
            && state.paused_until.is_none_or(|until| Instant::now() >= until)
    }

    /// What coalesces is not stored together, as beside a trigger: for a while each goes alone.
    fn pause(&self) {
        self.state().paused_until = Some(Instant::now() + PAUSE);
    }

    /// A job of this task was stored.
    pub(super) fn learn(&self, task: &str) {
        let mut state = self.state();
        if !state.tasks.contains(task) {
            if state.tasks.len() == MOST_NAMES {
                state.tasks.clear();
            }
            state.tasks.insert(task.to_owned());
        }
    }
}

/// Who stores at present. Whatever ends it lets the next one begin.
struct Turn {
    storage: PostgresStorage,
    /// Whether it ever ran. A runtime that is ending drops what is spawned on it at once, and this then must not spawn another.
    begun: bool,
}

impl Turn {
    /// Stores the jobs that wait, and then those that have come in the meantime.
    async fn run(mut self) {
        self.begun = true;
        loop {
            let taken = {
                let mut state = self.storage.coalescer.state();
                let mut bytes = 0;
                let fits = |waiting: &&Waiting| {
                    bytes += waiting.job.payload.as_str().len();
                    bytes <= MOST_BYTES
                };
                let many = state.waiting.iter().take(MOST).take_while(fits).count().max(1).min(state.waiting.len());
                state.waiting.drain(..many).collect::<Vec<Waiting>>()
            };
            if taken.is_empty() {
                // Nobody can have come in between: `drop` looks again.
                self.storage.look_for_receivers();
                return;
            }
            self.storage.store_coalesced(taken).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.storage.coalescer.state();
        if state.waiting.is_empty() || !self.begun {
            // Those who wait, if any, run into the limit and go alone.
            state.busy = false;
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Somebody came at the last moment, or this turn was cut short.
            drop(state);
            let next = Self { storage: self.storage.clone(), begun: false };
            drop(runtime.spawn(next.run()));
        } else {
            // Outside of any runtime.
            state.busy = false;
        }
    }
}

impl PostgresStorage {
    /// Stores one job with those that others add at the same time.
    pub(super) async fn add_coalesced(&self, job: &NewJob) -> Result<Job> {
        let (tell, mut answer) = oneshot::channel();
        let (number, first) = {
            let mut state = self.coalescer.state();
            state.numbers += 1;
            let number = state.numbers;
            state.waiting.push(Waiting { number, job: job.clone(), tell });
            (number, !std::mem::replace(&mut state.busy, true))
        };
        if first {
            let turn = Turn { storage: self.clone(), begun: false };
            drop(tokio::spawn(turn.run()));
        }
        let lost =
            || Error::Internal("the task that was storing this job has ended; it may be stored or not".to_owned());
        if let Ok(answer) = tokio::time::timeout(MAX_WAIT, &mut answer).await {
            return answer.unwrap_or_else(|_| Err(lost()));
        }
        let alone = {
            let mut state = self.coalescer.state();
            let place = state.waiting.iter().position(|waiting| waiting.number == number);
            place.map(|place| drop(state.waiting.remove(place))).is_some()
        };
        if alone {
            return self.add_alone(job).await;
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn store_coalesced(&self, taken: Vec<Waiting>) {
        // Whoever has gone away meanwhile has no wish any more.
        let taken: Vec<Waiting> = taken.into_iter().filter(|waiting| !waiting.tell.is_closed()).collect();
        if taken.is_empty() {
            return;
        }
        let begun = Instant::now();
        let mut stack = vec![taken];
        while let Some(taken) = stack.pop() {
            let (jobs, mut waiting): (Vec<NewJob>, Vec<Sender>) =
                taken.into_iter().map(|waiting| (waiting.job, (waiting.number, waiting.tell))).unzip();
            match self.store_together(&jobs).await {
                Ok(stored) => {
                    // All are left out where a trigger wants another way, and one when its task's name was forgotten and another
                    // transaction is the first to use it again. Who has gone away does not hear it.
                    if stored.iter().all(Option::is_none) {
                        self.coalescer.pause();
                    }
                    // (A future for each would be kilobytes for each, whether or not it has anything to do.)
                    let mut alone = Vec::new();
                    for ((job, stored), (_, tell)) in jobs.iter().zip(stored).zip(waiting) {
                        match stored {
                            Some(stored) => drop(tell.send(Ok(stored))),
                            None => alone.push(async move { drop(tell.send(self.add_alone(job).await)) }),
                        }
                    }
                    futures::future::join_all(alone).await;
                }
                // Refused as a whole: nothing is stored, and by itself each is told its own error.
                Err(error)
                    if jobs.len() > 1
                        && is_rolled_back(&error)
                        && (!error.is_transient() || begun.elapsed() < SEARCH) =>
                {
                    let half = jobs.len() / 2;
                    let later = waiting.split_off(half);
                    let of = |jobs: &[NewJob], waiting: Vec<Sender>| {
                        let both = jobs.iter().cloned().zip(waiting);
                        both.map(|(job, (number, tell))| Waiting { number, job, tell }).collect::<Vec<_>>()
                    };
                    stack.push(of(&jobs[half..], later));
                    stack.push(of(&jobs[..half], waiting));
                }
                Err(error) => {
                    for (_, tell) in waiting {
                        let _ = tell.send(Err(for_another(&error)));
                    }
                }
            }
        }
    }

    async fn store_together(&self, jobs: &[NewJob]) -> Result<Vec<Option<Job>>> {
        if let [job] = jobs
            && let Some(receiver) = self.sender.choose(job)
            && let Some(stored) = self.hand_off(job, &receiver).await?
        {
            return Ok(vec![stored]);
        }
        let places: Vec<usize> = (0..jobs.len()).collect();
        self.database
            .retrying_for(Need::Add, || async {
                let mut stored: Vec<Option<Job>> = jobs.iter().map(|_| None).collect();
                let mut work = self.database.work().await?;
                self.add_plain(&mut work, jobs, &places, &mut stored).await?;
                self.database.done(work).await?;
                Ok(stored)
            })
            .await
    }

    async fn add_alone(&self, job: &NewJob) -> Result<Job> {
        let stored = self.add_all(std::slice::from_ref(job)).await?;
        stored.into_iter().next().ok_or_else(|| Error::Internal("one job was added, and none is stored".to_owned()))
    }
}
