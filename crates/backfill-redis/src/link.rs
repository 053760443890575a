//! The connection, and calling scripts.
//!
//! One connection serves all calls at once, as Redis answers in order. It is opened by the first call, and anew by the first one after it broke: nothing
//! is sent twice by itself, because a script whose answer was lost may have run. (Only what a server says it did not run is sent again: an unknown script, a
//! slot that is elsewhere.)

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backfill_core::Result;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value, cmd,
};
use tokio::sync::Mutex;

use crate::address::Address;
use crate::errors::{failed, is_broken};
use crate::keys::{Key, Keys};
use crate::scripts::Script;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. (Callers that want it sooner drop the call.)
const ANSWER: Duration = Duration::from_secs(60);
/// How often a slot that is elsewhere is looked for.
const REDIRECTS: u32 = 5;

/// A namespace of a server.
pub(crate) struct Link {
    address: Address,
    keys: Arc<Keys>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    connection: Option<MultiplexedConnection>,
    /// Which connection it is: who finds one broken closes no later one.
    number: u64,
}

/// The arguments of a script.
pub(crate) type Args = Vec<Vec<u8>>;

impl Link {
    pub(crate) fn new(address: Address, keys: Arc<Keys>) -> Self {
        Self { address, keys, open: Mutex::default() }
    }

    /// Another connection to the same.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.address.clone(), self.keys.clone())
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Gives the connection up; the next call makes another. Answers whether there was one.
    pub(crate) fn close(&self) -> bool {
        // Whoever makes one at this moment makes a new one.
        self.open.try_lock().is_ok_and(|mut open| open.connection.take().is_some())
    }

    /// Runs a script on this namespace.
    pub(crate) async fn run(&self, action: &'static str, script: &Script, args: Args) -> Result<Value> {
        self.run_with(action, script, &[], args).await
    }

    /// The same, with more keys behind the others.
    pub(crate) async fn run_with(
        &self,
        action: &'static str,
        script: &Script,
        more: &[Vec<u8>],
        args: Args,
    ) -> Result<Value> {
        let build = |command: &str, body: &str| {
            let keys = self.keys.all();
            let mut call = cmd(command);
            call.arg(body).arg(keys.len() + more.len());
            keys.iter().chain(more).chain(&args).for_each(|arg| {
                call.arg(arg.as_slice());
            });
            call
        };
        let known = match self.send(&build("EVALSHA", script.sha())).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => None,
            answered => Some(answered),
        };
        let answered = match known {
            Some(answered) => answered,
            None => self.send(&build("EVAL", script.text())).await,
        };
        answered.map_err(failed(action))
    }

    /// Sends a command of one of our keys.
    pub(crate) async fn read<T: FromRedisValue>(&self, action: &'static str, command: &Cmd) -> Result<T> {
        let answer = self.send(command).await.map_err(failed(action))?;
        redis::from_redis_value(answer).map_err(|error| failed(action)(error.into()))
    }

    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut redirects = 0;
        loop {
            let (mut connection, number) = self.connection().await?;
            let error = match connection.send_packed_command(command).await {
                Ok(Value::ServerError(error)) => RedisError::from(error),
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_broken(&error) {
                self.drop_connection(number).await;
            }
            redirects += 1;
            if redirects > REDIRECTS || !self.is_elsewhere(&error) {
                return Err(error);
            }
            if error.kind() == ErrorKind::Server(ServerErrorKind::Ask)
                && let Some((host, _)) = error.redirect_node()
                && let Some(answer) = self.ask(host, command).await
            {
                return answer;
            }
            // A slot on its way: the server knows more in a moment.
            tokio::time::sleep(Duration::from_millis(20 << redirects)).await;
        }
    }

    /// Whether the server did nothing because another one of its cluster has the slot, or gets it.
    fn is_elsewhere(&self, error: &RedisError) -> bool {
        let kinds = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
        matches!(self.address, Address::Cluster { .. })
            && matches!(error.kind(), ErrorKind::Server(kind) if kinds.contains(&kind))
    }

    /// Asks the server to which a slot is on its way.
    async fn ask(&self, host: &str, command: &Cmd) -> Option<RedisResult<Value>> {
        let Address::Cluster { nodes, .. } = &self.address else { return None };
        let mut connection = connect(&at(nodes.first()?, host)?, Some(ANSWER)).await.ok()?;
        let mut both = redis::pipe();
        both.cmd("ASKING").ignore().add_command(command.clone());
        let answers: RedisResult<(Value,)> = both.query_async(&mut connection).await;
        match answers {
            Err(error) if self.is_elsewhere(&error) => None,
            answers => Some(answers.map(|(answer,)| answer)),
        }
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut open = self.open.lock().await;
        if let Some(connection) = &open.connection {
            return Ok((connection.clone(), open.number));
        }
        let connection = self.connect(Some(ANSWER)).await?;
        open.number += 1;
        open.connection = Some(connection.clone());
        Ok((connection, open.number))
    }

    async fn drop_connection(&self, number: u64) {
        let mut open = self.open.lock().await;
        if open.number == number {
            open.connection = None;
        }
    }

    /// A connection of one's own.
    pub(crate) async fn connect(&self, answer: Option<Duration>) -> RedisResult<MultiplexedConnection> {
        connect(&self.server().await?, answer).await
    }

    /// A connection of one's own that hears what is published.
    pub(crate) async fn subscriber(&self) -> RedisResult<PubSub> {
        let client = self.server().await?;
        let made = tokio::time::timeout(CONNECT, client.get_async_pubsub()).await;
        made.map_err(|_| timed_out("the server did not answer"))?
    }

    /// The server that has the namespace.
    async fn server(&self) -> RedisResult<Client> {
        match &self.address {
            Address::Server(client) => Ok(client.clone()),
            Address::Sentinel { sentinels, service, node, .. } => {
                let mut master = Address::master(sentinels, service, node)?;
                let client = tokio::time::timeout(CONNECT, master.async_get_client()).await;
                client.map_err(|_| timed_out("the sentinels did not answer"))?
            }
            Address::Cluster { nodes, .. } => {
                let mut last = timed_out("no node of the cluster answered");
                for node in nodes {
                    match self.owner(node).await {
                        Ok(client) => return Ok(client),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// The server that has our slot, as this one knows.
    async fn owner(&self, node: &Client) -> RedisResult<Client> {
        let mut connection = connect(node, Some(CONNECT)).await?;
        let slot: i64 =
            cmd("CLUSTER").arg("KEYSLOT").arg(self.keys.get(Key::Jobs)).query_async(&mut connection).await?;
        let ranges: Vec<(i64, i64, Vec<Value>)> = {
            let answer: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
            let range = |mut parts: Vec<Value>| {
                let master = parts.get_mut(2).map(std::mem::take)?;
                let (first, last) = (int(parts.first()?)?, int(parts.get(1)?)?);
                let Value::Array(master) = master else { return None };
                Some((first, last, master))
            };
            answer.into_iter().filter_map(range).collect()
        };
        let found = ranges.into_iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        let client = found.and_then(|(_, _, master)| {
            let host = match master.first()? {
                Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
                // It does not know its own address: the one by which it was reached.
                _ => return Some(node.clone()),
            };
            at(node, &format!("{host}:{}", int(master.get(1)?)?))
        });
        client.ok_or_else(|| timed_out("no node of the cluster has the namespace's slot"))
    }
}

fn int(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

fn timed_out(what: &'static str) -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// The same login at another address.
fn at(client: &Client, address: &str) -> Option<Client> {
    let (host, port) = address.rsplit_once(':')?;
    let (host, port) = (host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?);
    let info = client.get_connection_info().clone();
    let new = match info.addr() {
        redis::ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            redis::ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => redis::ConnectionAddr::Tcp(host, port),
    };
    Client::open(info.set_addr(new)).ok()
}

async fn connect(client: &Client, answer: Option<Duration>) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(answer);
    client.get_multiplexed_async_connection_with_config(&config).await
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("keys", &self.keys.namespace())
            .finish_non_exhaustive()
    }
}
