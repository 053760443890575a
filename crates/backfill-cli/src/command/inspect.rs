//! `backfill queues`, `tasks`, `workers` and `crontabs`.

use std::io::{self, Write};

use backfill::JobState;
use backfill::search::Pattern;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::args::{CountArgs, Global, QueuesArgs};
use crate::database;
use crate::failure::Failure;
use crate::output::{Output, rfc3339, seconds, wrapped};
use crate::screen::{Screen, Style};
use crate::serving::Serving;
use crate::table::{Cell, Column, Table, number_text};
use crate::value::{length, relative};
use backfill::storage::{Effort, Number, Precision, QueueList, Tally, WorkerStatus};

/// The columns of [`counts_row`].
pub const COUNTS: [(&str, Column); 5] = [
    ("READY", Column::Number),
    ("SCHEDULED", Column::Number),
    ("RUNNING", Column::Number),
    ("RETRYING", Column::Number),
    ("DEAD", Column::Number),
];

pub fn counts_row(tally: &Tally) -> [Cell; 5] {
    JobState::ALL.map(|state| Cell::number(tally.get(state), style_of(state)))
}

/// How much may be done to count.
pub fn effort(args: CountArgs) -> Effort {
    if args.exact { Effort::Exact } else { Effort::Bounded }
}

/// How a state looks.
pub fn style_of(state: JobState) -> Style {
    match state {
        JobState::Scheduled => Style::Waiting,
        JobState::Running => Style::Good,
        JobState::Retrying => Style::Warning,
        JobState::Dead => Style::Bad,
        _ => Style::Plain,
    }
}

pub async fn queues(global: &Global, output: &Output, args: QueuesArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let mut list = QueueList::all(effort(args.count)).name(args.name.map(Pattern::of)).after(args.after);
    list.limit = args.limit;
    let queues = client.storage().require_inspect()?.queues(&list).await?;
    if output.is_json() {
        return output.json(&queues);
    }
    if queues.is_empty() {
        return output.line("no queues");
    }
    let now = database::now(&client).await;
    let mut columns = vec![("QUEUE", Column::Text)];
    columns.extend(COUNTS);
    columns.extend([("LOCKED", Column::Fixed), ("BY", Column::Text)]);
    let mut table = Table::new(columns);
    for queue in queues {
        let mut row = vec![queue.name.into()];
        row.extend(counts_row(&Tally::of(&queue.jobs, queue.precision)));
        row.push(queue.locked_at.map(|time| relative(time, now)).unwrap_or_default().into());
        row.push(queue.locked_by.unwrap_or_default().into());
        table.row(row);
    }
    output.line(table.text(&output.screen()))
}

pub async fn tasks(global: &Global, output: &Output, args: CountArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let tasks = client.storage().require_inspect()?.tasks(effort(args)).await?;
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
    let screen = output.screen();
    let mut told = vec![tasks_table(&tasks, &serving, database::now(&client).await).text(&screen)];
    told.extend(after_a_gap(&screen, serving.problems(&tasks)));
    output.line(told.join("\n"))
}

/// With an empty line before them, if there are any.
pub fn after_a_gap(screen: &Screen, problems: Vec<String>) -> impl Iterator<Item = String> {
    let gap = (!problems.is_empty()).then(String::new);
    let told = problems.into_iter().map(|problem| screen.paint(Style::Warning, &wrapped(&problem, screen.width(), 0)));
    gap.into_iter().chain(told)
}

/// A task for machines. How many live workers of backfill's run it is null where one does not tell.
pub fn task_json(task: &backfill::TaskInfo, serving: &Serving) -> Value {
    json!({
        "name": task.name, "jobs": task.jobs, "precision": task.precision, "workers": serving.workers_of(&task.name)
    })
}

pub fn tasks_table(tasks: &[backfill::TaskInfo], serving: &Serving, now: DateTime<Utc>) -> Table {
    let mut columns = vec![("TASK", Column::Text)];
    columns.extend(COUNTS);
    columns.extend([("WORKERS", Column::Number), ("OLDEST READY", Column::Fixed)]);
    let mut table = Table::new(columns);
    for task in tasks {
        let mut row = vec![task.name.as_str().into()];
        row.extend(counts_row(&Tally::of(&task.jobs, task.precision)));
        row.push(serving.workers_of(&task.name).map_or_else(|| "?".to_owned(), |workers| workers.to_string()).into());
        row.push(task.oldest_ready.map(|time| relative(time, now)).unwrap_or_default().into());
        table.row(row);
    }
    table
}

pub async fn workers(global: &Global, output: &Output, args: CountArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let inspect = client.storage().require_inspect()?;
    let workers = inspect.workers(effort(args)).await?;
    if output.is_json() {
        return output.json(&workers);
    }
    if !args.exact
        && (workers.is_empty() || workers.iter().any(|worker| worker.precision != Precision::Exact))
        && inspect.tally(Effort::Bounded).await?.running.precision != Precision::Exact
    {
        // If it cannot be said, the list is there all the same.
        let _ = writeln!(
            io::stderr(),
            "note: so many jobs are not read for who holds them, so workers of Node's are missing here; --exact reads them, and an index \
             makes it quick (`backfill migrate --indexes running`)"
        );
    }
    if workers.is_empty() {
        return output.line("no workers");
    }
    let now = database::now(&client).await;
    let serving = Serving::of_workers(&workers);
    let mut table = Table::new([
        ("WORKER", Column::Fixed),
        ("STARTED", Column::Fixed),
        ("LAST SEEN", Column::Text),
        ("JOBS", Column::Number),
        ("QUEUES", Column::Number),
        ("OLDEST LOCK", Column::Fixed),
        ("DOING", Column::Text),
        ("TASKS", Column::Text),
    ]);
    for worker in workers {
        let seen = match worker.last_seen_ago {
            Some(_) if worker.seen_at.is_some_and(|seen| seen == DateTime::UNIX_EPOCH) => {
                "dead; somebody's lock keeps its jobs".to_owned()
            }
            Some(ago) => format!("{} ago", length(std::time::Duration::from_secs(ago.as_secs()))),
            None => "sends no heartbeats (Node)".to_owned(),
        };
        table.row([
            worker.id.into(),
            worker.started_at.map(|time| relative(time, now)).unwrap_or_default().into(),
            seen.into(),
            number_text(Number::new(worker.jobs, worker.precision)).into(),
            worker.queues.to_string().into(),
            worker.oldest_lock.map(|time| relative(time, now)).unwrap_or_default().into(),
            worker.status.as_ref().map(doing).unwrap_or_default().into(),
            worker.tasks.unwrap_or_default().join(" ").into(),
        ]);
    }
    let screen = output.screen();
    let mut told = vec![table.text(&screen)];
    if serving.workers > 0 {
        told.extend(after_a_gap(&screen, serving.problems(&inspect.tasks(effort(args)).await?)));
    }
    output.line(told.join("\n"))
}

/// What a worker says that it does.
fn doing(status: &WorkerStatus) -> String {
    let WorkerStatus { running, concurrency, .. } = status;
    let hold =
        status.hold.as_deref().filter(|hold| *hold != "full").map(|hold| format!(", {}", hold.replace('_', " ")));
    format!("{running} of {concurrency}{}", hold.unwrap_or_default())
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
    let columns = [("IDENTIFIER", Column::Text), ("KNOWN SINCE", Column::Fixed), ("LAST EXECUTION", Column::Text)];
    let mut table = Table::new(columns);
    for known in known {
        let last = known.last_execution.map(|time| format!("{} ({})", seconds(time), relative(time, now)));
        table.row([
            known.identifier.into(),
            seconds(known.known_since).into(),
            last.unwrap_or_else(|| "never".to_owned()).into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}
