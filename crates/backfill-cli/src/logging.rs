//! The log, on standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::args::{Command, Global, LogFormat};

/// What is logged: little, unless a worker runs; more with each `-v`.
fn targets(global: &Global, command: &Command) -> Targets {
    let worker = matches!(command, Command::Worker(_));
    let text = match (global.verbose, worker) {
        (0, false) => "warn",
        // The ends of jobs are told one by one, as Node's worker does.
        (0, true) if global.quiet || std::env::var_os("NO_LOG_SUCCESS").is_some() => "info,sqlx=warn",
        (0, true) => "info,backfill::job=debug,sqlx=warn",
        (1, _) => "info,backfill=debug,sqlx=warn",
        (2, _) => "debug,backfill=trace",
        (3.., _) => "trace",
    };
    text.parse().unwrap_or_default()
}

pub fn start(global: &Global, command: &Command) {
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_writer(stderr).with_ansi(colours).log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match global.log_format {
        LogFormat::Text => registry.with(layer.with_target(false).with_filter(targets(global, command))).init(),
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_filter(targets(global, command))).init();
        }
    }
}
