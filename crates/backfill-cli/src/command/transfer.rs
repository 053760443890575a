//! `backfill move`.
//!
//! A job is first reserved where it is, then stored where it goes, under the name of this move and its old
//! number, and then deleted where it was. Whatever comes in between, the next run finds it: the name of the move, which stands in
//! the lock of the jobs that were reserved, says where they were going.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backfill::JobId;
use backfill::storage::{Registration, Storage, WorkerId};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::{Global, MoveArgs};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of};

/// Jobs that are on their way at once.
const BATCH: u32 = 500;
/// How large those are together, in bytes (a single larger job goes alone). Each is held a few times on its way.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// How often a run shows that it is under way.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

pub async fn run(global: &Global, output: &Output, args: &MoveArgs) -> Result<(), Failure> {
    let (here, there) =
        (database::identity(global, args.from.as_deref())?, database::identity(global, Some(&args.to))?);
    if here == there {
        return Err(Failure::Usage(SAME.to_owned()));
    }
    if there.starts_with("memory") {
        return Err(Failure::Usage(
            "--to is memory:, which ends with this program; name a database or a file".to_owned(),
        ));
    }
    let either_has_schemas = has_schemas(&here) || has_schemas(&there);
    // Where only one of them has schemas, the name is meant for that one.
    let only = |place: &str| {
        let mut global = global.clone();
        global.schema = global.schema.filter(|_| has_schemas(place) || !either_has_schemas);
        global
    };
    let from = database::reached_at(&only(&here), args.from.as_deref()).await?;
    let to = database::reached_at(&only(&there), Some(&args.to)).await?;
    database::check(&from).await?;
    let before = from.counts().await?;
    to.migrate().await?;
    let transfer_id = name(&here, &there);
    let alone = Alone::begin(&to, &transfer_id).await?;
    let mut transfer = Move { from, to, transfer_id, moved: 0, kept: BTreeSet::new() };
    let done = transfer.run(&before, &alone).await;
    alone.end().await;
    if done? == Ended::Interrupted {
        return Err(failed(format!(
            "interrupted; {} were moved; run it again for the rest",
            count_of(transfer.moved, "job")
        )));
    }
    let left = transfer.from.counts().await?;
    transfer.tell(output, left.running, left.dead)
}

/// Whether the place of this identity has schemas.
fn has_schemas(identity: &str) -> bool {
    identity.starts_with("postgres ")
}

const SAME: &str = "--from and --to are the same place";

#[derive(PartialEq, Eq)]
enum Ended {
    Well,
    Interrupted,
}

/// One move.
struct Move {
    from: Arc<dyn Storage>,
    to: Arc<dyn Storage>,
    transfer_id: String,
    moved: u64,
    /// Those that stay, because a job there has their key.
    kept: BTreeSet<JobId>,
}

impl Move {
    async fn run(&mut self, before: &backfill::Counts, alone: &Alone) -> Result<Ended, Failure> {
        // What an interrupted run has reserved counts as running.
        let workers = self.from.workers().await?;
        if workers.iter().any(|worker| worker.id == alone.id.as_str()) {
            return Err(Failure::Usage(SAME.to_owned()));
        }
        tell_others(&workers, &self.transfer_id);
        let held = workers.iter().find(|worker| worker.id == self.transfer_id).map_or(0, |worker| worker.jobs);
        if held == 0 {
            // Nothing is in between, so what an earlier run remembered is of no use, and other jobs may have these numbers by now.
            self.to.forget_imports(&self.transfer_id).await?;
        }
        let progress = ProgressBar::new(before.ready + before.scheduled + before.retrying + held);
        let style = ProgressStyle::with_template("{bar:30} {pos} of {len} jobs, {eta} left");
        progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let passed = self.passes(&progress, alone).await;
        progress.finish_and_clear();
        let interrupted = passed.map_err(|failure| self.explained(failure))?;
        if interrupted && held > 0 {
            // Some of what the earlier run had reserved may have arrived: only a whole pass tells.
            return Ok(Ended::Interrupted);
        }
        self.release_rest(alone).await.map_err(|failure| self.explained(failure))?;
        Ok(if interrupted { Ended::Interrupted } else { Ended::Well })
    }

    /// What did not arrive goes back to where it was. Nothing that arrived is left.
    async fn release_rest(&self, alone: &Alone) -> Result<(), Failure> {
        // Another run of this move that declared this one dead holds its jobs under the same name: those are not to be released.
        // (No storage can look and the other one release at the same moment. Whoever is stopped in between, and for so long that he
        // is declared dead, disturbs that other run.)
        alone.ask().await?;
        self.from.unlock(std::slice::from_ref(&self.transfer_id)).await?;
        self.to.forget_imports(&self.transfer_id).await?;
        Ok(())
    }

    /// Moves until there is nothing left that can be; answers whether it was interrupted. (A pass passes jobs by that somebody
    /// changes at that moment.)
    async fn passes(&mut self, progress: &ProgressBar, alone: &Alone) -> Result<bool, Failure> {
        loop {
            let (mut after, moved) = (None, self.moved);
            loop {
                if alone.is_interrupted() {
                    return Ok(true);
                }
                alone.check()?;
                let batch = self.from.reserve(&self.transfer_id, after, BATCH, BATCH_BYTES).await?;
                let Some(last) = batch.last() else { break };
                after = Some(last.id);
                let arrived = self.to.import(&alone.id, &self.transfer_id, &batch).await?;
                self.from.delete_reserved(&self.transfer_id, &arrived).await?;
                self.moved += arrived.len() as u64;
                self.kept.extend(batch.iter().map(|job| job.id));
                self.kept.retain(|id| arrived.binary_search(id).is_err());
                progress.set_position(self.moved + self.kept.len() as u64);
            }
            if self.moved == moved {
                return Ok(false);
            }
        }
    }

    /// Says what to do about what is on its way.
    fn explained(&self, failure: Failure) -> Failure {
        let note = format!(
            "\nwhat was on its way is out of reach, under the name {}; run this again when that is mended (do not unlock it: \
             some may have arrived)",
            self.transfer_id
        );
        match failure {
            Failure::Failed(message) => Failure::Failed(message + &note),
            Failure::Usage(message) => Failure::Usage(message + &note),
            other => other,
        }
    }

    fn tell(&self, output: &Output, running: u64, dead: u64) -> Result<(), Failure> {
        let Self { moved, kept, from, to, .. } = self;
        if output.is_json() {
            return output
                .json(&json!({ "moved": moved, "key_taken": kept, "left_running": running, "left_dead": dead }));
        }
        output.line(format!("moved {} from {} to {}", count_of(*moved, "job"), from.name(), to.name()))?;
        if !kept.is_empty() {
            let ids: Vec<String> = kept.iter().take(20).map(ToString::to_string).collect();
            let more = if kept.len() > ids.len() { ", …" } else { "" };
            output.line(format!("{} stay, because a job there has their key: {}{more}", kept.len(), ids.join(", ")))?;
        }
        if running + dead > 0 {
            output.line(format!("{running} running and {dead} dead jobs stay; only waiting ones are moved"))?;
        }
        Ok(())
    }
}

/// Sends heartbeats where the jobs go, so that no second run of the same move is under way: they would disturb each other.
/// Hears of Ctrl-C too.
struct Alone {
    storage: Arc<dyn Storage>,
    id: WorkerId,
    lost: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    background: JoinSet<()>,
}

impl Alone {
    async fn begin(storage: &Arc<dyn Storage>, transfer_id: &str) -> Result<Self, Failure> {
        let prefix = format!("{transfer_id}-run-");
        let id = WorkerId::named(format!("{prefix}{:016x}", fastrand::u64(..)));
        let begun = Instant::now();
        loop {
            storage.register_with(&Registration::new(&id, &[]).dead_after(HEARTBEAT_INTERVAL * 3)).await?;
            let workers = storage.workers().await?;
            let others: Vec<_> =
                workers.iter().filter(|worker| worker.id.starts_with(&prefix) && worker.id != id.as_str()).collect();
            let is_dead =
                |worker: &&backfill::WorkerInfo| worker.last_seen_ago.is_some_and(|ago| ago > HEARTBEAT_INTERVAL * 3);
            // Where nobody could be heard, nobody is dead for it: others get the time to send a heartbeat that this run would see.
            let watched = others.is_empty() || begun.elapsed() > HEARTBEAT_INTERVAL * 3;
            if watched && others.iter().all(is_dead) {
                // They hold nothing but their names. One that only seemed dead finds that it may store nothing more.
                storage.unlock(&others.iter().map(|other| other.id.clone()).collect::<Vec<_>>()).await?;
                break;
            }
            // Two that begin at once see each other, and both step back for a while.
            storage.deregister(&id).await?;
            if begun.elapsed() > HEARTBEAT_INTERVAL * 5 {
                return Err(failed("another run of this move is under way".to_owned()));
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL.mul_f64(0.1 + fastrand::f64() / 2.0)).await;
        }
        let (lost, interrupted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut background = JoinSet::new();
        background.spawn({
            let (storage, id, lost) = (Arc::clone(storage), id.clone(), Arc::clone(&lost));
            async move {
                loop {
                    tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                    if matches!(storage.heartbeat(&id).await, Ok(false)) {
                        lost.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        background.spawn({
            let interrupted = Arc::clone(&interrupted);
            async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    interrupted.store(true, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { storage: Arc::clone(storage), id, lost, interrupted, background })
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Fails when another run is known to have declared this one dead.
    fn check(&self) -> Result<(), Failure> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(failed("another run of this move has taken over".to_owned()));
        }
        Ok(())
    }

    /// Asks whether another run declared this one dead, and fails if so. (A run that was stopped hears of it only when it asks.)
    async fn ask(&self) -> Result<(), Failure> {
        if !self.storage.heartbeat(&self.id).await? {
            self.lost.store(true, Ordering::Relaxed);
        }
        self.check()
    }

    async fn end(mut self) {
        self.background.shutdown().await;
        // If it cannot be said, it is declared dead in a moment.
        let _ = self.storage.deregister(&self.id).await;
    }
}

/// The name of the move from here to there: always the same, so that one that was interrupted is found again.
fn name(here: &str, there: &str) -> String {
    format!("{PREFIX}{:016x}", fnv1a(&format!("{here} to {there}")))
}

const PREFIX: &str = "move-";

/// Whether what has locked jobs under this name is a move (and not a run of one, which holds none).
pub fn is_move(holder: &str) -> bool {
    let digits = holder.strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Says what an interrupted move to another place holds.
fn tell_others(workers: &[backfill::WorkerInfo], transfer_id: &str) {
    for other in workers.iter().filter(|worker| is_move(&worker.id) && worker.id != transfer_id) {
        let jobs = count_of(other.jobs, "job");
        // If it cannot be said, they stay where they are all the same.
        let _ =
            writeln!(io::stderr(), "note: {jobs} are held by {}, which was interrupted; run that move again", other.id);
    }
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every version of this program.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn memory() -> Arc<dyn Storage> {
        let client = backfill::BackfillClient::new("memory:").await.expect("a storage");
        client.add(backfill::JobSpec::new("t", 1)).await.expect("add");
        Arc::clone(client.storage())
    }

    #[tokio::test]
    async fn a_run_that_was_declared_dead_does_not_release_what_its_successor_holds() {
        let (from, to) = (memory().await, memory().await);
        let transfer_id = name("here", "there");
        let alone = Alone::begin(&to, &transfer_id).await.expect("it is alone");
        let transfer = Move {
            from: Arc::clone(&from),
            to: Arc::clone(&to),
            transfer_id: transfer_id.clone(),
            moved: 0,
            kept: BTreeSet::new(),
        };
        // The successor: it has taken over, and holds the only job.
        to.unlock(&[alone.id.as_str().to_owned()]).await.expect("declared dead");
        let held = from.reserve(&transfer_id, None, BATCH, BATCH_BYTES).await.expect("reserve");
        let failure = transfer.release_rest(&alone).await.expect_err("it has been declared dead");
        assert!(matches!(failure, Failure::Failed(message) if message.contains("has taken over")));
        assert_eq!(from.counts().await.expect("counts").running, 1);
        // So the successor may still delete it where it was.
        from.delete_reserved(&transfer_id, &held.iter().map(|job| job.id).collect::<Vec<_>>()).await.expect("delete");
        assert_eq!(from.counts().await.expect("counts").total(), 0);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }
}
