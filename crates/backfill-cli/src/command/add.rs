//! `backfill add`.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use backfill::storage::AnyStorage;
use backfill::{BackfillClient, Error, JobSpec, Payload};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::input::Jobs;
use crate::args::{AddArgs, Global, SpecArgs};
use crate::database;
use crate::failure::{Failure, failed};
use crate::nearest::nearest;
use crate::output::Output;
use crate::serving::Serving;

/// Jobs in one statement.
const BATCH: usize = 1_000;
/// The most bytes of lines in one batch, so that memory stays bounded whatever the payloads.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Of how many tasks is looked up who runs them.
const MOST_TASKS: usize = 10_000;

pub async fn run(global: &Global, output: &Output, args: AddArgs) -> Result<(), Failure> {
    match (args.task, args.from) {
        (Some(task), _) => {
            let spec = spec_of(&task, args.payload.as_deref(), args.spec)?;
            let storage = open(global, !args.no_migrate).await?;
            one(storage, output, &task, spec, args.max_payload_bytes).await
        }
        (None, Some(file)) => {
            many(global, output, &file, Adding { create: !args.no_migrate, cap: args.max_payload_bytes }).await
        }
        (None, None) => Err(Failure::Usage("name a task, or a file with --from".to_owned())),
    }
}

/// A client whose schema is there. A missing one is created; an old one is left alone, since an upgrade stops Node workers of
/// older versions.
async fn open(global: &Global, create: bool) -> Result<AnyStorage, Failure> {
    let storage = database::reached(global, Duration::ZERO).await?;
    match database::check(&storage).await {
        Err(error) if create && error.is_missing() => {
            let elsewhere = database::elsewhere(&storage).await;
            storage.migrate().await?;
            // Said, because the name may have been mistyped.
            let _ = writeln!(io::stderr(), "note: created {}{elsewhere}", database::described(&storage).0);
        }
        checked => checked?,
    }
    Ok(storage)
}

fn spec_of(task: &str, payload: Option<&str>, args: SpecArgs) -> Result<JobSpec, Failure> {
    let payload = match payload {
        None => Payload::empty(),
        Some(text) => Payload::from_json(text).map_err(|error| {
            Failure::Usage(format!(
                "the payload is no JSON: {error}; strings need double quotes, such as '{{\"name\": \"Ada\"}}'"
            ))
        })?,
    };
    let mut spec = JobSpec::with_payload(task, payload);
    if let Some(queue) = args.queue {
        spec = spec.serial_queue(queue);
    }
    if let Some(time) = args.run_at {
        spec = spec.run_at(time);
    }
    if let Some(delay) = args.delay {
        spec = spec.run_in(delay);
    }
    if let Some(attempts) = args.max_attempts {
        spec = spec.max_attempts(attempts);
    }
    if let Some(key) = args.key {
        spec = spec.key(key);
    }
    if let Some(mode) = args.key_mode {
        spec = spec.key_mode(mode);
    }
    if let Some(priority) = args.priority {
        spec = spec.priority(priority);
    }
    for flag in args.flags {
        spec = spec.flag(flag);
    }
    Ok(spec)
}

/// What is wrong with a job, and what can be done about it here.
fn with_option(error: Error) -> Failure {
    match &error {
        Error::PayloadTooLarge { task, bytes, limit } => Failure::Usage(format!(
            "the payload for task {task:?} has {bytes} bytes, more than the cap of {limit}; store the data elsewhere and add a \
             reference, or raise the cap with --max-payload-bytes"
        )),
        _ => error.into(),
    }
}

fn at_line(number: u64, error: Error) -> Failure {
    match with_option(error) {
        Failure::Usage(message) | Failure::Failed(message) => failed(format!("line {number}: {message}")),
        other => other,
    }
}

/// Of a file that was only looked at yet.
fn nothing_added(failure: Failure) -> Failure {
    match failure {
        Failure::Failed(message) => failed(format!("{message}\nnothing was added")),
        other => other,
    }
}

async fn one(storage: AnyStorage, output: &Output, task: &str, spec: JobSpec, cap: usize) -> Result<(), Failure> {
    let known = storage.require_inspect()?.task_names().await?;
    let client = BackfillClient::with_storage(storage).with_max_payload_bytes(cap)?;
    let job = client.add(spec).await.map_err(with_option)?;
    let told = tell_unserved(&client, [task]).await;
    if !told
        && !known.iter().any(|known| known == task)
        && let Some(other) = nearest(task, known.iter().map(String::as_str))
    {
        let _ = writeln!(io::stderr(), "note: the task {task:?} is new; did you mean {other:?}?");
    }
    let what = if job.revision > 0 { "updated" } else { "added" };
    let now = database::now(&client).await;
    output.either(&job.with_state_at(now), format!("{what} job {}", job.id))
}

/// Says of these tasks if no live worker runs them; whether it did. The jobs are added, so nothing here fails.
async fn tell_unserved<'a>(client: &BackfillClient, tasks: impl IntoIterator<Item = &'a str>) -> bool {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let serving = tokio::time::timeout(TIMEOUT, Serving::of(&**client.storage())).await;
    let problems = match serving {
        Ok(Ok(serving)) => serving.problems_of(tasks),
        _ => Vec::new(),
    };
    for problem in &problems {
        let _ = writeln!(io::stderr(), "note: {problem}");
    }
    !problems.is_empty()
}

/// How a file is added.
#[derive(Clone, Copy)]
struct Adding {
    /// Create the schema if it is missing.
    create: bool,
    /// The most bytes of a payload.
    cap: usize,
}

async fn many(global: &Global, output: &Output, file: &Path, adding: Adding) -> Result<(), Failure> {
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    if file.as_os_str() == "-" {
        let progress = ProgressBar::new_spinner();
        progress.set_style(style("{spinner} {elapsed} {msg}"));
        return feed(global, output, io::stdin().lock(), adding, progress).await;
    }
    let open_file = || File::open(file).map_err(|error| failed(format!("could not read {}: {error}", file.display())));
    let opened = open_file()?;
    if file.is_dir() {
        return Err(failed(format!("could not read {}: it is a directory", file.display())));
    }
    let length = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|data| data.len());
    let Some(length) = length else {
        let progress = ProgressBar::new_spinner();
        return feed(global, output, opened, adding, progress).await;
    };
    // A file can be read twice: everything in it is looked at before anything is written.
    let progress = ProgressBar::new(length);
    progress.set_style(style("checking {bar:30} {percent}% of {binary_total_bytes}"));
    let mut lines = Jobs::new(progress.wrap_read(opened));
    let checker = BackfillClient::in_memory().with_max_payload_bytes(adding.cap)?;
    while let Some(line) = lines.next().map_err(nothing_added)? {
        checker.check(line.parsed.spec).map_err(|error| nothing_added(at_line(line.number, error)))?;
    }
    progress.finish_and_clear();
    let progress = ProgressBar::new(length);
    progress.set_style(style("{bar:30} {percent}% of {binary_total_bytes}, {msg}, {eta} left"));
    let input = progress.wrap_read(open_file()?);
    feed(global, output, input, adding, progress).await
}

/// Adds the jobs of an input in batches, in constant memory.
async fn feed(
    global: &Global,
    output: &Output,
    input: impl Read,
    adding: Adding,
    progress: ProgressBar,
) -> Result<(), Failure> {
    let storage = open(global, adding.create).await?;
    let client = BackfillClient::with_storage(storage).with_max_payload_bytes(adding.cap)?;
    let mut lines = Jobs::new(input);
    let mut added = 0_u64;
    let mut last_line = 0;
    let mut next = None;
    let mut tasks = BTreeSet::new();
    loop {
        let mut batch = Vec::new();
        let (mut bytes, mut keys) = (0, HashSet::new());
        let mut problem = None;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let line = match next.take().map_or_else(|| lines.next(), |line| Ok(Some(line))) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    problem = Some(error);
                    break;
                }
            };
            // A key that comes again is for the next batch: the second job is to find the first one there.
            if line.parsed.key.as_ref().is_some_and(|key| !keys.insert(key.clone())) {
                next = Some(line);
                break;
            }
            // Of a stream, nothing has been looked at yet.
            match client.checked([line.parsed.spec]) {
                Ok(jobs) => {
                    for job in jobs {
                        if tasks.len() < MOST_TASKS && !tasks.contains(&job.task) {
                            tasks.insert(job.task.clone());
                        }
                        batch.push(job);
                    }
                }
                Err(error) => {
                    problem = Some(at_line(line.number, error));
                    break;
                }
            }
            bytes += line.bytes;
            last_line = line.number;
        }
        let ended = batch.is_empty();
        let count = batch.len() as u64;
        let stored = if ended { Ok(Vec::new()) } else { client.storage().add(&batch).await };
        if let Err(error) = stored {
            progress.finish_and_clear();
            return Err(failed(format!(
                "{error}\n{added} jobs were added; none of the lines {} to {last_line} was",
                last_line + 1 - count.min(last_line)
            )));
        }
        added += count;
        progress.set_message(format!("{added} jobs"));
        if let Some(error) = problem {
            progress.finish_and_clear();
            let Failure::Failed(message) = error else { return Err(error) };
            return Err(failed(format!("{message}\n{added} jobs were added, those up to line {last_line}")));
        }
        if ended {
            break;
        }
    }
    progress.finish_and_clear();
    tell_unserved(&client, tasks.iter().map(String::as_str)).await;
    output.either(&json!({ "added": added }), format!("added {added} jobs"))
}
