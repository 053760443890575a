//! Asking a worker to come to an end.

use std::sync::Arc;

use tokio::sync::watch;

use super::events::{Event, Events};

/// How urgently a worker was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Not at all.
    Run,
    /// Finish what runs.
    Graceful,
    /// Finish it within a second.
    Hurry,
}

/// Ends a worker. Cheap to clone; dropping it does nothing.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    urgency: Arc<watch::Sender<Urgency>>,
}

impl ShutdownHandle {
    pub(super) fn new() -> Self {
        Self { urgency: Arc::new(watch::Sender::new(Urgency::Run)) }
    }

    /// Asks the worker to end; see [`Worker::run`](super::Worker::run). The worker stays shut down.
    pub fn shutdown(&self) {
        self.raise(Urgency::Graceful);
    }

    /// Asks the worker to end within about a second: running jobs are cancelled now and dropped then.
    pub fn hurry(&self) {
        self.raise(Urgency::Hurry);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Urgency> {
        self.urgency.subscribe()
    }

    fn raise(&self, to: Urgency) {
        self.urgency.send_if_modified(|urgency| {
            let higher = to > *urgency;
            *urgency = (*urgency).max(to);
            higher
        });
    }
}

/// Shuts down on the first SIGINT, SIGTERM or SIGHUP, and hurries on the second. Never ends.
pub(super) async fn on_signals(handle: ShutdownHandle, events: &Events) {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be handled; end this worker by its shutdown handle");
            return std::future::pending().await;
        }
    };
    let name = signals.next().await;
    events.tell(|| Event::Signal { name });
    tracing::info!(signal = name, "shutting down; a second signal hurries");
    handle.shutdown();
    let name = signals.next().await;
    events.tell(|| Event::Signal { name });
    tracing::warn!(signal = name, "shutting down at once");
    handle.hurry();
    std::future::pending::<()>().await;
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
