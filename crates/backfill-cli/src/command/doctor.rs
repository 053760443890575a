//! `backfill doctor`.

use backfill::cron::zone_data;
use backfill::storage::{Check, CheckStatus, Effort, Precision, Storage};
use chrono::TimeDelta;

use backfill::moving::is_move;

use super::inspect::effort;
use crate::args::{CountArgs, Global};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of, visible, wrapped};
use crate::screen::Style;
use crate::serving::{Serving, waiting};

/// Where the words begin, after what came out.
const INDENT: usize = 9;

pub async fn run(global: &Global, output: &Output, args: CountArgs) -> Result<(), Failure> {
    let storage = database::storage(global).await?;
    let doctor = storage.doctor().ok_or_else(|| failed(format!("{} has no doctor", storage.name())))?;
    let mut checked = doctor.diagnose(effort(args)).await;
    // A database that cannot be reached, or has nothing in it, has said so.
    if checked.len() > 1 {
        checked.push(moves(&*storage, effort(args)).await);
        checked.push(Check::new("tasks", tasks(&*storage, effort(args)).await));
        checked.push(Check::new("time zones", CheckStatus::Fine { detail: zone_data().to_string() }));
    }
    let found = checked.iter().filter(|check| matches!(check.status, CheckStatus::Found { .. })).count();
    let screen = output.screen();
    for check in checked.iter().filter(|_| !output.is_json()) {
        let what = check.what;
        let (word, style, told) = match &check.status {
            CheckStatus::Found { problem, remedy } => {
                ("found", Style::Bad, vec![format!("{what}: {problem}"), format!("remedy: {remedy}")])
            }
            CheckStatus::Skipped { why } => ("skipped", Style::Warning, vec![format!("{what}: {why}")]),
            CheckStatus::Fine { detail } => ("fine", Style::Good, vec![format!("{what}: {detail}")]),
        };
        let mut begin = screen.paint(style, word) + &" ".repeat(INDENT - word.len());
        for text in told {
            output.line(begin + &wrapped(&visible(&text), screen.width(), INDENT))?;
            begin = " ".repeat(INDENT);
        }
    }
    if output.is_json() {
        output.json(&checked)?;
    }
    if found == 0 { Ok(()) } else { Err(Failure::Told) }
}

/// Jobs that no live worker runs.
async fn tasks(storage: &dyn Storage, effort: Effort) -> CheckStatus {
    /// Ready for so long without a worker is not the moment between two.
    const OVERDUE: TimeDelta = TimeDelta::minutes(10);
    let looked = async {
        let inspect = storage.require_inspect()?;
        Ok::<_, backfill::Error>((inspect.workers(effort).await?, inspect.tasks(effort).await?, storage.now().await?))
    };
    let (workers, tasks, now) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return CheckStatus::Skipped { why: error.to_string() },
    };
    let serving = Serving::of_workers(&workers);
    let problems = serving.problems(&tasks);
    if !problems.is_empty() {
        return CheckStatus::Found {
            problem: problems.join("; "),
            remedy: "start a worker that has these tasks, or remove the jobs (`backfill jobs --task NAME`, `backfill complete`); if \
                     Node's workers run them, all is well: those do not tell"
                .to_owned(),
        };
    }
    let jobs: u64 = tasks.iter().map(|task| waiting(&task.jobs)).sum();
    let overdue = tasks.iter().filter_map(|task| task.oldest_ready).any(|ready| now - ready > OVERDUE);
    // Those of Node's are seen only while they hold something.
    let others = workers.iter().any(|worker| worker.seen_at.is_none() && !is_move(&worker.id));
    if serving.workers == 0 && overdue && !others {
        return CheckStatus::Found {
            problem: format!(
                "of {} that {} some are ready for more than ten minutes, and no live worker of backfill's is registered",
                count_of(jobs, "job"),
                if jobs == 1 { "waits" } else { "wait" }
            ),
            remedy: "start one: `backfill worker`; if Node's workers run them, look at those".to_owned(),
        };
    }
    CheckStatus::Fine {
        detail: if serving.workers == 0 {
            "no live worker of backfill's is registered, and no job has been ready for long".to_owned()
        } else {
            "live workers run every task for which jobs wait".to_owned()
        },
    }
}

/// Jobs that `backfill move` has reserved.
async fn moves(storage: &dyn Storage, effort: Effort) -> Check {
    let looked = async {
        let inspect = storage.require_inspect()?;
        Ok::<_, backfill::Error>((inspect.workers(effort).await?, inspect.tally(effort).await?))
    };
    let status = match looked.await {
        Err(error) => CheckStatus::Skipped { why: error.to_string() },
        // What holds jobs and sends no heartbeats is found by reading them all.
        Ok((_, tally)) if tally.running.precision != Precision::Exact => CheckStatus::Skipped {
            why: "there are so many jobs that they are not read; `backfill doctor --exact` reads them".to_owned(),
        },
        Ok((workers, _)) => {
            let held: Vec<String> = workers
                .iter()
                .filter(|worker| is_move(&worker.id))
                .map(|worker| format!("{} are held by {}", count_of(worker.jobs, "job"), worker.id))
                .collect();
            if held.is_empty() {
                CheckStatus::Fine { detail: "no job is on its way to another place".to_owned() }
            } else {
                CheckStatus::Found {
                    problem: held.join(", "),
                    remedy:
                        "run `backfill move` again, from here to where they were going, unless it is under way; do not \
                             unlock them: some may have arrived"
                            .to_owned(),
                }
            }
        }
    };
    Check::new("moves", status)
}
