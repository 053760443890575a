//! Asking a worker to come to an end.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::{Event, Events};

/// How far the shutdown of a worker has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Not at all.
    Run,
    /// Finish what runs.
    Graceful,
    /// Finish it within a second.
    Forced,
}

/// Ends a worker. Cheap to clone; dropping it does nothing.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    stage: Arc<watch::Sender<Stage>>,
}

impl ShutdownHandle {
    pub(super) fn new() -> Self {
        Self { stage: Arc::new(watch::Sender::new(Stage::Run)) }
    }

    /// Asks the worker to end; see [`Worker::run`](super::Worker::run). The worker stays shut down.
    pub fn shutdown(&self) {
        self.raise(Stage::Graceful);
    }

    /// Asks the worker to end within about a second: running jobs are cancelled now and dropped then.
    pub fn force(&self) {
        self.raise(Stage::Forced);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    fn raise(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let higher = to > *stage;
            *stage = (*stage).max(to);
            higher
        });
    }
}

/// Shuts down on the first SIGINT, SIGTERM or SIGHUP, and ends by force on a later one. Never ends.
pub(super) async fn on_signals(handle: ShutdownHandle, events: &Events, same_for: Duration) {
    let signals = match Signals::new() {
        Ok(signals) => stream::unfold(signals, |mut signals| async { Some((signals.next().await, signals)) }),
        Err(error) => {
            tracing::error!(%error, "signals cannot be handled; end this worker by its shutdown handle");
            return std::future::pending().await;
        }
    };
    follow(signals, handle, events, same_for).await;
    std::future::pending::<()>().await;
}

/// What each signal says. A supervisor that signals a process and then its whole group, and a Ctrl-C that reaches a process twice,
/// mean one wish: what comes within `same_for` of the first signal says nothing new.
async fn follow(
    signals: impl Stream<Item = &'static str>,
    handle: ShutdownHandle,
    events: &Events,
    same_for: Duration,
) {
    let mut signals = std::pin::pin!(signals);
    let mut first: Option<Instant> = None;
    while let Some(name) = signals.next().await {
        events.tell(|| Event::Signal { name });
        match first {
            None => {
                first = Some(Instant::now());
                tracing::info!(signal = name, "shutting down; another signal after {same_for:?} forces the end");
                handle.shutdown();
            }
            Some(first) if first.elapsed() < same_for => {
                tracing::info!(
                    signal = name,
                    "shutting down already; another signal forces the end {same_for:?} after the first"
                );
            }
            Some(_) => {
                tracing::warn!(signal = name, "shutting down at once");
                handle.force();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    /// A worker's handle that hears signals, which are sent by hand.
    async fn heard(steps: &[(u64, &'static str)]) -> Vec<Stage> {
        let (signals, heard) = tokio::sync::mpsc::unbounded_channel();
        let handle = ShutdownHandle::new();
        let stage = handle.subscribe();
        let heard = stream::unfold(heard, |mut heard| async { heard.recv().await.map(|name| (name, heard)) });
        let events = Events::new(16);
        let mut following = std::pin::pin!(follow(heard, handle, &events, Duration::from_secs(5)));
        let mut seen = Vec::new();
        for (after, name) in steps {
            advance(Duration::from_millis(*after)).await;
            signals.send(*name).expect("it is followed");
            assert!(futures::poll!(&mut following).is_pending());
            seen.push(*stage.borrow());
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_soon_after_the_first_says_nothing_new() {
        let seen = heard(&[(0, "SIGTERM"), (0, "SIGTERM"), (1, "SIGINT"), (4_998, "SIGHUP"), (1, "SIGTERM")]).await;
        assert_eq!(seen[..4], [Stage::Graceful; 4]);
        assert_eq!(seen[4], Stage::Forced, "five seconds after the first, whatever came between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_signal_forces_the_end() {
        assert_eq!(heard(&[(60_000, "SIGTERM"), (60_000, "SIGTERM")]).await, [Stage::Graceful, Stage::Forced]);
    }
}
