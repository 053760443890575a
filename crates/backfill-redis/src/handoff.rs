//! Offering to take a new job, and hearing of it.
//!
//! A worker that waits offers by an entry in `offers`, which names a channel that its listener alone has subscribed to. The script that adds a single
//! job publishes it there, and stores it as claimed if somebody hears it (`lua/add.lua`). So an offer is worth nothing once its listener is gone.
//!
//! - What is published is on its way when it may be released: by [`Consumer::release_untracked`](backfill_core::storage::Consumer), whose script ends
//!   the offer. It answers its moment, and claims have moments too, each later than all before: what was handed off earlier and heard later
//!   is nobody's any more, and is dropped.
//! - A subscription whose connection has died without a word would let a job wait for ever, so it is asked for a sign of life now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backfill_core::Result;
use backfill_core::storage::{ClaimedJob, Handoff, Offer, Wakeup, WorkerId};
use futures::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisError, RedisResult};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec::{self, NONE};
use crate::consumer::token;
use crate::link::Link;
use crate::scripts::OFFER;

/// How often the subscription is asked for a sign of life.
const PING: Duration = Duration::from_secs(5);
/// How long to wait before an offer is made again that the storage did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// What a worker's calls and its listener share.
#[derive(Debug)]
pub(crate) struct Handoffs {
    /// When what was not heard of was last released.
    released: Mutex<[u8; 8]>,
}

impl Default for Handoffs {
    fn default() -> Self {
        Self { released: Mutex::new(NONE) }
    }
}

impl Handoffs {
    pub(crate) fn released_at(&self, moment: [u8; 8]) {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        *released = moment.max(*released);
    }

    fn is_released(&self, locked_at: [u8; 8]) -> bool {
        locked_at <= *self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end of one listener.
pub(crate) struct Receiver {
    offers: watch::Receiver<Option<Offer>>,
    handoffs: Arc<Handoffs>,
    open: Option<Open>,
}

struct Open {
    channel: String,
    sink: PubSubSink,
    messages: PubSubStream,
    ping_at: Instant,
    /// The worker whose offer may stand.
    offered: Option<Arc<WorkerId>>,
    /// What is wanted has not been told yet; not before this moment.
    untold: Option<Instant>,
}

impl Receiver {
    pub(crate) fn new(offers: watch::Receiver<Option<Offer>>, handoffs: Arc<Handoffs>) -> Self {
        Self { offers, handoffs, open: None }
    }

    pub(crate) async fn connect(&mut self, link: &Link) -> RedisResult<()> {
        let channel = link.keys().channel(fastrand::u64(..));
        let mut subscriber = link.subscriber().await?;
        subscriber.subscribe(&channel).await?;
        let (sink, messages) = subscriber.split();
        let now = Instant::now();
        self.open = Some(Open { channel, sink, messages, ping_at: now + PING, offered: None, untold: Some(now) });
        Ok(())
    }

    /// Nothing is heard any more; an offer that stands finds nobody.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Makes stand what is wanted, until something is heard. To be called again after each answer; dropping the call loses nothing.
    pub(crate) async fn next(&mut self, link: &Link) -> RedisResult<Wakeup> {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        loop {
            // When the worker is at its end nothing is offered any more, and what was handed off before is still told.
            let is_over = self.offers.has_changed().is_err();
            let untold = open.untold.filter(|_| !is_over);
            let told = async {
                match untold {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What was handed off comes first.
                biased;
                message = open.messages.next() => {
                    let message = message.ok_or_else(|| lost("the subscription has ended"))?;
                    let heard = received(message.get_payload_bytes());
                    let (job, worker, locked_at) = heard.ok_or_else(|| lost("what was handed off cannot be read"))?;
                    if !self.handoffs.is_released(locked_at) {
                        let seen = std::time::Instant::now();
                        return Ok(Wakeup::HandedOff(Box::new(Handoff::new(job, Arc::new(worker), seen))));
                    }
                }
                changed = self.offers.changed(), if untold.is_none() && !is_over => if changed.is_ok() {
                    open.untold = Some(Instant::now());
                },
                () = told => open.tell(&mut self.offers, link).await?,
                () = tokio::time::sleep_until(open.ping_at) => {
                    let sign: RedisResult<redis::Value> =
                        tokio::time::timeout(PING, open.sink.ping()).await.unwrap_or_else(|_| Err(lost("no sign of life")));
                    sign?;
                    open.ping_at = Instant::now() + PING;
                }
            }
        }
    }
}

impl Open {
    async fn tell(&mut self, offers: &mut watch::Receiver<Option<Offer>>, link: &Link) -> RedisResult<()> {
        let wanted = offers.borrow_and_update().clone();
        // A call that is dropped here is made again, and finds what may stand.
        let before = self.offered.clone();
        if let Some(worker) = before.filter(|worker| wanted.as_ref().is_none_or(|offer| offer.worker != *worker)) {
            self.send(link, &worker, "").await?;
            self.offered = None;
        }
        if let Some(offer) = wanted {
            let tasks = offer.tasks.iter().fold("\0".to_owned(), |text, task| text + task + "\0");
            self.offered = Some(Arc::clone(&offer.worker));
            let stands = self.send(link, &offer.worker, &tasks).await?;
            // Its worker will hear that it is not registered.
            self.untold = (!stands).then(|| Instant::now() + AGAIN);
        } else {
            self.untold = None;
        }
        Ok(())
    }

    async fn send(&self, link: &Link, worker: &WorkerId, tasks: &str) -> RedisResult<bool> {
        let args = vec![worker.as_str().into(), self.channel.clone().into_bytes(), tasks.into()];
        let answered: Result<redis::Value> = link.run("offer to take jobs", &OFFER, args).await;
        match answered {
            Ok(answered) => Ok(answered == redis::Value::Int(1)),
            Err(error) => {
                Err(RedisError::from((redis::ErrorKind::Io, "an offer could not be told", error.to_string())))
            }
        }
    }
}

/// Id, length and bytes of what is kept, payload.
fn received(bytes: &[u8]) -> Option<(ClaimedJob, WorkerId, [u8; 8])> {
    let (id, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (kept, payload) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
    let job = codec::job(id, kept, codec::payload(payload.to_vec()))?;
    let (locked_at, worker) = (job.locked_at?, WorkerId::named(job.locked_by.as_deref()?));
    Some((ClaimedJob::new(job, token(locked_at)), worker, codec::moment(locked_at)))
}

fn lost(why: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::Io, why))
}
