//! What falls to the first process of a container.
//!
//! Whoever has process number 1 (or has asked for it, as a *subreaper*) becomes the parent of every process whose own parent has
//! ended. What such an *orphan* leaves when it ends stays, and keeps its number, until its parent has asked for its status. So orphans of
//! programs that ran as tasks are *reaped*. The statuses of the programs themselves are left to who waits for them, so nothing is
//! ever asked for "any child": which children have ended is read from `/proc`, and one's own are known.
//!
//! And a signal that a process has made no provision for does nothing at all to the first one.

#[cfg(target_os = "linux")]
mod reaping;

use std::future::Future;
use std::io;

use tokio::process::{Child, Command};

use crate::failure::Failure;

/// A program that was started here. As long as this is there, its status is its own.
pub struct Own {
    #[cfg(target_os = "linux")]
    _entry: Option<reaping::Entry>,
}

/// Starts a program whose end will be waited for.
pub fn start(command: &mut Command) -> io::Result<(Child, Own)> {
    #[cfg(target_os = "linux")]
    {
        let (child, entry) = reaping::start(command)?;
        Ok((child, Own { _entry: entry }))
    }
    #[cfg(not(target_os = "linux"))]
    {
        Ok((command.spawn()?, Own {}))
    }
}

/// Reaps orphans, if they come to this process. Never ends.
pub async fn reap_orphans() {
    #[cfg(target_os = "linux")]
    reaping::reap().await;
    std::future::pending::<()>().await;
}

/// Does it, until a signal comes that ends other processes than the first. (What handles signals itself must not be inside.)
pub async fn unless_ended<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    if std::process::id() != 1 {
        return work.await;
    }
    tokio::select! {
        done = work => done,
        status = ended() => Err(Failure::Ended(status)),
    }
}

/// Answers the exit status when a signal has come that asks to end: as a shell says it of others, 128 and the signal's number.
#[cfg(unix)]
async fn ended() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let wanted = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let waiting = wanted.into_iter().filter_map(|kind| {
        let mut signal = signal(kind).ok()?;
        Some(Box::pin(async move {
            if signal.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            128_u8.saturating_add(u8::try_from(kind.as_raw_value()).unwrap_or_default())
        }))
    });
    let waiting: Vec<_> = waiting.collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waiting).await.0
}

#[cfg(not(unix))]
async fn ended() -> u8 {
    std::future::pending().await
}
