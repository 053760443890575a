//! `backfill worker`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backfill::storage::make_ready;
use backfill::{BackfillClient, Clock, Crontab, Handler, Prefetch, Summary, Worker, WorkerBuilder};
use serde_json::json;

use crate::args::{Global, WorkerArgs};
use crate::database;
use crate::executable::{Found, find, handler, is_ours, withheld};
use crate::failure::{Failure, failed};
use crate::logging;
use crate::nearest::unknown;
use crate::output::{Output, count_of};
use crate::value::ForTask;

/// Node's.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

pub async fn run(global: &Global, output: &Output, args: Box<WorkerArgs>) -> Result<(), Failure> {
    // Everything that can be wrong with files is told before the database is even asked for.
    let crontab = crontab(args.crontab.as_deref())?;
    let found = programs(args.tasks.as_deref(), crontab.is_some())?;
    for other in &found.others {
        tracing::warn!("{other}");
    }
    let handlers = handlers(&found.tasks, &args)?;
    if let Some(file) = database::own_file(global)? {
        tracing::warn!(
            "no database is named, so this worker serves a private file, {}: it runs only what is added to that; for jobs that are \
             elsewhere give --database-url, or set DATABASE_URL",
            file.display()
        );
    }
    let patience = if args.fail_fast || args.once { Duration::ZERO } else { Duration::MAX };
    let storage = database::reached(global, patience).await?;
    let elsewhere = if args.no_migrate { None } else { database::elsewhere_if_missing(&storage).await };
    if let Some(elsewhere) = elsewhere.filter(|elsewhere| !elsewhere.is_empty()) {
        tracing::warn!("creating {}{elsewhere}", database::described(&storage).0);
    }
    let revision = make_ready(&*storage, !args.no_migrate, patience).await?;
    let place = storage.name();
    let client = BackfillClient::with_storage(storage);
    let client = if args.client_time { client.with_clock(Clock::application()) } else { client };
    let entries = crontab.as_ref().map_or(0, |crontab| crontab.entries().len());
    let worker = settings(Worker::builder(client), handlers, crontab, &args).build()?;
    tracing::info!(
        storage = %place,
        revision,
        tasks = worker.tasks().join(" "),
        crontab_entries = if args.once { 0 } else { entries },
        concurrency = args.concurrency,
        wakeups = if args.once || args.no_listen { "poll" } else { "listen and poll" },
        poll_interval = %humantime::format_duration(args.poll_interval),
        "serving"
    );
    let handle = worker.shutdown_handle();
    let run = async { if args.once { worker.run_once().await } else { worker.run().await } };
    let unread = async {
        logging::nobody_reads().await;
        handle.shutdown();
        std::future::pending::<()>().await;
    };
    let summary = tokio::select! {
        ended = run => ended?,
        () = unread => return Err(Failure::ClosedPipe),
    };
    tell(output, &summary)
}

fn settings(
    builder: WorkerBuilder,
    handlers: Vec<Handler>,
    crontab: Option<Crontab>,
    args: &WorkerArgs,
) -> WorkerBuilder {
    let mut builder = builder
        .concurrency(args.concurrency)
        .poll_interval(args.poll_interval)
        .listen(!args.no_listen)
        .take_handed(!args.no_handover)
        .forbidden_flags(args.forbidden_flags.iter().filter(|flag| !flag.is_empty()))
        .sweep_interval(args.min_reset_locked_interval, args.max_reset_locked_interval)
        .presence(args.sign_of_life, args.dead_after)
        .cancel_after(args.cancel_after)
        .grace(args.grace);
    if let Some(size) = args.prefetch {
        let mut prefetch = Prefetch::new(size).ttl(args.prefetch_ttl);
        if let Some(delay) = args.refetch_delay {
            prefetch = prefetch.refetch_delay(delay, args.refetch_threshold);
            if let Some(jobs) = args.refetch_abort_at {
                prefetch = prefetch.refetch_abort_at(jobs);
            }
        }
        builder = builder.prefetch(prefetch);
    }
    if let Some(crontab) = crontab {
        builder = builder.crontab(crontab);
    }
    handlers.into_iter().fold(builder, WorkerBuilder::task)
}

/// The crontab that was named, or the one that is there.
fn crontab(named: Option<&Path>) -> Result<Option<Crontab>, Failure> {
    let file = named.unwrap_or(Path::new("crontab"));
    match std::fs::read_to_string(file) {
        Ok(text) => {
            text.parse().map(Some).map_err(|error: backfill::Error| failed(format!("{}: {error}", file.display())))
        }
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("could not read the crontab {}: {error}", file.display()))),
    }
}

fn programs(named: Option<&Path>, has_crontab: bool) -> Result<Found, Failure> {
    let directory = named.unwrap_or(Path::new("tasks"));
    match find(directory) {
        Ok(found) if found.tasks.is_empty() && !has_crontab => {
            let told: Vec<String> =
                std::iter::once(format!("there are no tasks in {}", directory.display())).chain(found.others).collect();
            Err(failed(told.join("\n  ")))
        }
        Ok(found) => Ok(found),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound && has_crontab => {
            Ok(Found::default())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failed(format!(
            "there is no directory {} with tasks in it; make one, or name another with --tasks",
            directory.display()
        ))),
        Err(error) => Err(failed(format!("could not read the tasks in {}: {error}", directory.display()))),
    }
}

fn handlers(programs: &BTreeMap<String, PathBuf>, args: &WorkerArgs) -> Result<Vec<Handler>, Failure> {
    let known = || programs.keys().map(String::as_str);
    let named = |tasks: Vec<&Option<String>>| {
        let stranger = tasks.into_iter().flatten().find(|task| !programs.contains_key(*task));
        stranger.map_or(Ok(()), |task| Err(Failure::Usage(unknown("task", task, known()))))
    };
    named(args.task_concurrency.iter().map(|limit| &limit.task).collect())?;
    named(args.timeout.iter().map(|limit| &limit.task).collect())?;
    named(args.retry.iter().map(|policy| &policy.task).collect())?;
    if let Some(none) = args.timeout.iter().find(|limit| limit.value.is_zero()) {
        let of = none.task.as_ref().map_or_else(|| "every task".to_owned(), |task| format!("the task {task:?}"));
        return Err(Failure::Usage(format!("the timeout of {of} is 0; give more, such as 30s")));
    }
    let withheld: Arc<[OsString]> = withheld(args.pass_secrets).into();
    let told: Vec<_> = withheld.iter().filter(|name| !is_ours(name)).map(|name| name.to_string_lossy()).collect();
    if !told.is_empty() && !programs.is_empty() {
        tracing::info!(
            variables = told.join(" "),
            "programs do not get what holds a password; --pass-secrets lets them"
        );
    }
    let handlers = programs.iter().map(|(task, program)| {
        let timeout = value_for(task, &args.timeout).unwrap_or(DEFAULT_TIMEOUT);
        let mut handler = handler(task, program, timeout, &withheld);
        if let Some(limit) = value_for(task, &args.task_concurrency) {
            handler = handler.concurrency(limit);
        }
        if let Some(policy) = value_for(task, &args.retry) {
            handler = handler.retry(policy.into());
        }
        handler
    });
    Ok(handlers.collect())
}

/// What was said of this task, or of all.
fn value_for<T: Copy>(task: &str, values: &[ForTask<T>]) -> Option<T> {
    let of = |wanted: Option<&str>| values.iter().rev().find(|value| value.task.as_deref() == wanted);
    of(Some(task)).or_else(|| of(None)).map(|value| value.value)
}

fn tell(output: &Output, summary: &Summary) -> Result<(), Failure> {
    let Summary { completed, failed, dead, snoozed, returned, lost, .. } = *summary;
    if output.is_json() {
        return output.json(&json!({
            "completed": completed,
            "failed": failed,
            "dead": dead,
            "snoozed": snoozed,
            "returned": returned,
            "lost": lost,
        }));
    }
    let mut told = vec![count_of(completed, "job") + " done", count_of(failed, "attempt") + " failed"];
    for (count, what) in [(dead, "given up"), (returned, "given back"), (lost, "ended too late")] {
        if count > 0 {
            told.push(format!("{count} {what}"));
        }
    }
    output.line(told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_task_outweighs_what_is_said_of_all() {
        let all = |value| ForTask { task: None, value };
        let one = |value| ForTask { task: Some("a".to_owned()), value };
        assert_eq!(value_for("a", &[one(1), all(2)]), Some(1));
        assert_eq!(value_for("b", &[one(1), all(2), all(3)]), Some(3));
        assert_eq!(value_for::<u8>("b", &[one(1)]), None);
    }
}
