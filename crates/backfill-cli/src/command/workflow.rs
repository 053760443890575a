//! `backfill workflow`: looking at durable workflows, and steering them.

use std::collections::BTreeMap;

use backfill_workflow::store::{StepRow, VersionRow};
use backfill_workflow::{Client, Filter, ForkFrom, Retention, Run, Start, Status, Workflow};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::args::{
    ForkArgs, GcArgs, Global, ListArgs, ScheduleCommand, SendToArgs, StartArgs, WorkflowArgs, WorkflowCommand,
    WorkflowStatus,
};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of, one_line, rfc3339, visible};
use crate::screen::Style;
use crate::table::{Cell, Column, Table};
use crate::value::{length, relative};

/// How wide the bars of a timeline are.
const BAR: usize = 32;

pub async fn run(global: &Global, output: &Output, args: WorkflowArgs) -> Result<(), Failure> {
    // Whoever looks, or steers what must be there, creates nothing.
    let creates = matches!(args.command, WorkflowCommand::Start(_) | WorkflowCommand::Migrate);
    let client = database::workflows(global, creates).await?;
    match args.command {
        WorkflowCommand::List(args) => list(&client, output, args).await,
        WorkflowCommand::Show { id } => show(&client, output, &id).await,
        WorkflowCommand::Steps { id } => steps(&client, output, &id).await,
        WorkflowCommand::Start(args) => start(&client, output, args).await,
        WorkflowCommand::SendTo(args) => send(&client, output, args).await,
        WorkflowCommand::Cancel { ids, children } => {
            let done = if children {
                client.cancel_with_children(ids.clone()).await?
            } else {
                client.cancel(ids.clone()).await?
            };
            changed(output, "cancelled", &ids, &done)
        }
        WorkflowCommand::Resume { ids, queue } => {
            let done = client.resume(ids.clone(), queue.as_deref()).await?;
            changed(output, "resumed", &ids, &done)
        }
        WorkflowCommand::Fork(args) => fork(&client, output, args).await,
        WorkflowCommand::Delete { ids, children } => {
            let done = client.delete(ids.clone(), children).await?;
            changed(output, "deleted", &ids, &done)
        }
        WorkflowCommand::Recover { executors, app_version } => {
            let done = client.recover(executors, app_version.as_deref()).await?;
            output
                .either(&json!({ "recovered": done }), format!("put back {}", count_of(done.len() as u64, "workflow")))
        }
        WorkflowCommand::Schedules { command } => schedules(&client, output, command).await,
        WorkflowCommand::Queues => queues(&client, output).await,
        WorkflowCommand::Versions { set_latest } => versions(&client, output, set_latest).await,
        WorkflowCommand::Gc(args) => gc(&client, output, &args).await,
        WorkflowCommand::Migrate => {
            let storage = client.store().name();
            output.either(&json!({ "storage": storage }), format!("the tables of workflows are there, in {storage}"))
        }
    }
}

fn status_of(status: WorkflowStatus) -> Status {
    match status {
        WorkflowStatus::Enqueued => Status::Enqueued,
        WorkflowStatus::Delayed => Status::Delayed,
        WorkflowStatus::Pending => Status::Pending,
        WorkflowStatus::Success => Status::Success,
        WorkflowStatus::Error => Status::Error,
        WorkflowStatus::Cancelled => Status::Cancelled,
        WorkflowStatus::Exhausted => Status::Exhausted,
    }
}

fn style_of(status: Status) -> Style {
    match status {
        Status::Success => Style::Good,
        Status::Enqueued | Status::Delayed => Style::Waiting,
        Status::Cancelled => Style::Warning,
        Status::Error | Status::Exhausted => Style::Bad,
        _ => Style::Plain,
    }
}

fn word(status: Status) -> String {
    match status {
        Status::Exhausted => "exhausted".to_owned(),
        status => status.name().to_lowercase(),
    }
}

fn moment(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

/// A duration between two moments, in the unit that suits it.
fn took(from: i64, until: i64) -> String {
    let millis = u64::try_from(until - from).unwrap_or(0);
    if millis < 1000 { format!("{millis}ms") } else { length(std::time::Duration::from_millis(millis)) }
}

async fn now(client: &Client) -> i64 {
    client.store().now().await.unwrap_or_else(|_| Utc::now().timestamp_millis())
}

async fn list(client: &Client, output: &Output, args: ListArgs) -> Result<(), Failure> {
    let filter = Filter {
        statuses: args.status.into_iter().map(status_of).collect(),
        names: args.name,
        queues: args.queue,
        id_prefixes: args.prefix,
        parents: args.parent.into_iter().collect(),
        users: args.user.into_iter().collect(),
        limit: Some(args.limit.into()),
        offset: args.offset.into(),
        newest_first: true,
        load_output: true,
        ..Filter::default()
    };
    let runs = client.list(&filter).await?;
    if output.is_json() {
        return output.json(&runs);
    }
    if runs.is_empty() {
        return output.line("no workflows");
    }
    let now = moment(now(client).await);
    let mut table = Table::new([
        ("ID", Column::Text),
        ("NAME", Column::Text),
        ("STATUS", Column::Fixed),
        ("QUEUE", Column::Text),
        ("CREATED", Column::Fixed),
        ("TOOK", Column::Fixed),
        ("ERROR", Column::Text),
    ]);
    for run in runs {
        let ended = run.completed_at.zip(run.started_at).map(|(ended, started)| took(started, ended));
        table.row([
            visible(&run.id).into(),
            visible(&run.name).into(),
            Cell::new(word(run.status), style_of(run.status)),
            visible(run.queue.as_deref().unwrap_or_default()).into(),
            relative(moment(run.created_at), now).into(),
            ended.unwrap_or_default().into(),
            run.error.as_deref().map(message_of).unwrap_or_default().into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

/// What an error says, on one line.
fn message_of(error: &str) -> String {
    let value: Option<Value> = serde_json::from_str(error).ok();
    let text = |key: &str| value.as_ref().and_then(|value| value.get(key)?.as_str().map(str::to_owned));
    match (text("name"), text("message")) {
        (Some(name), Some(message)) => one_line(&format!("{name}: {message}")),
        _ => one_line(error),
    }
}

async fn show(client: &Client, output: &Output, id: &str) -> Result<(), Failure> {
    let run = client.get(id).await?;
    let steps = client.steps(id).await?;
    let (events, messages) = (client.events(id).await?, client.messages(id).await?);
    if output.is_json() {
        return output.json(&json!({ "workflow": run, "steps": steps, "events": events, "messages": messages }));
    }
    let now_ms = now(client).await;
    let now = moment(now_ms);
    let screen = output.screen();
    let at = |millis: i64| format!("{} ({})", rfc3339(moment(millis)), relative(moment(millis), now));
    let mut lines = vec![
        ("id", visible(&run.id)),
        ("name", visible(&run.name)),
        ("status", screen.paint(style_of(run.status), &word(run.status))),
        ("created", at(run.created_at)),
    ];
    let optional = [
        ("started", run.started_at.map(at)),
        ("ended", run.completed_at.map(at)),
        ("delayed until", run.delay_until.filter(|_| run.status == Status::Delayed).map(at)),
        ("deadline", run.deadline.map(at)),
        ("attempts", (run.attempts > 1).then(|| run.attempts.to_string())),
        ("queue", run.queue.as_deref().map(visible)),
        ("partition", run.partition.as_deref().map(visible)),
        ("priority", (run.priority != 0).then(|| run.priority.to_string())),
        ("deduplication", run.deduplication.as_deref().map(visible)),
        ("executor", run.executor.as_deref().map(visible)),
        ("version", run.version.as_deref().map(visible)),
        ("application", run.application.as_deref().map(visible)),
        ("parent", run.parent.as_deref().map(visible)),
        ("forked from", run.forked_from.as_deref().map(visible)),
        ("schedule", run.schedule.as_deref().map(visible)),
        ("user", run.user.as_deref().map(visible)),
        ("input", run.input.as_deref().map(one_line)),
        ("output", run.output.as_deref().map(one_line)),
        ("error", run.error.as_deref().map(message_of)),
        ("format", run.format.as_deref().filter(|format| *format != backfill_workflow::PORTABLE).map(visible)),
    ];
    lines.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    for (name, value) in lines {
        output.line(format!("{name:<14} {value}"))?;
    }
    if !steps.is_empty() {
        output.line("")?;
        output.line(timeline(&run, &steps, now_ms).text(&screen))?;
    }
    let waiting = messages.iter().filter(|message| !message.consumed).count();
    if waiting > 0 {
        output.line(format!("\n{} not received yet", count_of(waiting as u64, "message")))?;
    }
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for event in &events {
        last.insert(&event.key, &event.value.text);
    }
    for (key, value) in last {
        output.line(format!("event {} = {}", visible(key), one_line(value)))?;
    }
    Ok(())
}

/// The steps under each other, with bars that show when each of them ran.
fn timeline(run: &Run, steps: &[StepRow], now: i64) -> Table {
    let begun = steps.iter().filter_map(|step| step.started_at).chain(run.started_at).min().unwrap_or(run.created_at);
    let last = steps.iter().filter_map(|step| step.completed_at).max().unwrap_or(begun);
    let end = run.completed_at.unwrap_or(now).max(last).max(begun + 1);
    let place = |at: i64| {
        let share = (at - begun).clamp(0, end - begun) * i64::try_from(BAR).unwrap_or(1) / (end - begun);
        usize::try_from(share).unwrap_or(0)
    };
    let mut table = Table::new([
        ("STEP", Column::Number),
        ("NAME", Column::Text),
        ("WHEN", Column::Fixed),
        ("TOOK", Column::Fixed),
        ("RESULT", Column::Text),
    ]);
    for step in steps {
        let (from, until) = (step.started_at.unwrap_or(begun), step.completed_at.unwrap_or(end));
        let first = place(from).min(BAR - 1);
        let length = (place(until).saturating_sub(first)).max(1);
        let bar =
            format!("{}{}{}", "·".repeat(first), "━".repeat(length), "·".repeat(BAR.saturating_sub(first + length)));
        let (result, style) = match (&step.error, &step.child) {
            (Some(error), _) => (message_of(error), Style::Bad),
            (None, Some(child)) => (format!("→ {}", visible(child)), Style::Plain),
            (None, None) => (one_line(step.output.as_deref().unwrap_or_default()), Style::Plain),
        };
        table.row([
            step.number.to_string().into(),
            visible(&step.name).into(),
            Cell::new(bar, if step.error.is_some() { Style::Bad } else { Style::Good }),
            took(from, until).into(),
            Cell::new(result, style),
        ]);
    }
    table
}

async fn steps(client: &Client, output: &Output, id: &str) -> Result<(), Failure> {
    let run = client.get(id).await?;
    let steps = client.steps(id).await?;
    if output.is_json() {
        return output.json(&steps);
    }
    if steps.is_empty() {
        return output.line("no steps");
    }
    output.line(timeline(&run, &steps, now(client).await).text(&output.screen()))
}

async fn start(client: &Client, output: &Output, args: StartArgs) -> Result<(), Failure> {
    let input: Value = match &args.input {
        None => Value::Null,
        Some(text) => serde_json::from_str(text).map_err(|error| {
            Failure::Usage(format!("the input is no JSON: {error}; a text stands in double quotes"))
        })?,
    };
    let mut options = Start::new();
    (options.id, options.queue, options.delay, options.priority) = (args.id, args.queue, args.delay, args.priority);
    (options.deduplication, options.partition) = (args.deduplication, args.partition);
    (options.timeout, options.version) = (args.timeout, args.app_version);
    // The program has one name for the time that it lives.
    let workflow = Workflow::<Value, Value>::named(args.name.leak());
    let handle = client.start(workflow, &input, options).await?;
    output.either(&json!({ "id": handle.id() }), visible(handle.id()))
}

async fn send(client: &Client, output: &Output, args: SendToArgs) -> Result<(), Failure> {
    let message: Value = serde_json::from_str(&args.message)
        .map_err(|error| Failure::Usage(format!("the message is no JSON: {error}; a text stands in double quotes")))?;
    client.send(&args.id, &args.topic, &message, args.key.as_deref()).await?;
    output.either(&json!({ "sent": true }), "sent")
}

async fn fork(client: &Client, output: &Output, args: ForkArgs) -> Result<(), Failure> {
    let from = match (args.step, args.step_name, args.last_failure) {
        (Some(step), ..) => ForkFrom::Step(step),
        (_, Some(name), _) => ForkFrom::Named(name),
        (.., true) => ForkFrom::LastFailure,
        _ => ForkFrom::LastStep,
    };
    let name = client.get(&args.id).await?.name;
    let mut options = Start::new();
    (options.id, options.queue, options.version) = (args.new_id, args.queue, args.app_version);
    let workflow = Workflow::<(), Value>::named(name.leak());
    let handle = client.fork(workflow, &args.id, from, options).await?;
    output.either(&json!({ "id": handle.id() }), visible(handle.id()))
}

/// Says what was done, and of which ids it was not.
fn changed(output: &Output, what: &str, asked: &[String], done: &[String]) -> Result<(), Failure> {
    let left: Vec<&String> = asked.iter().filter(|id| !done.contains(id)).collect();
    if output.is_json() {
        output.json(&json!({ what: done, "unchanged": left }))?;
    } else {
        for id in done {
            output.line(format!("{what} {}", visible(id)))?;
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    if output.is_json() {
        return Err(Failure::Told);
    }
    let names: Vec<String> = left.iter().map(|id| visible(id)).collect();
    Err(failed(format!("not {what}, because there is no such workflow or it has ended: {}", names.join(", "))))
}

async fn schedules(client: &Client, output: &Output, command: Option<ScheduleCommand>) -> Result<(), Failure> {
    let known = |known: bool, what: &str, name: &str| {
        if known {
            output.either(&json!({ what: name }), format!("{what} {}", visible(name)))
        } else {
            Err(failed(format!("there is no schedule {name:?}; `backfill workflow schedules` lists them")))
        }
    };
    match command {
        None => {}
        Some(ScheduleCommand::Pause { name }) => return known(client.pause_schedule(&name).await?, "paused", &name),
        Some(ScheduleCommand::Resume { name }) => return known(client.resume_schedule(&name).await?, "resumed", &name),
        Some(ScheduleCommand::Delete { name }) => return known(client.delete_schedule(&name).await?, "deleted", &name),
        Some(ScheduleCommand::Trigger { name }) => {
            let handle = client.trigger_schedule(&name).await?;
            return output.either(&json!({ "id": handle.id() }), visible(handle.id()));
        }
        Some(ScheduleCommand::Backfill { name, from, until }) => {
            let handles = client.backfill_schedule(&name, from, until).await?;
            let ids: Vec<&str> = handles.iter().map(backfill_workflow::Handle::id).collect();
            return output.either(&json!({ "ids": ids }), ids.join("\n"));
        }
    }
    let schedules = client.schedules().await?;
    if output.is_json() {
        return output.json(&schedules);
    }
    if schedules.is_empty() {
        return output.line("no schedules");
    }
    let mut table = Table::new([
        ("NAME", Column::Text),
        ("WORKFLOW", Column::Text),
        ("CRON", Column::Text),
        ("ZONE", Column::Fixed),
        ("STATUS", Column::Fixed),
        ("LAST FIRED", Column::Fixed),
    ]);
    for schedule in schedules {
        let (status, style) = if schedule.paused { ("paused", Style::Warning) } else { ("active", Style::Good) };
        table.row([
            visible(&schedule.name).into(),
            visible(&schedule.workflow).into(),
            visible(&schedule.cron).into(),
            schedule.time_zone.unwrap_or_else(|| "UTC".to_owned()).into(),
            Cell::new(status, style),
            schedule.last_fired_at.unwrap_or_default().into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

async fn queues(client: &Client, output: &Output) -> Result<(), Failure> {
    let settings = client.queues().await?;
    let live = Filter { statuses: vec![Status::Enqueued, Status::Delayed, Status::Pending], ..Filter::default() };
    let mut counts: BTreeMap<String, [i64; 3]> = settings.iter().map(|queue| (queue.name.clone(), [0; 3])).collect();
    for count in client.counts(&live).await? {
        let Some(queue) = count.queue else { continue };
        let place = match count.status {
            Status::Enqueued => 0,
            Status::Delayed => 1,
            _ => 2,
        };
        counts.entry(queue).or_default()[place] += count.count;
    }
    if output.is_json() {
        let rows = counts.iter().map(|(name, [enqueued, delayed, pending])| {
            let settings = settings.iter().find(|queue| queue.name == *name);
            json!({ "name": name, "settings": settings, "enqueued": enqueued, "delayed": delayed, "pending": pending })
        });
        return output.json(&rows.collect::<Vec<_>>());
    }
    if counts.is_empty() {
        return output.line("no queues");
    }
    let mut table = Table::new([
        ("QUEUE", Column::Text),
        ("ENQUEUED", Column::Number),
        ("DELAYED", Column::Number),
        ("PENDING", Column::Number),
        ("AT ONCE", Column::Fixed),
        ("PER PROCESS", Column::Fixed),
        ("RATE", Column::Fixed),
        ("PARTS", Column::Fixed),
    ]);
    for (name, [enqueued, delayed, pending]) in counts {
        let queue = settings.iter().find(|queue| queue.name == name);
        let number = |of: Option<i64>| of.map(|number| number.to_string()).unwrap_or_default();
        let rate = queue.and_then(|queue| queue.rate).map(|rate| format!("{} in {}", rate.limit, took(0, rate.period)));
        table.row([
            visible(&name).into(),
            enqueued.to_string().into(),
            delayed.to_string().into(),
            pending.to_string().into(),
            number(queue.and_then(|queue| queue.concurrency)).into(),
            number(queue.and_then(|queue| queue.worker_concurrency)).into(),
            rate.unwrap_or_default().into(),
            if queue.is_some_and(|queue| queue.partitioned) { "yes" } else { "" }.into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

async fn versions(client: &Client, output: &Output, set_latest: Option<String>) -> Result<(), Failure> {
    if let Some(version) = set_latest {
        client.set_latest_version(&version).await?;
        return output.either(&json!({ "latest": version }), format!("{} is the latest version", visible(&version)));
    }
    let versions: Vec<VersionRow> = client.store().versions().await?;
    if output.is_json() {
        return output.json(&versions);
    }
    if versions.is_empty() {
        return output.line("no versions");
    }
    let now = moment(now(client).await);
    let mut table = Table::new([
        ("VERSION", Column::Text),
        ("APPLICATION", Column::Text),
        ("FIRST SEEN", Column::Fixed),
        ("", Column::Fixed),
    ]);
    let mut told: Vec<Option<String>> = Vec::new();
    for version in versions {
        let latest = !told.contains(&version.application);
        told.push(version.application.clone());
        table.row([
            visible(&version.name).into(),
            visible(version.application.as_deref().unwrap_or_default()).into(),
            relative(moment(version.created_at), now).into(),
            if latest { "latest" } else { "" }.into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

async fn gc(client: &Client, output: &Output, args: &GcArgs) -> Result<(), Failure> {
    let deleted = client.delete_old(Retention { older_than: args.older_than, keep_newest: args.keep }).await?;
    output.either(&json!({ "deleted": deleted }), format!("deleted {}", count_of(deleted, "workflow")))
}
