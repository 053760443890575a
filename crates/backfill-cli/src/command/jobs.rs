//! `backfill jobs` and `backfill job`.

use std::io::{self, Write};
use std::time::Duration;

use backfill::search::{Found, Order, Pattern, Place, Query, Search, Test};
use backfill::storage::{Effort, QueueList};
use backfill::{BackfillClient, Job, JobFilter, JobState};
use chrono::{DateTime, Utc};

use super::inspect::style_of;
use crate::args::{Global, JobArgs, JobsArgs, ListOrder, State};
use crate::database;
use crate::failure::{Failure, failed};
use crate::nearest::{nearest, unknown};
use crate::output::{Output, seconds, visible};
use crate::table::{Cell, Column, Table, number_text};
use crate::value::relative;
use backfill::explain::Reason;
use backfill::text::laid_out;

/// So long a person waits for a list.
const PATIENCE: Duration = Duration::from_millis(150);

pub async fn list(global: &Global, output: &Output, args: JobsArgs) -> Result<(), Failure> {
    let search = search_of(&args)?;
    let client = database::client(global).await?;
    check_names(&client, &args).await?;
    let now = database::now(&client).await;
    if output.is_json() {
        return print_whole(&client, output, search, now).await;
    }
    let search = search.without_payloads();
    let search = if args.to_the_end { search } else { search.budget(PATIENCE) };
    let found = client.search(&search).await?;
    if found.jobs.is_empty() && found.next.is_none() {
        // Its job may be done, and so gone; or the key was mistyped.
        if let Some(key) = &args.key
            && let Some(other) = similar_key(&client, key).await?
        {
            let _ = writeln!(io::stderr(), "note: no job has the key {key:?}; did you mean {other:?}?");
        }
        return output.line("no jobs");
    }
    if !found.jobs.is_empty() {
        output.line(jobs_table(&found.jobs, now).text(&output.screen()))?;
    }
    match found.next {
        Some(next) if found.jobs.len() >= args.limit as usize => tell_of_more(&client, search, next).await?,
        Some(next) => tell_how_far(&found, next),
        None => {}
    }
    Ok(())
}

/// How to go on behind a full page, if anything is there.
async fn tell_of_more(client: &BackfillClient, search: Search, next: Place) -> Result<(), Failure> {
    let more = client.search(&search.without_payloads().limit(1).after(Some(next)).budget(PATIENCE)).await?;
    let are = match (more.jobs.is_empty(), more.next) {
        (false, _) => "are",
        (true, Some(_)) => "may be",
        (true, None) => return Ok(()),
    };
    // If it cannot be said, the list is there all the same.
    let _ = writeln!(io::stderr(), "note: there {are} more; go on with --after {next}");
    Ok(())
}

/// How far was looked for a page that is not full.
fn tell_how_far(found: &Found, next: Place) {
    let of = found.of.map(|of| format!(" of {}", number_text(of))).unwrap_or_default();
    let _ = writeln!(
        io::stderr(),
        "note: looked at {}{of} jobs and found {}; go on with --after {next}, or look at all with --to-the-end",
        found.looked_at,
        found.jobs.len()
    );
}

/// What is asked for by all the options together.
fn search_of(args: &JobsArgs) -> Result<Search, Failure> {
    let mut query: Query = args.search.as_deref().unwrap_or_default().parse()?;
    let exact = |name: &String| Pattern::Exact(name.clone());
    if let Some(state) = args.state {
        query = query.and(Test::State(vec![match state {
            State::Ready => JobState::Ready,
            State::Scheduled => JobState::Scheduled,
            State::Running => JobState::Running,
            State::Retrying => JobState::Retrying,
            State::Dead => JobState::Dead,
        }]));
    }
    if let Some(task) = &args.task {
        query = query.and(Test::Task(vec![exact(task)]));
    }
    if let Some(queue) = &args.queue {
        query = query.and(Test::Queue(exact(queue)));
    }
    if let Some(key) = &args.key {
        query = query.and(Test::Key(exact(key)));
    }
    let order = match args.order {
        ListOrder::Oldest => Order::Oldest,
        ListOrder::Newest => Order::Newest,
        ListOrder::Claim => Order::Claim,
    };
    let search = Search::new(query).order(order).after(args.after).limit(args.limit);
    search.check()?;
    Ok(search)
}

/// Prints jobs with their payloads, and holds no more of them at once than so many bytes.
async fn print_whole(
    client: &BackfillClient,
    output: &Output,
    mut search: Search,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    const PAGE_BYTES: u64 = 8 * 1024 * 1024;
    const PAGE_JOBS: u64 = 1_000;
    let mut list = output.json_list()?;
    let mut left = search.limit;
    // What is asked for and not read is sent all the same, so where jobs are large, fewer are asked for.
    let mut page = 16;
    search.max_bytes = Some(PAGE_BYTES);
    while left > 0 {
        search.limit = left.min(page);
        let found = client.search(&search).await?;
        let count = found.jobs.len() as u64;
        let bytes: usize = found.jobs.iter().map(|job| job.payload.as_str().len()).sum();
        page = u32::try_from((PAGE_BYTES * count.max(1) / (bytes as u64 + 1)).clamp(1, PAGE_JOBS)).unwrap_or(1);
        left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        for job in &found.jobs {
            list.item(&job.with_state_at(now))?;
        }
        search.after = found.next;
        if search.after.is_none() {
            break;
        }
    }
    list.end()?;
    match search.after {
        Some(next) if left == 0 => tell_of_more(client, search, next).await,
        _ => Ok(()),
    }
}

/// The key of a job that is most like this one, if any is.
pub async fn similar_key(client: &BackfillClient, key: &str) -> Result<Option<String>, Failure> {
    /// Of so many jobs.
    const LOOKED_AT: u32 = 1_000;
    let jobs = client.jobs(&JobFilter::new().limit(LOOKED_AT).without_payloads()).await?;
    let others = jobs.iter().filter_map(|job| job.key.as_deref()).filter(|other| *other != key);
    Ok(nearest(key, others).map(str::to_owned))
}

/// Nobody has to wonder whether a name was mistyped or has no jobs.
async fn check_names(client: &BackfillClient, args: &JobsArgs) -> Result<(), Failure> {
    if let Some(task) = &args.task {
        let known = client.storage().require_inspect()?.task_names().await?;
        if !known.contains(task) {
            return Err(failed(unknown("task", task, known.iter().map(String::as_str))));
        }
    }
    if let Some(queue) = &args.queue {
        // There may be a hundred thousand: the others are only read to say which one was meant.
        let inspect = client.storage().require_inspect()?;
        let of_name = QueueList::all(Effort::Bounded).name(Some(Pattern::Exact(queue.clone()))).limit(1);
        if inspect.queues(&of_name).await?.is_empty() {
            let known = inspect.queues(&QueueList::all(Effort::Bounded)).await?;
            return Err(failed(unknown("queue", queue, known.iter().map(|known| known.name.as_str()))));
        }
    }
    Ok(())
}

fn jobs_table(jobs: &[Job], now: DateTime<Utc>) -> Table {
    let mut table = Table::new([
        ("ID", Column::Number),
        ("TASK", Column::Text),
        ("STATE", Column::Fixed),
        ("QUEUE", Column::Text),
        ("KEY", Column::Text),
        ("PRIORITY", Column::Number),
        ("ATTEMPTS", Column::Number),
        ("RUN AT", Column::Fixed),
        ("LAST ERROR", Column::Text),
    ]);
    for job in jobs {
        let state = job.state(now);
        table.row([
            job.id.to_string().into(),
            job.task.as_str().into(),
            Cell::new(state.to_string(), style_of(state)),
            job.queue.as_deref().unwrap_or_default().into(),
            job.key.as_deref().unwrap_or_default().into(),
            job.priority.0.to_string().into(),
            format!("{}/{}", job.attempts, job.max_attempts).into(),
            relative(job.run_at, now).into(),
            job.last_error.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

pub async fn show(global: &Global, output: &Output, args: &JobArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let job = client.job(args.id).await?;
    let Some(job) = job else {
        return Err(failed(format!("there is no job {}; done jobs are deleted", args.id)));
    };
    let now = database::now(&client).await;
    // Whoever may not look at workers, or at a table that is not there, does without.
    let why = client.why(args.id).await.ok().flatten().unwrap_or_default();
    if output.is_json() {
        let reasons = serde_json::to_value(&why).unwrap_or_default();
        return output.json(&job.with_state_at(now).why(&reasons));
    }
    output.line(describe(&job, &why, now))
}

fn describe(job: &Job, why: &[Reason], now: DateTime<Utc>) -> String {
    let time = |time| format!("{} UTC ({})", seconds(time), relative(time, now));
    let none = || "-".to_owned();
    let mut lines =
        vec![("id", job.id.to_string()), ("task", visible(&job.task)), ("state", job.state(now).to_string())];
    let reasons = why.iter().map(|reason| visible(&reason.to_string()));
    lines.extend(reasons.enumerate().map(|(place, text)| (if place == 0 { "why" } else { "" }, text)));
    lines.extend([
        ("queue", job.queue.as_deref().map_or_else(none, visible)),
        ("key", job.key.as_deref().map_or_else(none, visible)),
        ("priority", job.priority.0.to_string()),
        ("flags", if job.flags.is_empty() { none() } else { visible(&job.flags.join(", ")) }),
        ("attempts", format!("{} of {}", job.attempts, job.max_attempts)),
        ("run_at", time(job.run_at)),
        ("created_at", time(job.created_at)),
        ("updated_at", time(job.updated_at)),
        ("revision", job.revision.to_string()),
    ]);
    if let (Some(at), Some(by)) = (job.locked_at, &job.locked_by) {
        lines.push(("locked_at", time(at)));
        lines.push(("locked_by", visible(by)));
    }
    let mut told: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<11} {value}")).collect();
    if let Some(error) = &job.last_error {
        told.push(format!("last_error\n{}", indented(&visible(error))));
    }
    // Numbers keep their digits, and keys their order: the text is only laid out, never read into values.
    told.push(format!("payload\n{}", indented(&visible(&laid_out(job.payload.as_str())))));
    told.join("\n")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
