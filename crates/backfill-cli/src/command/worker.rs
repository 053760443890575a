//! `backfill worker`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backfill::storage::make_ready;
use backfill::{BackfillClient, Clock, Crontab, Handler, Prefetch, Summary, Worker, WorkerBuilder};

use crate::args::{Global, WorkerArgs};
use crate::database;
use crate::executable::{Directory, Found, find, handler, is_ours, withheld};
use crate::failure::{Failure, failed};
use crate::first;
use crate::logging;
use crate::nearest::unknown;
use crate::output::{Output, count_of};
use crate::serving::Serving;
use crate::value::ForTask;

/// Where tasks are when nobody says it.
const TASKS: &str = "tasks";
/// Node's.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

pub async fn run(global: &Global, output: &Output, args: Box<WorkerArgs>) -> Result<(), Failure> {
    // Everything that can be wrong with files is told before the database is even asked for.
    let crontab = crontab(args.crontab.as_deref())?;
    let found = programs(args.tasks.as_deref(), crontab.is_some())?;
    for other in &found.others {
        tracing::warn!("{other}");
    }
    check_names(&found.tasks, &args)?;
    tell_withheld(&found.tasks, &args);
    let handlers = handlers(&found.tasks, &args);
    let directory = Directory::new(args.tasks.as_deref().unwrap_or(Path::new(TASKS)), &found);
    if let Some(file) = database::own_file(global)? {
        tracing::warn!(
            "no database is named, so this worker serves a private file, {}: it runs only what is added to that; for jobs that are \
             elsewhere give --database-url, or set DATABASE_URL",
            file.display()
        );
    }
    let max_wait = if args.fail_fast || args.once { Duration::ZERO } else { Duration::MAX };
    let storage = first::unless_ended(database::reached(global, max_wait)).await?;
    let elsewhere = if args.no_migrate { None } else { database::elsewhere_if_missing(&storage).await };
    if let Some(elsewhere) = elsewhere.filter(|elsewhere| !elsewhere.is_empty()) {
        tracing::warn!("creating {}{elsewhere}", database::described(&storage).0);
    }
    let made_ready = async { Ok(make_ready(&*storage, !args.no_migrate, max_wait).await?) };
    let revision = first::unless_ended(made_ready).await?;
    let place = storage.name();
    let client = BackfillClient::with_storage(storage);
    let client = if args.client_time { client.with_clock(Clock::application()) } else { client };
    let scheduled: Vec<String> =
        crontab.iter().flat_map(|crontab| crontab.entries().iter().map(|entry| entry.task.clone())).collect();
    let entries = crontab.as_ref().map_or(0, |crontab| crontab.entries().len());
    let worker = settings(Worker::builder(client.clone()), handlers, crontab, &args).build()?;
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
    let run = async { if args.once { worker.run_until_idle().await } else { worker.run().await } };
    let unread = async {
        logging::nobody_reads().await;
        handle.shutdown();
        std::future::pending::<()>().await;
    };
    let summary = tokio::select! {
        ended = run => ended?,
        () = unread => return Err(Failure::ClosedPipe),
        () = first::reap_orphans() => return Ok(()),
        () = rescan(&worker, directory, &args) => return Ok(()),
        () = watch_others(&client, &worker, &scheduled, args.once) => return Ok(()),
    };
    if args.once {
        tell_unserved(&client, &worker, &[], &mut BTreeSet::new()).await;
    }
    tell(output, &summary)
}

/// Runs programs that are put into the directory, and no more those that are taken out of it. Never ends.
async fn rescan(worker: &Worker, mut directory: Directory, args: &WorkerArgs) {
    if args.once || args.rescan_interval.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(args.rescan_interval).await;
        // A slow disk must not keep jobs from being looked after.
        let looked = tokio::task::spawn_blocking(move || {
            let changed = directory.look();
            (directory, changed)
        });
        let Ok((back, changed)) = looked.await else { return std::future::pending().await };
        directory = back;
        let Some(changed) = changed else { continue };
        match worker.handle().set_tasks(handlers(&changed.tasks, args)) {
            Ok(()) => tracing::info!(
                new = changed.new.join(" "),
                gone = changed.gone.join(" "),
                tasks = worker.tasks().join(" "),
                "the tasks have changed"
            ),
            Err(error) => tracing::error!(%error, "the tasks have changed, and cannot be run"),
        }
    }
}

/// Says which tasks nobody runs for which jobs wait, or which the crontab adds. Never ends.
async fn watch_others(client: &BackfillClient, worker: &Worker, scheduled: &[String], once: bool) {
    /// Workers that are started together know of each other then.
    const FIRST: Duration = Duration::from_secs(3);
    /// To count jobs by task is a pass over all of them.
    const AGAIN: Duration = Duration::from_secs(3600);
    if once {
        return std::future::pending().await;
    }
    let mut told = BTreeSet::new();
    tokio::time::sleep(FIRST).await;
    loop {
        tell_unserved(client, worker, scheduled, &mut told).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn tell_unserved(client: &BackfillClient, worker: &Worker, scheduled: &[String], told: &mut BTreeSet<String>) {
    let looked = async {
        Ok::<_, backfill::Error>((client.storage().require_inspect()?.serving().await?, client.tasks().await?))
    };
    let (workers, tasks) = match looked.await {
        Ok(looked) => looked,
        // It is told by whatever needs the database.
        Err(error) => return tracing::debug!(%error, "cannot look for tasks that nobody runs"),
    };
    let mut serving = Serving::of_workers(&workers);
    // It has gone, if it was to run once.
    serving.add(worker.tasks().iter().map(String::as_str));
    let by_crontab = serving.problems_of(scheduled.iter().map(String::as_str));
    let by_crontab = by_crontab.into_iter().map(|problem| format!("the crontab adds jobs that wait: {problem}"));
    for problem in by_crontab.chain(serving.problems(&tasks)) {
        // The numbers of jobs change.
        let what = problem.split_once(": ").map_or(problem.as_str(), |(_, what)| what).to_owned();
        if told.insert(what) {
            tracing::warn!("{problem}");
        }
    }
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
        .accept_handoffs(!args.no_handoff)
        .forbidden_flags(args.forbidden_flags.iter().filter(|flag| !flag.is_empty()))
        .sweep_interval(args.min_reset_locked_interval, args.max_reset_locked_interval)
        .heartbeat_every(args.heartbeat_interval)
        .dead_after(args.dead_after)
        .second_signal_after(args.second_signal_after)
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
    let directory = named.unwrap_or(Path::new(TASKS));
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

/// What is said of single tasks must be of some that are there.
fn check_names(programs: &BTreeMap<String, PathBuf>, args: &WorkerArgs) -> Result<(), Failure> {
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
    Ok(())
}

/// Says which variables programs do not get, if the user may miss one of them.
fn tell_withheld(programs: &BTreeMap<String, PathBuf>, args: &WorkerArgs) {
    let withheld = withheld(args.pass_secrets);
    let told: Vec<_> = withheld.iter().filter(|name| !is_ours(name)).map(|name| name.to_string_lossy()).collect();
    if !told.is_empty() && !programs.is_empty() {
        tracing::info!(
            variables = told.join(" "),
            "programs do not get what holds a password; --pass-secrets lets them"
        );
    }
}

fn handlers(programs: &BTreeMap<String, PathBuf>, args: &WorkerArgs) -> Vec<Handler> {
    let withheld: Arc<[OsString]> = withheld(args.pass_secrets).into();
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
    handlers.collect()
}

/// What was said of this task, or of all.
fn value_for<T: Copy>(task: &str, values: &[ForTask<T>]) -> Option<T> {
    let of = |wanted: Option<&str>| values.iter().rev().find(|value| value.task.as_deref() == wanted);
    of(Some(task)).or_else(|| of(None)).map(|value| value.value)
}

fn tell(output: &Output, summary: &Summary) -> Result<(), Failure> {
    let Summary { completed, failed, dead, interrupted, released, stale, .. } = *summary;
    if output.is_json() {
        return output.json(summary);
    }
    let mut told = vec![count_of(completed, "job") + " done", count_of(failed, "attempt") + " failed"];
    for (count, what) in
        [(dead, "given up"), (interrupted, "cut off"), (released, "released"), (stale, "ended too late")]
    {
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
