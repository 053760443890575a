//! Running a program for a job.
//!
//! The program gets `{"payload":…}` on its standard input and the job's data in its environment, as from Node's worker. It runs in
//! a process group of its own, so that a Ctrl-C at the terminal reaches the worker alone, and so that what it has started ends
//! with it when its time is over or the worker ends. What a program that ends by itself leaves in the background lives on.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backfill::storage::MAX_ERROR_BYTES;
use backfill::{Handler, Job, JobContext, TaskError, task_fn};
use chrono::SecondsFormat;
use serde::de::IgnoredAny;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::lines::{Tail, read};
use crate::first;

/// How long a program that was asked to end may take before it is killed.
const MERCY: Duration = Duration::from_secs(5);
/// How long output is read after a program has ended, if what it has started keeps it open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A task that runs this program, without the variables that are withheld. A job that takes longer than the timeout has failed.
pub fn handler(task: &str, program: &Path, timeout: Duration, withheld: &Arc<[OsString]>) -> Handler {
    let (program, withheld) = (program.to_owned(), Arc::clone(withheld));
    task_fn(task, move |_: IgnoredAny, ctx: JobContext| run(program.clone(), timeout, Arc::clone(&withheld), ctx))
}

async fn run(program: PathBuf, timeout: Duration, withheld: Arc<[OsString]>, ctx: JobContext) -> Result<(), TaskError> {
    // On one line: a program may read a line and expect to have it all, as from Node's worker.
    let input = format!("{{\"payload\":{}}}", serde_json::to_string(&ctx.job().payload)?);
    // Until its end was waited for, or nobody waits any more.
    let (mut child, _own) = first::start(&mut command(&program, ctx.job(), &withheld))
        .map_err(|error| TaskError::new(not_started(&program, &error)))?;
    let mut group = Group::of(&child);
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is given; then the pipe is closed.
            let _ = stdin.write_all(input.as_bytes()).await;
            let _ = stdin.shutdown().await;
        }
    };
    let read_out = async {
        if let Some(stdout) = stdout {
            read(stdout, &mut out, |line| tracing::info!(target: "backfill::task", stream = "stdout", "{line}")).await;
        }
    };
    let read_err = async {
        if let Some(stderr) = stderr {
            read(stderr, &mut err, |line| tracing::error!(target: "backfill::task", stream = "stderr", "{line}")).await;
        }
    };
    let status = {
        let mut talk = std::pin::pin!(futures::future::join3(feed, read_out, read_err));
        let mut end = std::pin::pin!(end(&mut child, &mut group, timeout, &ctx));
        let (ended, talked) = tokio::select! {
            ended = &mut end => (ended, false),
            _ = &mut talk => (end.await, true),
        };
        if !talked {
            let _ = tokio::time::timeout(LAST_WORDS, talk).await;
        }
        ended
    };
    let (status, end) = status.map_err(|error| TaskError::new(format!("its end could not be seen: {error}")))?;
    match end {
        // What it has left in the background is meant to stay.
        End::ByItself => group.leave(),
        End::Asked | End::TooLong => group.kill(),
    }
    let why = if end == End::TooLong {
        format!("ran longer than its timeout of {} ({status})", humantime::format_duration(timeout))
    } else if status.success() {
        return Ok(());
    } else {
        status.to_string()
    };
    // With room for what stands before them: a longer text would lose its end where it is stored.
    let last_words = err.text(MAX_ERROR_BYTES - 1024);
    Err(TaskError::new(if last_words.is_empty() { why } else { format!("{why}: {last_words}") }))
}

/// Why a program could not be started, and what to do.
fn not_started(program: &Path, error: &io::Error) -> String {
    const EXEC_FORMAT: i32 = 8;
    let why = if error.raw_os_error() == Some(EXEC_FORMAT) {
        "it is no program; a script needs a first line such as #!/bin/sh".to_owned()
    } else if error.kind() == io::ErrorKind::NotFound && program.exists() {
        "the interpreter that its first line names is not there".to_owned()
    } else {
        error.to_string()
    };
    format!("{} could not be started: {why}", program.display())
}

/// How a program came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    ByItself,
    /// Because the worker ends.
    Asked,
    /// Its time was over.
    TooLong,
}

/// Waits for the program's end, and asks it to end when its time is over or the worker ends. When the worker cannot wait any
/// longer, it drops this, and the program is killed.
async fn end(
    child: &mut Child,
    group: &mut Group,
    timeout: Duration,
    ctx: &JobContext,
) -> io::Result<(ExitStatus, End)> {
    let mut over = std::pin::pin!(tokio::time::sleep(timeout));
    tokio::select! {
        status = child.wait() => return Ok((status?, End::ByItself)),
        () = &mut over => {}
        () = ctx.cancelled() => {
            group.ask_to_end();
            // A worker that goes on (it was only declared dead) does not drop this, so its time limit stays.
            tokio::select! {
                status = child.wait() => return Ok((status?, End::Asked)),
                () = over => {}
            }
        }
    }
    group.ask_to_end();
    Ok((killed_after(MERCY, child.wait(), group).await?, End::TooLong))
}

async fn killed_after<T>(mercy: Duration, end: impl Future<Output = T>, group: &mut Group) -> T {
    let mut end = std::pin::pin!(end);
    tokio::select! {
        ended = &mut end => return ended,
        () = tokio::time::sleep(mercy) => group.kill(),
    }
    end.await
}

fn command(program: &Path, job: &Job, withheld: &[OsString]) -> Command {
    let mut command = Command::new(program);
    for name in withheld {
        command.env_remove(name);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .env("GRAPHILE_WORKER_PAYLOAD_FORMAT", "json")
        .env("GRAPHILE_WORKER_TASK_IDENTIFIER", &job.task)
        .env("GRAPHILE_WORKER_JOB_ID", job.id.to_string())
        .env("GRAPHILE_WORKER_JOB_ATTEMPTS", job.attempts.to_string())
        .env("GRAPHILE_WORKER_JOB_MAX_ATTEMPTS", job.max_attempts.to_string())
        .env("GRAPHILE_WORKER_JOB_PRIORITY", job.priority.0.to_string())
        .env("GRAPHILE_WORKER_JOB_RUN_AT", job.run_at.to_rfc3339_opts(SecondsFormat::Millis, true));
    match &job.key {
        Some(key) => command.env("GRAPHILE_WORKER_JOB_KEY", key),
        None => command.env_remove("GRAPHILE_WORKER_JOB_KEY"),
    };
    #[cfg(unix)]
    command.process_group(0);
    command
}

/// A program and what it has started. Killed when dropped, unless it is left.
struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        #[cfg(unix)]
        {
            let leader = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
            Self { leader }
        }
        #[cfg(not(unix))]
        {
            let _ = child;
            Self {}
        }
    }

    fn ask_to_end(&self) {
        #[cfg(unix)]
        if let Some(leader) = self.leader {
            // It may have ended already.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::TERM);
        }
    }

    /// Lets what is left of it live.
    fn leave(&mut self) {
        #[cfg(unix)]
        self.leader.take();
    }

    /// Once: when the program is gone and nothing of it is left, its number may become somebody else's.
    fn kill(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.leader.take() {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
