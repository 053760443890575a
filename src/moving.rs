//! Moving waiting jobs from one storage to another, each once: what `backfill move` does.
//!
//! A job is first *reserved* where it is, then stored where it goes, under the id of this move and its old id, and then deleted where
//! it was. Whatever comes in between, the next run finds it: the id of the move, which stands in the lock of the jobs that were
//! reserved, says where they were going.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::job::JobId;
use crate::storage::{AnyStorage, Consumer, Effort, Registration, WorkerId, WorkerInfo};

/// Jobs that are on their way at once.
const BATCH: u32 = 500;
/// How large those are together, in bytes (a single larger job goes alone). Each is held a few times on its way.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// How often a run shows that it is under way.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const PREFIX: &str = "move-";

/// Moves the jobs that wait (ready, scheduled, retrying) from one storage to another.
///
/// ```no_run
/// use backfill::moving::Move;
/// use backfill::storage;
///
/// # async fn example() -> backfill::Result<()> {
/// let (from, to) = (storage::open("sqlite://jobs.db").await?, storage::open("postgres://localhost/app").await?);
/// to.migrate().await?;
/// let moved = Move::new(from, "jobs.db", to, "app").run(|_| {}).await?;
/// println!("{} moved", moved.moved);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Move {
    from: AnyStorage,
    to: AnyStorage,
    id: String,
    interrupted: Arc<AtomicBool>,
}

/// What a move has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Moved {
    /// Jobs that arrived.
    pub moved: u64,
    /// Jobs that stay, because a job there has their key.
    pub key_taken: BTreeSet<JobId>,
    /// Running jobs, which stay.
    pub left_running: u64,
    /// Dead jobs, which stay.
    pub left_dead: u64,
    /// It was interrupted; another run moves the rest.
    #[serde(skip)]
    pub interrupted: bool,
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Jobs that were looked at: moved, or kept where they are.
    pub done: u64,
    /// How many there were when it began.
    pub of: u64,
}

/// Interrupts a move between two batches.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends the move soon; what is on its way arrives or goes back.
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Move {
    /// A move from here to there. The names of the two places make the move's id: the same for each run, so that one that was
    /// interrupted is found again.
    #[must_use]
    pub fn new(from: impl Into<AnyStorage>, here: &str, to: impl Into<AnyStorage>, there: &str) -> Self {
        let id = format!("{PREFIX}{:016x}", fnv1a(&format!("{here} to {there}")));
        Self { from: from.into(), to: to.into(), id, interrupted: Arc::default() }
    }

    /// Under which name jobs are held while they are on their way.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// To interrupt it by.
    #[must_use]
    pub fn interrupt(&self) -> Interrupt {
        Interrupt(Arc::clone(&self.interrupted))
    }

    /// What other moves, which were interrupted, hold where the jobs come from.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn others(&self) -> Result<Vec<WorkerInfo>> {
        let mut workers = self.from.require_inspect()?.workers(Effort::Exact).await?;
        workers.retain(|worker| is_move(&worker.id) && worker.id != self.id);
        Ok(workers)
    }

    /// Moves until nothing is left that can be moved. `progress` is called after each batch.
    ///
    /// Dropping the future leaves what was on its way reserved; the next run of the same move moves it.
    ///
    /// # Errors
    /// [`Error::SamePlace`], [`Error::MoveUnderWay`], [`Error::MoveTakenOver`], and when a storage fails. After an error, what was on
    /// its way stays reserved under [`id`](Self::id), until the next run.
    pub async fn run(self, progress: impl Fn(Progress) + Send + Sync) -> Result<Moved> {
        let run = Run::begin(self.to.storage().consumer(), self.to.clone(), &self.id).await?;
        let moved = self.run_alone(&run, progress).await;
        run.end().await;
        moved
    }

    async fn run_alone(&self, run: &Run, progress: impl Fn(Progress) + Send + Sync) -> Result<Moved> {
        let from = self.from.require_inspect()?;
        // What an interrupted run has reserved counts as running.
        let (before, workers) = (from.counts().await?, from.workers(Effort::Exact).await?);
        if workers.iter().any(|worker| worker.id == run.id.as_str()) {
            return Err(Error::SamePlace);
        }
        let held = workers.iter().find(|worker| worker.id == self.id).map_or(0, |worker| worker.jobs);
        if held == 0 {
            // Nothing is in between, so what an earlier run remembered is of no use, and other jobs may have these ids by now.
            self.to.require_transfer()?.forget_imports(&self.id).await?;
        }
        let mut moved = Moved::default();
        let of = before.ready + before.scheduled + before.retrying + held;
        self.passes(&mut moved, run, |done| progress(Progress { done, of })).await?;
        if moved.interrupted && held > 0 {
            // Some of what the earlier run had reserved may have arrived: only a whole pass tells.
            return Ok(moved);
        }
        self.release_rest(run).await?;
        let left = from.counts().await?;
        (moved.left_running, moved.left_dead) = (left.running, left.dead);
        Ok(moved)
    }

    /// Moves until there is nothing left that can be. (A pass passes jobs by that are being changed at that moment.)
    async fn passes(&self, result: &mut Moved, run: &Run, progress: impl Fn(u64) + Send + Sync) -> Result<()> {
        let (from, to) = (self.from.require_transfer()?, self.to.require_transfer()?);
        loop {
            let (mut after, moved) = (None, result.moved);
            loop {
                if self.interrupted.load(Ordering::Relaxed) {
                    result.interrupted = true;
                    return Ok(());
                }
                run.check()?;
                let batch = from.reserve(&self.id, after, BATCH, BATCH_BYTES).await?;
                let Some(last) = batch.last() else { break };
                after = Some(last.id);
                let arrived = to.import(&run.id, &self.id, &batch).await?;
                from.delete_reserved(&self.id, &arrived).await?;
                result.moved += arrived.len() as u64;
                result.key_taken.extend(batch.iter().map(|job| job.id));
                result.key_taken.retain(|id| arrived.binary_search(id).is_err());
                progress(result.moved + result.key_taken.len() as u64);
            }
            if result.moved == moved {
                return Ok(());
            }
        }
    }

    /// What did not arrive goes back to where it was. Nothing that arrived is left.
    async fn release_rest(&self, run: &Run) -> Result<()> {
        // Another run of this move that declared this one dead holds its jobs under the same name: those are not to be released.
        // (No storage can look and the other one release at the same moment. A run that is stopped in between, and for so long that it
        // is declared dead, disturbs that other run.)
        run.ask().await?;
        self.from.require_admin()?.unlock(std::slice::from_ref(&self.id)).await?;
        self.to.require_transfer()?.forget_imports(&self.id).await
    }
}

/// Whether what has locked jobs under this name is a move (and not a run of one, which holds none).
#[must_use]
pub fn is_move(holder: &str) -> bool {
    let digits = holder.strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Sends heartbeats where the jobs go, so that no second run of the same move is under way: they would disturb each other.
struct Run {
    consumer: Arc<dyn Consumer>,
    id: WorkerId,
    lost: Arc<AtomicBool>,
    heartbeats: JoinSet<()>,
}

impl Run {
    async fn begin(consumer: Arc<dyn Consumer>, to: AnyStorage, move_id: &str) -> Result<Self> {
        let prefix = format!("{move_id}-run-");
        let id = WorkerId::named(format!("{prefix}{:016x}", fastrand::u64(..)));
        let begun = Instant::now();
        loop {
            consumer.register(&Registration::new(&id, &[]).dead_after(HEARTBEAT_INTERVAL * 3)).await?;
            let workers = to.require_inspect()?.workers(Effort::Exact).await?;
            let others: Vec<_> =
                workers.iter().filter(|worker| worker.id.starts_with(&prefix) && worker.id != id.as_str()).collect();
            let is_dead = |worker: &&WorkerInfo| worker.last_seen_ago.is_some_and(|ago| ago > HEARTBEAT_INTERVAL * 3);
            // Where no heartbeat could be sent, nobody is dead for it: others get the time to send one that this run would see.
            let watched = others.is_empty() || begun.elapsed() > HEARTBEAT_INTERVAL * 3;
            if watched && others.iter().all(is_dead) {
                // They hold nothing but their names. One that only seemed dead finds that it may store nothing more.
                let others: Vec<String> = others.iter().map(|other| other.id.clone()).collect();
                to.require_admin()?.unlock(&others).await?;
                break;
            }
            // Two that begin at once see each other, and both step back for a while.
            consumer.deregister(&id).await?;
            if begun.elapsed() > HEARTBEAT_INTERVAL * 5 {
                return Err(Error::MoveUnderWay { id: move_id.to_owned() });
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL.mul_f64(0.1 + fastrand::f64() / 2.0)).await;
        }
        let lost = Arc::new(AtomicBool::new(false));
        let mut heartbeats = JoinSet::new();
        heartbeats.spawn({
            let (consumer, id, lost) = (Arc::clone(&consumer), id.clone(), Arc::clone(&lost));
            async move {
                loop {
                    tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                    if matches!(consumer.heartbeat(&id).await, Ok(false)) {
                        lost.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(Self { consumer, id, lost, heartbeats })
    }

    /// Fails when another run is known to have declared this one dead.
    fn check(&self) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(Error::MoveTakenOver { run: self.id.to_string() });
        }
        Ok(())
    }

    /// Asks whether another run declared this one dead, and fails if so. (A run that was stopped hears of it only when it asks.)
    async fn ask(&self) -> Result<()> {
        if !self.consumer.heartbeat(&self.id).await? {
            self.lost.store(true, Ordering::Relaxed);
        }
        self.check()
    }

    async fn end(mut self) {
        self.heartbeats.shutdown().await;
        // If it cannot be said, it is declared dead in a moment.
        let _ = self.consumer.deregister(&self.id).await;
    }
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every version of this program.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::BackfillClient;
    use crate::job::JobSpec;

    async fn memory() -> AnyStorage {
        let client = BackfillClient::new("memory:").await.expect("a storage");
        client.add(JobSpec::new("t", 1)).await.expect("add");
        client.any_storage().clone()
    }

    #[tokio::test]
    async fn a_run_that_was_declared_dead_does_not_release_what_its_successor_holds() {
        let (from, to) = (memory().await, memory().await);
        let moving = Move::new(from.clone(), "here", to.clone(), "there");
        let run = Run::begin(to.consumer(), to.clone(), moving.id()).await.expect("it is alone");
        // The successor: it has taken over, and holds the only job.
        to.require_admin().unwrap().unlock(&[run.id.as_str().to_owned()]).await.expect("declared dead");
        let transfer = from.require_transfer().unwrap();
        let held = transfer.reserve(moving.id(), None, BATCH, BATCH_BYTES).await.expect("reserve");
        let error = moving.release_rest(&run).await.expect_err("it has been declared dead");
        assert!(matches!(error, Error::MoveTakenOver { .. }), "{error}");
        assert_eq!(from.require_inspect().unwrap().counts().await.expect("counts").running, 1);
        // So the successor may still delete it where it was.
        let ids: Vec<JobId> = held.iter().map(|job| job.id).collect();
        transfer.delete_reserved(moving.id(), &ids).await.expect("delete");
        assert_eq!(from.require_inspect().unwrap().counts().await.expect("counts").total(), 0);
    }

    #[tokio::test]
    async fn a_storage_is_not_moved_to_itself() {
        let storage = memory().await;
        let error = Move::new(storage.clone(), "a", storage, "b").run(|_| {}).await.expect_err("the same place");
        assert!(matches!(error, Error::SamePlace), "{error}");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }
}
