//! A terminal that is drawn on, what is typed there, and signals.
//!
//! Keys come one by one, and are not shown, while it is drawn on; the keys of signals (Ctrl-C, Ctrl-Z) stay those. The terminal is left
//! as it was, however the drawing ends, and while the program is stopped.

use std::io::{self, IsTerminal, Read, Write, stdin, stdout};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// To the other screen, and without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What happens while something is watched.
pub enum Event {
    /// Somebody ends it: by a key or Ctrl-C, which is well, or by another signal.
    Ended(Result<(), Failure>),
    /// Ctrl-Z.
    Stopped,
    Resized,
}

/// Keys and signals.
pub struct Events {
    keys: mpsc::UnboundedReceiver<u8>,
    #[cfg(unix)]
    signals: Signals,
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    stop: Option<tokio::signal::unix::Signal>,
    resize: tokio::signal::unix::Signal,
}

impl Events {
    /// With keys, or without.
    pub fn new(keys: bool) -> io::Result<Self> {
        let (typed, received) = mpsc::unbounded_channel();
        if keys && stdin().is_terminal() {
            // It waits for the next key until the program ends.
            std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
                let mut key = [0];
                while matches!(stdin().lock().read(&mut key), Ok(1)) && typed.send(key[0]).is_ok() {}
            })?;
        }
        Ok(Self {
            keys: received,
            #[cfg(unix)]
            signals: Signals::new(keys)?,
        })
    }

    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                Some(key) = self.keys.recv() => if matches!(key, b'q' | b'Q') {
                    return Event::Ended(Ok(()));
                },
                event = Self::signalled(
                    #[cfg(unix)]
                    &mut self.signals
                ) => return event,
            }
        }
    }

    /// Waits until somebody ends it.
    pub async fn end(&mut self) -> Result<(), Failure> {
        loop {
            if let Event::Ended(how) = self.next().await {
                return how;
            }
        }
    }

    #[cfg(unix)]
    async fn signalled(signals: &mut Signals) -> Event {
        use tokio::signal::unix::SignalKind;
        let ended = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            Event::Ended(Err(Failure::Ended(128_u8.saturating_add(number))))
        };
        let stopped = async {
            match &mut signals.stop {
                Some(stop) => stop.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.interrupt.recv() => Event::Ended(Ok(())),
            _ = signals.terminate.recv() => ended(SignalKind::terminate()),
            _ = signals.hangup.recv() => ended(SignalKind::hangup()),
            _ = stopped => Event::Stopped,
            _ = signals.resize.recv() => Event::Resized,
        }
    }

    #[cfg(not(unix))]
    async fn signalled() -> Event {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Event::Ended(Ok(()))
    }
}

#[cfg(unix)]
impl Signals {
    fn new(may_stop: bool) -> io::Result<Self> {
        use rustix::process::Signal;
        use tokio::signal::unix::{SignalKind, signal};
        let stop = || signal(SignalKind::from_raw(Signal::TSTP.as_raw()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            stop: may_stop.then(stop).transpose()?,
            resize: signal(SignalKind::window_change())?,
        })
    }
}

/// The screen while it is drawn on.
pub struct FullScreen {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl FullScreen {
    pub fn enter() -> io::Result<Self> {
        let screen = Self {
            // Where nothing can be typed, nothing is.
            #[cfg(unix)]
            before: rustix::termios::tcgetattr(stdin()).ok(),
        };
        screen.begin()?;
        Ok(screen)
    }

    fn begin(&self) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            use rustix::termios::{LocalModes, OptionalActions, tcsetattr};
            let mut now = before.clone();
            now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(stdin(), OptionalActions::Now, &now)?;
        }
        write(ENTER)
    }

    fn leave(&self) {
        // If this cannot be written, nobody sees the screen any more.
        let _ = write(LEAVE);
        #[cfg(unix)]
        if let Some(before) = &self.before {
            // What was typed and not read is nothing for the shell.
            let _ = rustix::termios::tcsetattr(stdin(), rustix::termios::OptionalActions::Flush, before);
        }
    }

    /// Lets the program be stopped, as Ctrl-Z asks; goes on when it does.
    pub fn stop(&self) -> io::Result<()> {
        self.leave();
        #[cfg(unix)]
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
        self.begin()
    }

    /// Draws over what was there.
    #[expect(clippy::unused_self, reason = "only on a screen that was taken")]
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        write(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
