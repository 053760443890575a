//! The log, on standard error.

mod short;

use std::io::{self, Write, stderr};

use tokio::sync::Notify;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::args::{Command, Global, LogFormat};
use crate::screen::Screen;
use short::Short;

/// What is logged: little, unless a worker runs; more with each `-v`.
fn targets(global: &Global, command: &Command) -> Targets {
    let worker = matches!(command, Command::Worker(_));
    let text = match (global.verbose, worker) {
        // That a statement was slow is told whole, and says nothing to whoever waits for its answer.
        (0, false) => "warn,sqlx::query=error",
        // The ends of jobs are told one by one, as Node's worker does.
        (0, true) if global.quiet || std::env::var_os("NO_LOG_SUCCESS").is_some() => "info,sqlx=warn",
        (0, true) => "info,backfill::job=debug,sqlx=warn",
        (1, _) => "info,backfill=debug,sqlx=warn",
        (2, _) => "debug,backfill=trace",
        (3.., _) => "trace",
    };
    text.parse().unwrap_or_default()
}

/// Fires when the log's reader is gone.
static UNREAD: Notify = Notify::const_new();

/// Waits until nobody reads the log any more.
pub async fn nobody_reads() {
    UNREAD.notified().await;
}

/// Standard error, which notices when its reader is gone.
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        stderr().write(bytes).inspect_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                UNREAD.notify_one();
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

pub fn start(global: &Global, command: &Command) {
    let screen = Screen::err(global.color);
    let layer = || fmt::layer().with_writer(|| Log).with_ansi(screen.colours).log_internal_errors(false);
    let targets = targets(global, command);
    let registry = tracing_subscriber::registry();
    match global.log_format {
        LogFormat::Text if screen.width().is_some() => registry.with(Short(global.color).with_filter(targets)).init(),
        LogFormat::Text => registry.with(layer().with_target(false).with_filter(targets)).init(),
        LogFormat::Json => registry.with(layer().json().flatten_event(true).with_filter(targets)).init(),
    }
}
