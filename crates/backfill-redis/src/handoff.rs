//! Offering to take a new job, and hearing of it.
//!
//! A worker that waits offers by an entry in `offers`, which names a channel that its listener alone has subscribed to. The script that adds a single
//! job publishes it there, and stores it as claimed if somebody hears it (`lua/add.lua`). So an offer is worth nothing once its listener is gone.
//!
//! - What is published is on its way when it may be released: by [`Consumer::release_untracked`](backfill_core::storage::Consumer), whose script ends
//!   the offer. It answers its moment, and claims have moments too, each later than all before: what was handed off earlier and heard later
//!   is nobody's any more, and is dropped. What is heard before that answer waits for it.
//! - A subscription whose connection has died without a word would let a job wait for ever, so it is asked for a sign of life now and then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use backfill_core::Result;
use backfill_core::storage::{ClaimedJob, Handoff, Offer, Wakeup, WorkerId};
use futures::StreamExt;
use futures::future::BoxFuture;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisError, RedisResult};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec;
use crate::consumer::token;
use crate::link::Link;
use crate::scripts::OFFER;

/// How often the subscription is asked for a sign of life.
const PING: Duration = Duration::from_secs(5);
/// How long to wait before an offer is made again that the storage did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// What a worker's calls and its listener share.
#[derive(Debug, Default)]
pub(crate) struct Handoffs(watch::Sender<Released>);

/// What is known of the last release of what was not heard of.
#[derive(Clone, Debug, Default)]
struct Released {
    /// By whom, and when.
    last: Option<(WorkerId, [u8; 8])>,
    /// By whom it is being released, or was and the answer is lost.
    in_doubt: Option<WorkerId>,
}

/// What becomes of what was heard.
#[derive(Debug, PartialEq)]
enum Judgement {
    Stands,
    Released,
    /// That is known when the release is answered, or made again.
    InDoubt,
}

impl Handoffs {
    /// What is not heard of is about to be released.
    pub(crate) fn is_releasing(&self, worker: &WorkerId) {
        self.0.send_modify(|released| released.in_doubt = Some(worker.clone()));
    }

    pub(crate) fn released_at(&self, worker: &WorkerId, moment: [u8; 8]) {
        self.0.send_replace(Released { last: Some((worker.clone(), moment)), in_doubt: None });
    }

    /// The storage has refused to, so nothing was done.
    pub(crate) fn was_refused(&self) {
        self.0.send_modify(|released| released.in_doubt = None);
    }

    fn judge(&self, worker: &WorkerId, locked_at: [u8; 8]) -> Judgement {
        let released = self.0.borrow();
        if released.in_doubt.as_ref() == Some(worker) {
            Judgement::InDoubt
        } else if released.last.as_ref().is_some_and(|(by, at)| by == worker && locked_at <= *at) {
            Judgement::Released
        } else {
            Judgement::Stands
        }
    }
}

/// The receiving end of one listener.
pub(crate) struct Receiver {
    offers: watch::Receiver<Option<Offer>>,
    handoffs: Arc<Handoffs>,
    released: watch::Receiver<Released>,
    open: Option<Open>,
}

struct Open {
    channel: String,
    sink: PubSubSink,
    messages: PubSubStream,
    /// What was heard and not judged yet.
    heard: VecDeque<(ClaimedJob, WorkerId, [u8; 8])>,
    /// The next sign of life. It is kept while others are heard, as is what is told below: else news that come all the time would put both off
    /// for ever.
    sign: BoxFuture<'static, RedisResult<()>>,
    /// What is being told, and the offer that it is about.
    telling: Option<(BoxFuture<'static, Result<bool>>, Option<Offer>)>,
    /// The worker whose offer may stand.
    offered: Option<Arc<WorkerId>>,
    /// What is wanted has not been told yet; not before this moment.
    untold: Option<Instant>,
}

impl Receiver {
    pub(crate) fn new(offers: watch::Receiver<Option<Offer>>, handoffs: Arc<Handoffs>) -> Self {
        let released = handoffs.0.subscribe();
        Self { offers, handoffs, released, open: None }
    }

    pub(crate) async fn connect(&mut self, link: &Link) -> RedisResult<()> {
        let channel = link.keys().channel(fastrand::u64(..));
        let mut subscriber = link.subscriber().await?;
        subscriber.subscribe(&channel).await?;
        let (sink, messages) = subscriber.split();
        let sign = sign_of_life(sink.clone());
        let untold = Some(Instant::now());
        let heard = VecDeque::new();
        self.open = Some(Open { channel, sink, messages, heard, sign, telling: None, offered: None, untold });
        Ok(())
    }

    /// Nothing is heard any more; an offer that stands finds nobody.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Makes stand what is wanted, until something is heard. Dropping the call loses nothing.
    pub(crate) async fn next(&mut self, link: &Arc<Link>) -> RedisResult<Wakeup> {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        loop {
            self.released.mark_unchanged();
            while let Some((_, worker, locked_at)) = open.heard.front() {
                let judgement = self.handoffs.judge(worker, *locked_at);
                if judgement == Judgement::InDoubt {
                    break;
                }
                let Some((job, worker, _)) = open.heard.pop_front() else { break };
                if judgement == Judgement::Stands {
                    let seen = std::time::Instant::now();
                    return Ok(Wakeup::HandedOff(Box::new(Handoff::new(job, Arc::new(worker), seen))));
                }
            }
            // When the worker is at its end nothing is offered any more, and what was handed off before is still told.
            let is_over = self.offers.has_changed().is_err();
            if open.telling.is_none() && !is_over && open.untold.is_some_and(|at| Instant::now() >= at) {
                open.tell(&mut self.offers, link);
            }
            let again = open.untold.filter(|_| open.telling.is_none() && !is_over);
            let wait = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let told = async {
                match &mut open.telling {
                    Some((telling, _)) => telling.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What was handed off comes first.
                biased;
                message = open.messages.next() => {
                    let message = message.ok_or_else(|| lost("the subscription has ended"))?;
                    let heard = received(message.get_payload_bytes());
                    open.heard.push_back(heard.ok_or_else(|| lost("what was handed off cannot be read"))?);
                }
                // It lives as long as we do.
                _ = self.released.changed() => {}
                stands = told => open.was_told(stands)?,
                changed = self.offers.changed(), if open.untold.is_none() && !is_over => if changed.is_ok() {
                    open.untold = Some(Instant::now());
                },
                () = wait => {}
                sign = &mut open.sign => {
                    sign?;
                    open.sign = sign_of_life(open.sink.clone());
                }
            }
        }
    }
}

impl Open {
    /// Begins to tell what is wanted: first that an offer of another worker is over.
    fn tell(&mut self, offers: &mut watch::Receiver<Option<Offer>>, link: &Arc<Link>) {
        let wanted = offers.borrow_and_update().clone();
        let before = self.offered.clone();
        let over = before.filter(|worker| wanted.as_ref().is_none_or(|offer| offer.worker != *worker));
        let (worker, tasks, about) = match (over, wanted) {
            (Some(worker), _) => (worker, String::new(), None),
            (None, Some(offer)) => {
                let tasks = offer.tasks.iter().fold("\0".to_owned(), |text, task| text + task + "\0");
                (Arc::clone(&offer.worker), tasks, Some(offer))
            }
            (None, None) => {
                self.untold = None;
                return;
            }
        };
        if let Some(offer) = &about {
            self.offered = Some(Arc::clone(&offer.worker));
        }
        let (link, channel) = (Arc::clone(link), self.channel.clone());
        let telling = async move {
            let args = vec![worker.as_str().into(), channel.into_bytes(), tasks.into_bytes()];
            let answered = link.run("offer to take jobs", &OFFER, args).await?;
            Ok(answered == redis::Value::Int(1))
        };
        self.telling = Some((Box::pin(telling), about));
    }

    fn was_told(&mut self, stands: Result<bool>) -> RedisResult<()> {
        let about = self.telling.take().and_then(|(_, about)| about);
        let stands = stands.map_err(|error| {
            RedisError::from((redis::ErrorKind::Io, "an offer could not be told", error.to_string()))
        })?;
        self.untold = match about {
            Some(_) if stands => None,
            // Its worker will hear that it is not registered.
            Some(_) => Some(Instant::now() + AGAIN),
            // That one is over; now what is wanted.
            None => {
                self.offered = None;
                Some(Instant::now())
            }
        };
        Ok(())
    }
}

/// After a while, whether the subscription still answers.
fn sign_of_life(mut sink: PubSubSink) -> BoxFuture<'static, RedisResult<()>> {
    Box::pin(async move {
        tokio::time::sleep(PING).await;
        let answered: RedisResult<redis::Value> = tokio::time::timeout(PING, sink.ping())
            .await
            .unwrap_or_else(|_| Err(lost("the subscription gave no sign of life")));
        answered.map(drop)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_released_waits_and_what_was_is_not_told() {
        let (early, late) = ([1; 8], [3; 8]);
        let (one, other) = (WorkerId::random(), WorkerId::random());
        let handoffs = Handoffs::default();
        assert_eq!(handoffs.judge(&one, early), Judgement::Stands);
        handoffs.is_releasing(&one);
        assert_eq!(handoffs.judge(&one, late), Judgement::InDoubt);
        assert_eq!(handoffs.judge(&other, late), Judgement::Stands, "an identity is not judged by the one before");
        handoffs.released_at(&one, [2; 8]);
        assert_eq!(handoffs.judge(&one, early), Judgement::Released);
        assert_eq!(handoffs.judge(&one, late), Judgement::Stands);
        assert_eq!(handoffs.judge(&other, early), Judgement::Stands);
        handoffs.is_releasing(&one);
        handoffs.was_refused();
        assert_eq!(handoffs.judge(&one, late), Judgement::Stands, "nothing was done");
    }
}
