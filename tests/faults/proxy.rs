//! The network between workers and the database, which can be cut, stalled, muted and slowed down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Open,
    /// New connections are refused, as by a machine on which nothing listens.
    Refused,
    /// Nothing passes, and nobody is told: what is sent arrives when the way is open again.
    Stalled,
    /// What is asked arrives, and the answers are lost.
    Mute,
    /// What is asked arrives, and nobody takes the answers: the server cannot even send them.
    Clogged,
    /// Everything takes this much longer.
    Slow(Duration),
}

#[derive(Clone, Copy, Debug)]
struct State {
    way: Way,
    target: u16,
    /// Connections up to this number are cut.
    cut: u64,
    /// Connections up to this number are dead for ever, and nobody is told.
    dead: u64,
    /// So is this one.
    dead_one: u64,
}

impl State {
    fn is_dead(&self, number: u64) -> bool {
        self.dead >= number || self.dead_one == number
    }
}

/// The number of each connection, by the port that the server sees.
type Ports = Arc<Mutex<HashMap<u16, u64>>>;

/// A proxy on a port of its own.
pub struct Proxy {
    pub port: u16,
    state: watch::Sender<State>,
    connections: Arc<AtomicU64>,
    ports: Ports,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, watching) = watch::channel(State { way: Way::Open, target, cut: 0, dead: 0, dead_one: 0 });
        let connections = Arc::new(AtomicU64::new(0));
        let ports = Ports::default();
        let accepting = tokio::spawn(accept(listener, watching, Arc::clone(&connections), Arc::clone(&ports)));
        Self { port, state, connections, ports, accepting }
    }

    pub fn set(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
    }

    /// Resets every connection.
    pub fn cut(&self) {
        let all = self.connections.load(Ordering::SeqCst);
        self.state.send_modify(|state| state.cut = all);
    }

    /// The connections of this moment never pass anything again.
    pub fn kill_silently(&self) {
        let all = self.connections.load(Ordering::SeqCst);
        self.state.send_modify(|state| state.dead = all);
    }

    /// The connection that the server sees as coming from this port never passes anything again.
    pub fn kill_one_silently(&self, port: u16) {
        let number = self.ports.lock().unwrap_or_else(PoisonError::into_inner)[&port];
        self.state.send_modify(|state| state.dead_one = number);
    }

    /// New connections go elsewhere.
    pub fn lead_to(&self, target: u16) {
        self.state.send_modify(|state| state.target = target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>, connections: Arc<AtomicU64>, ports: Ports) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let now = *state.borrow();
        if now.way == Way::Refused {
            reset(&stream);
            continue;
        }
        let number = connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (state, ports) = (state.clone(), Arc::clone(&ports));
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", now.target)).await else {
                reset(&stream);
                return;
            };
            if let Ok(address) = server.local_addr() {
                ports.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port(), number);
            }
            // As on a real way, small messages do not wait for more.
            let _ = (stream.set_nodelay(true), server.set_nodelay(true));
            reset_at_end(&stream);
            let (from_client, to_client) = stream.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pump(from_client, to_server, state.clone(), number, false) => {}
                () = pump(from_server, to_client, state, number, true) => {}
            }
        });
    }
}

/// The peer hears a reset rather than an orderly end.
fn reset(stream: &TcpStream) {
    reset_at_end(stream);
}

fn reset_at_end(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    number: u64,
    answers: bool,
) {
    let mut bytes = vec![0; 64 * 1024];
    let mut cut = state.clone();
    loop {
        let clogged = |state: &State| answers && state.way == Way::Clogged && state.cut < number;
        if state.wait_for(|state| !clogged(state)).await.is_err() {
            return;
        }
        let length = tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(length) if length > 0 => length,
                _ => return,
            },
            _ = cut.wait_for(|state| state.cut >= number) => return,
        };
        let passes = state
            .wait_for(|state| state.cut >= number || (!state.is_dead(number) && state.way != Way::Stalled))
            .await
            .map(|state| *state);
        let Ok(now) = passes else { return };
        if now.cut >= number {
            return;
        }
        match now.way {
            Way::Mute if answers => continue,
            Way::Slow(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
