//! `backfill cleanup`.

use backfill::Cleanup;

use crate::args::{CleanupArgs, Global};
use crate::database;
use crate::failure::{Failure, failed};
use crate::nearest::{nearest, unknown};
use crate::output::Output;

pub async fn run(global: &Global, output: &Output, args: CleanupArgs) -> Result<(), Failure> {
    let mut what = Cleanup::new();
    let keep = args.keep_task;
    if args.dead {
        what = what.dead_jobs();
    }
    if args.tasks {
        what = what.tasks(keep.clone());
    }
    if args.queues {
        what = what.queues();
    }
    let client = database::client(global).await?;
    if !keep.is_empty() {
        // What was meant by a name that was mistyped would be deleted. (One that is not there yet may be named.)
        let known = client.storage().require_inspect()?.task_names().await?;
        let mistyped =
            |name: &&String| !known.contains(name) && nearest(name, known.iter().map(String::as_str)).is_some();
        if let Some(name) = keep.iter().find(mistyped) {
            return Err(failed(unknown("task", name, known.iter().map(String::as_str))));
        }
    }
    let cleaned = client.cleanup(&what).await?;
    let mut told = Vec::new();
    for (asked, count, name) in [
        (args.dead, cleaned.dead_jobs, "dead jobs"),
        (args.tasks, cleaned.tasks, "task names"),
        (args.queues, cleaned.queues, "queues"),
    ] {
        if asked {
            told.push(format!("{count} {name}"));
        }
    }
    output.either(&cleaned, format!("deleted {}", told.join(", ")))
}
