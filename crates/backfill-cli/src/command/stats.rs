//! `backfill stats`.

use std::time::Duration;

use backfill::BackfillClient;
use serde_json::{Value, json};

use super::inspect::{COUNTS, after_a_gap, counts_row, task_json, tasks_table};
use crate::args::{Global, StatsArgs};
use crate::database;
use crate::failure::Failure;
use crate::output::{Output, count_of, rfc3339, seconds};
use crate::serving::{Serving, waiting};
use crate::table::Table;

/// Moves a terminal's cursor to the top left, and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

pub async fn run(global: &Global, output: &Output, args: StatsArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let Some(every) = args.watch else {
        return show(&client, output, false).await;
    };
    if every < Duration::from_millis(100) {
        return Err(Failure::Usage("--watch needs at least 100ms".to_owned()));
    }
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        show(&client, output, true).await?;
    }
}

async fn show(client: &BackfillClient, output: &Output, again: bool) -> Result<(), Failure> {
    let tasks = client.tasks().await?;
    let counts = client.counts().await?;
    let workers = client.workers().await?;
    let now = database::now(client).await;
    let serving = Serving::of_workers(&workers);
    let busy: u64 = workers.iter().map(|worker| worker.jobs).sum();
    if output.is_json() {
        let tasks: Vec<Value> = tasks.iter().map(|task| task_json(task, &serving)).collect();
        return output.json(&json!({
            "at": rfc3339(now),
            "jobs": counts,
            "tasks": tasks,
            "workers": workers.len(),
        }));
    }
    let screen = output.screen();
    let mut totals = Table::new(COUNTS);
    totals.row(counts_row(&counts));
    let hold = if workers.len() == 1 { "holds" } else { "hold" };
    let mut told = format!(
        "{}\n\n{} {hold} {}",
        totals.text(&screen),
        count_of(workers.len() as u64, "worker"),
        count_of(busy, "job")
    );
    let used: Vec<_> = tasks.into_iter().filter(|task| task.jobs.total() > 0).collect();
    if !used.is_empty() {
        told = format!("{told}\n\n{}", tasks_table(&used, &serving, now).text(&screen));
    }
    let mut problems = serving.problems(&used);
    let waiting: u64 = used.iter().map(|task| waiting(&task.jobs)).sum();
    if serving.workers == 0 && waiting > 0 && used.iter().all(|task| task.jobs.running == 0) {
        problems.push(format!("{} for a worker: no live worker of backfill's is registered", waits(waiting)));
    }
    for line in after_a_gap(&screen, problems) {
        told = format!("{told}\n{line}");
    }
    if !again {
        output.line(told)
    } else if output.screen().size.is_some() {
        output.line(format!("{CLEAR}{} UTC\n\n{told}", seconds(now)))
    } else {
        output.line(format!("{} UTC\n{told}\n", seconds(now)))
    }
}

fn waits(jobs: u64) -> String {
    format!("{} {}", count_of(jobs, "job"), if jobs == 1 { "waits" } else { "wait" })
}
