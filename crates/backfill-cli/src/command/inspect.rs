//! `backfill queues`, `tasks`, `workers` and `crontabs`.

use backfill::Counts;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::args::Global;
use crate::database;
use crate::failure::Failure;
use crate::output::{Output, rfc3339, seconds, short, table, text, visible};
use crate::serving::Serving;
use crate::value::{length, relative};

pub fn counts_row(counts: &Counts) -> [String; 5] {
    [counts.ready, counts.scheduled, counts.running, counts.retrying, counts.dead].map(|count| count.to_string())
}

pub async fn queues(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let queues = client.queues().await?;
    if output.is_json() {
        return output.json(&queues);
    }
    if queues.is_empty() {
        return output.line("no queues");
    }
    let now = database::now(&client).await;
    let mut table =
        table(&["QUEUE", "READY", "SCHEDULED", "RUNNING", "RETRYING", "DEAD", "LOCKED", "BY"], &[1, 2, 3, 4, 5]);
    for queue in queues {
        let mut row = vec![short(&queue.name, 60)];
        row.extend(counts_row(&queue.jobs));
        row.push(queue.locked_at.map(|time| relative(time, now)).unwrap_or_default());
        row.push(visible(&queue.locked_by.unwrap_or_default()));
        table.add_row(row);
    }
    output.line(text(&table))
}

pub async fn tasks(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let tasks = client.tasks().await?;
    let serving = Serving::if_visible(&**client.storage()).await;
    if output.is_json() {
        let told = tasks.iter().map(|task| {
            let mut told = task_json(task, &serving);
            told["oldest_ready"] = json!(task.oldest_ready.map(rfc3339));
            told
        });
        return output.json(&told.collect::<Vec<_>>());
    }
    if tasks.is_empty() {
        return output.line("no tasks");
    }
    let mut told = vec![tasks_table(&tasks, &serving, database::now(&client).await)];
    told.extend(after_a_gap(serving.problems(&tasks)));
    output.line(told.join("\n"))
}

/// With an empty line before them, if there are any.
fn after_a_gap(problems: Vec<String>) -> impl Iterator<Item = String> {
    let gap = (!problems.is_empty()).then(String::new);
    gap.into_iter().chain(problems)
}

/// A task for machines. How many live workers of backfill's run it is null where one does not tell.
pub fn task_json(task: &backfill::TaskInfo, serving: &Serving) -> Value {
    json!({ "name": task.name, "jobs": task.jobs, "workers": serving.workers_of(&task.name) })
}

pub fn tasks_table(tasks: &[backfill::TaskInfo], serving: &Serving, now: DateTime<Utc>) -> String {
    let mut table = table(
        &["TASK", "READY", "SCHEDULED", "RUNNING", "RETRYING", "DEAD", "WORKERS", "OLDEST READY"],
        &[1, 2, 3, 4, 5, 6],
    );
    for task in tasks {
        let mut row = vec![short(&task.name, 60)];
        row.extend(counts_row(&task.jobs));
        row.push(serving.workers_of(&task.name).map_or_else(|| "?".to_owned(), |workers| workers.to_string()));
        row.push(task.oldest_ready.map(|time| relative(time, now)).unwrap_or_default());
        table.add_row(row);
    }
    text(&table)
}

pub async fn workers(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let workers = client.workers().await?;
    if output.is_json() {
        return output.json(&workers);
    }
    if workers.is_empty() {
        return output.line("no workers");
    }
    let now = database::now(&client).await;
    let serving = Serving::of_workers(&workers);
    let mut table = table(&["WORKER", "STARTED", "LAST SEEN", "JOBS", "QUEUES", "OLDEST LOCK", "TASKS"], &[3, 4]);
    for worker in workers {
        let seen = match worker.last_seen_ago {
            Some(_) if worker.seen_at.is_some_and(|seen| seen == DateTime::UNIX_EPOCH) => {
                "dead; somebody's lock keeps its jobs".to_owned()
            }
            Some(ago) => format!("{} ago", length(std::time::Duration::from_secs(ago.as_secs()))),
            None => "sends no heartbeats (Node)".to_owned(),
        };
        table.add_row([
            visible(&worker.id),
            worker.started_at.map(|time| relative(time, now)).unwrap_or_default(),
            seen,
            worker.jobs.to_string(),
            worker.queues.to_string(),
            worker.oldest_lock.map(|time| relative(time, now)).unwrap_or_default(),
            short(&worker.tasks.unwrap_or_default().join(" "), 60),
        ]);
    }
    let mut told = vec![text(&table)];
    if serving.workers > 0 {
        told.extend(after_a_gap(serving.problems(&client.tasks().await?)));
    }
    output.line(told.join("\n"))
}

pub async fn crontabs(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let known = client.crontabs().await?;
    if output.is_json() {
        return output.json(&known);
    }
    if known.is_empty() {
        return output.line("no crontab entries");
    }
    let now = database::now(&client).await;
    let mut table = table(&["IDENTIFIER", "KNOWN SINCE", "LAST EXECUTION"], &[]);
    for known in known {
        let last = known.last_execution.map(|time| format!("{} ({})", seconds(time), relative(time, now)));
        table.add_row([
            short(&known.identifier, 60),
            seconds(known.known_since),
            last.unwrap_or_else(|| "never".to_owned()),
        ]);
    }
    output.line(text(&table))
}
