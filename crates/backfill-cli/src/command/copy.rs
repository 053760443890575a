//! `backfill copy`.
//!
//! A job is first taken out of everybody's reach where it is, then stored where it goes, under the name of this move and its old
//! number, and then deleted where it was. Whatever comes in between, the next run finds it: the name of the move, which stands in
//! the lock of the jobs that were taken out, says where they were going.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfill::JobId;
use backfill::storage::Storage;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::{CopyArgs, Global};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of};

/// Jobs that are on their way at once.
const BATCH: u32 = 500;

pub async fn run(global: &Global, output: &Output, args: &CopyArgs) -> Result<(), Failure> {
    let (here, there) =
        (database::identity(global, args.from.as_deref())?, database::identity(global, Some(&args.to))?);
    if here == there {
        return Err(Failure::Usage("--from and --to are the same place".to_owned()));
    }
    if there.starts_with("memory") {
        return Err(Failure::Usage(
            "--to is memory:, which ends with this program; name a database or a file".to_owned(),
        ));
    }
    let from = database::reached_at(global, args.from.as_deref()).await?;
    let to = database::reached_at(global, Some(&args.to)).await?;
    let waiting = |counts: backfill::Counts| counts.ready + counts.scheduled + counts.failed;
    let before = from.counts().await?;
    to.migrate().await?;
    let mover = name(&here, &there);
    // What an interrupted run has taken out counts as running.
    let pools = from.pools().await?;
    tell_others(&pools, &mover);
    let held = pools.iter().find(|pool| pool.id == mover).map_or(0, |pool| pool.jobs);
    if held == 0 {
        // Nothing is in between, so what an earlier run remembered is of no use, and other jobs may have these numbers by now.
        to.forget_imports(&mover).await?;
    }
    let progress = ProgressBar::new(waiting(before) + held);
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} jobs, {eta} left");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));

    let stop = Arc::new(AtomicBool::new(false));
    let stopping = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    let (mut moved, mut kept, mut after) = (0_u64, Vec::new(), None);
    while !stop.load(Ordering::Relaxed) {
        let batch = from.take_out(&mover, after, BATCH).await?;
        let Some(last) = batch.last() else { break };
        after = Some(last.id);
        let arrived = to.import(&mover, &batch).await?;
        from.delete_taken(&mover, &arrived).await?;
        moved += arrived.len() as u64;
        kept.extend(batch.iter().map(|job| job.id).filter(|id| arrived.binary_search(id).is_err()));
        progress.inc(batch.len() as u64);
    }
    progress.finish_and_clear();
    stopping.abort();
    // What did not arrive goes back to where it was. Nothing that arrived is left.
    from.unlock(std::slice::from_ref(&mover)).await?;
    to.forget_imports(&mover).await?;
    let left = from.counts().await?;
    tell(output, &Done { moved, kept, running: left.running, dead: left.dead }, (&from, &to))?;
    if stop.load(Ordering::Relaxed) {
        return Err(failed("interrupted; the rest is where it was, and another run moves it"));
    }
    Ok(())
}

/// The name of the move from here to there: always the same, so that one that was interrupted is found again.
fn name(here: &str, there: &str) -> String {
    format!("copy-{:016x}", fnv1a(&format!("{here} to {there}")))
}

/// Says what an interrupted move to another place holds.
fn tell_others(pools: &[backfill::PoolInfo], mover: &str) {
    for other in pools.iter().filter(|pool| pool.id.starts_with("copy-") && pool.id != mover) {
        let jobs = count_of(other.jobs, "job");
        // If it cannot be said, they stay where they are all the same.
        let _ = writeln!(
            io::stderr(),
            "note: {jobs} are held by the move {}, which was interrupted; run that again",
            other.id
        );
    }
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every version of this program.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Done {
    moved: u64,
    /// Where they were, because a job there has their key.
    kept: Vec<JobId>,
    running: u64,
    dead: u64,
}

fn tell(output: &Output, done: &Done, (from, to): (&Arc<dyn Storage>, &Arc<dyn Storage>)) -> Result<(), Failure> {
    let Done { moved, kept, running, dead } = done;
    if output.is_json() {
        return output.json(&json!({ "moved": moved, "key_taken": kept, "left_running": running, "left_dead": dead }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }
}
