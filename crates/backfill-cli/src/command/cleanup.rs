//! `backfill cleanup`.

use backfill::Cleanup;
use serde_json::json;

use crate::args::{CleanupArgs, Global};
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

pub async fn run(global: &Global, output: &Output, args: CleanupArgs) -> Result<(), Failure> {
    let mut what = Cleanup::new();
    if args.dead {
        what = what.dead_jobs();
    }
    if args.tasks {
        what = what.tasks(args.keep_task);
    }
    if args.queues {
        what = what.queues();
    }
    let cleaned = database::client(global).await?.cleanup(&what).await?;
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
    let numbers = json!({ "dead_jobs": cleaned.dead_jobs, "tasks": cleaned.tasks, "queues": cleaned.queues });
    output.either(&numbers, format!("deleted {}", told.join(", ")))
}
