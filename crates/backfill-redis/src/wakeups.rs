//! What the stream `wake` says.
//!
//! A listener has a connection of its own, on which it waits for the next entry. It goes on from the last one that it read, so nothing is missed as long
//! as the connection stands. When that breaks, it begins anew with the newest entry and says so.

use std::sync::Arc;
use std::time::Duration;

use backfill_core::storage::Wakeup;
use backfill_core::storage::messages::{Changes, News};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use crate::answer;
use crate::commit::heard;
use crate::handoff::Receiver;
use crate::keys::Key;
use crate::link::Link;

/// How long one call waits for an entry. A server that says nothing for much longer is taken for dead.
const WAIT: Duration = Duration::from_secs(5);
/// How much longer that is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the next try to connect.
const AGAIN: Duration = Duration::from_millis(500);

/// What was heard.
enum Heard {
    Listening,
    Lost(String),
    Entries(Vec<Entry>),
    HandedOff(Wakeup),
}

#[derive(Default)]
struct Entry {
    number: u64,
    ready: u64,
    changes: Changes,
}

/// What workers hear.
pub(crate) fn of_jobs(link: Link, receiver: Option<Receiver>) -> BoxStream<'static, Wakeup> {
    let heard = entries(link, receiver).filter_map(async |heard| match heard {
        Heard::Listening => Some(Wakeup::Listening),
        Heard::Lost(reason) => Some(Wakeup::ListenerLost { reason }),
        Heard::HandedOff(wakeup) => Some(wakeup),
        Heard::Entries(entries) => {
            let ready = entries.iter().map(|entry| entry.ready).sum();
            (ready > 0).then_some(Wakeup::JobsAdded(ready))
        }
    });
    heard.boxed()
}

/// What those hear who wait for messages.
pub(crate) fn of_messages(link: Link) -> BoxStream<'static, News> {
    let heard = entries(link, None).flat_map(|heard| {
        let news = match heard {
            Heard::Listening => vec![News::Listening],
            Heard::Lost(reason) => vec![News::lost(reason)],
            Heard::HandedOff(_) => Vec::new(),
            Heard::Entries(entries) => {
                let changes = entries.into_iter().map(|entry| entry.changes);
                changes.filter(|changes| !changes.is_nothing()).map(News::Changed).collect()
            }
        };
        stream::iter(news)
    });
    heard.boxed()
}

struct Listener {
    link: Arc<Link>,
    receiver: Option<Receiver>,
    open: Option<Reading>,
    /// What was last said is that nothing is heard.
    lost: bool,
}

/// The connection that waits for entries. A wait that has begun is kept until it ends: the server answers on this connection in order.
struct Reading {
    connection: MultiplexedConnection,
    last: String,
    /// The number of the last entry.
    number: u64,
    waiting: Option<BoxFuture<'static, RedisResult<Value>>>,
}

fn entries(link: Link, receiver: Option<Receiver>) -> BoxStream<'static, Heard> {
    let listener = Listener { link: Arc::new(link), receiver, open: None, lost: false };
    stream::unfold(listener, async |mut listener| Some((listener.next().await, listener))).boxed()
}

impl Listener {
    async fn next(&mut self) -> Heard {
        loop {
            let heard = match &mut self.open {
                None => match self.connect().await {
                    Ok(open) => {
                        self.open = Some(open);
                        self.lost = false;
                        return Heard::Listening;
                    }
                    Err(error) => Err(error),
                },
                Some(open) => {
                    let handed_off = async {
                        match &mut self.receiver {
                            Some(receiver) => receiver.next(&self.link).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        wakeup = handed_off => wakeup.map(Heard::HandedOff),
                        entries = open.next(&self.link) => entries.map(Heard::Entries),
                    }
                }
            };
            match heard {
                Ok(Heard::Entries(entries)) if entries.is_empty() => {}
                Ok(heard) => return heard,
                Err(error) => {
                    self.open = None;
                    if let Some(receiver) = &mut self.receiver {
                        receiver.close();
                    }
                    if !std::mem::replace(&mut self.lost, true) {
                        return Heard::Lost(error.to_string());
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Connections, and the newest entry.
    async fn connect(&mut self) -> RedisResult<Reading> {
        let mut connection = self.link.connect(Some(WAIT + PATIENCE)).await?;
        if let Some(receiver) = &mut self.receiver {
            receiver.connect(&self.link).await?;
        }
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.link.keys().get(Key::Wake)).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: Value = command.query_async(&mut connection).await?;
        let mut last = "0-0".to_owned();
        let newest = answer::list(newest).and_then(|entries| entry_of(entries.into_iter().next()?, &mut last));
        Ok(Reading { connection, last, number: newest.map_or(0, |entry| entry.number), waiting: None })
    }
}

impl Reading {
    /// The next entries; none if there were none for a while. Dropping the call loses nothing.
    async fn next(&mut self, link: &Link) -> RedisResult<Vec<Entry>> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let mut command = redis::cmd("XREAD");
            let wait = u64::try_from(WAIT.as_millis()).unwrap_or_default();
            command.arg("COUNT").arg(1_000).arg("BLOCK").arg(wait);
            command.arg("STREAMS").arg(link.keys().get(Key::Wake)).arg(&self.last);
            let mut connection = self.connection.clone();
            Box::pin(async move { command.query_async(&mut connection).await })
        });
        let answered = waiting.await;
        self.waiting = None;
        let answered = answered?;
        if answered == Value::Nil {
            return Ok(Vec::new());
        }
        let entries = entries_of(answered, &mut self.last);
        let mut entries =
            entries.ok_or_else(|| RedisError::from((redis::ErrorKind::Parse, "the stream cannot be read")))?;
        for entry in &mut entries {
            // The stream forgets old entries. Who was slow has missed some, and anything may have changed.
            if entry.number != std::mem::replace(&mut self.number, entry.number).wrapping_add(1) {
                entry.ready = entry.ready.max(1);
                entry.changes = Changes::anywhere();
            }
        }
        Ok(entries)
    }
}

fn entries_of(answered: Value, last: &mut String) -> Option<Vec<Entry>> {
    let [stream] = answer::parts(answered)?;
    let [_, entries] = answer::parts(stream)?;
    answer::list(entries)?.into_iter().map(|entry| entry_of(entry, last)).collect()
}

fn entry_of(entry: Value, last: &mut String) -> Option<Entry> {
    let [id, fields] = answer::parts(entry)?;
    *last = String::from_utf8(answer::bytes(id)?).ok()?;
    let mut fields = answer::list(fields)?.into_iter();
    let mut entry = Entry::default();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let value = String::from_utf8(answer::bytes(value)?).ok()?;
        match answer::bytes(name)?.as_slice() {
            b"i" => entry.number = value.parse().ok()?,
            b"n" => entry.ready = value.parse().ok()?,
            b"l" => entry.changes.lines = heard(&value),
            b"d" => entry.changes.documents = heard(&value),
            b"s" => entry.changes.streams = heard(&value),
            _ => {}
        }
    }
    Some(entry)
}
