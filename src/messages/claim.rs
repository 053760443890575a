//! Claiming messages.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::enqueue::Envelope;
use super::names::{escape, unescape};
use super::record::FOREIGN;
use super::{DEFAULT_LEASE, DocumentKey, Hold, Holder, Queue, Receipt, SWITCH, Take, TakenJob};
use crate::error::{Error, Result};

/// A message that this program holds, until it ends it or its lease ends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// Its id.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// Its body: JSON text, byte for byte as it was added.
    pub body: Box<RawValue>,
    /// How often it has been claimed; this time is counted.
    pub attempts: i16,
    /// When the lease ends, by the storage's clock.
    pub until: DateTime<Utc>,
    handle: Handle,
}

impl Message {
    /// Decodes the body.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`], with the decoder's message.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.body.get()).map_err(|problem| {
            Error::invalid_message("the body of message", &self.id, &format!("could not be decoded: {problem}"))
        })
    }

    /// What names this claim, also for other processes.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Names one claim of one message. As text it has letters, digits and `-_%/` only; whoever has it may renew and end the claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    receipt: Receipt,
    namespace: String,
    queue: String,
    id: String,
}

impl Handle {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The message's queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The namespace that it belongs to.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The receipt of the lease, as the storage knows it.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// The hold. With `late`, a lease that has ended stands as long as nobody has claimed the message since.
    pub(super) fn hold(&self, late: bool) -> Hold {
        Hold::Lease { receipt: self.receipt, late }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.receipt, escape(&self.namespace), escape(&self.queue), escape(&self.id))
    }
}

impl FromStr for Handle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let [receipt, namespace, queue, id] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
            Some(Self {
                receipt: receipt.parse().ok()?,
                namespace: unescape(namespace)?,
                queue: unescape(queue)?,
                id: unescape(id)?,
            })
        };
        parse().ok_or_else(|| Error::invalid_message("the handle", text, "is not one; use what a claim answered"))
    }
}

impl AsRef<Self> for Handle {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsRef<Handle> for Message {
    fn as_ref(&self) -> &Handle {
        &self.handle
    }
}

/// A claim that is being made. Nothing is sent before [`one`](Self::one) or [`up_to`](Self::up_to).
#[derive(Debug)]
#[must_use = "nothing is claimed before `one` or `up_to`"]
pub struct Claim<'a> {
    queue: &'a Queue,
    from: &'a str,
    worker: &'a str,
    lease: Duration,
    host: Option<&'a str>,
    in_groups: bool,
}

impl Claim<'_> {
    /// How long the lease lasts. Default: 30 s; at the most 30 days. Zero is over at once.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// In groups: of each several messages, in order, but none behind one that somebody holds; groups take turns. A message without a
    /// group is a group by itself. Without this, the messages of a group are claimed one at a time.
    pub fn in_groups(mut self) -> Self {
        self.in_groups = true;
        self
    }
}

impl<'a> Claim<'a> {
    /// Nothing is claimed while the switch of this host for this queue is off (see [`Queue::switch_off`]).
    pub fn host(mut self, host: &'a str) -> Self {
        self.host = Some(host);
        self
    }

    /// Claims the next message, if one is ready.
    ///
    /// # Errors
    /// When the storage fails, or the lease is too long.
    pub async fn one(self) -> Result<Option<Message>> {
        Ok(self.up_to(1).await?.pop())
    }

    /// Claims the next messages, so many at the most.
    ///
    /// # Errors
    /// As [`one`](Self::one).
    pub async fn up_to(self, limit: usize) -> Result<Vec<Message>> {
        let messages = self.queue.messages()?;
        self.queue.inner.hub.start();
        let lines = [(self.queue.inner.names.line(self.from), limit)];
        let stop: Vec<DocumentKey> = self.host.map(|host| self.switches(host)).unwrap_or_default();
        let holder = Holder::Lease { name: self.worker, lasts: self.lease };
        let mut request = Take::new(holder, &lines).unless(&stop);
        if self.in_groups {
            request = request.in_line();
        }
        let mut taken = messages.take(&request).await?;
        if taken.jobs.is_empty() && taken.stopped_by.is_none() && limit > 0 {
            // Nobody may have looked yet whether a lease has ended; or somebody else has at this moment.
            messages.end_leases(None).await?;
            taken = messages.take(&request).await?;
        }
        taken.jobs.into_iter().map(|job| self.queue.message(self.from, job)).collect()
    }

    /// Of this host, and of all, for this queue, and for all.
    fn switches(&self, host: &str) -> Vec<DocumentKey> {
        let names = &self.queue.inner.names;
        let all = super::workers::ALL;
        [(host, self.from), (all, self.from), (host, all), (all, all)]
            .map(|(host, queue)| names.document(SWITCH, &[host, queue]))
            .into()
    }
}

impl Queue {
    /// Claims messages of a queue, for a worker of this name, which is for people.
    pub fn claim<'a>(&'a self, queue: &'a str, worker: &'a str) -> Claim<'a> {
        Claim { queue: self, from: queue, worker, lease: DEFAULT_LEASE, host: None, in_groups: false }
    }

    fn message(&self, queue: &str, taken: TakenJob) -> Result<Message> {
        let Hold::Lease { receipt, .. } = taken.hold else {
            return Err(Error::Internal("a lease was asked for, and something else was answered".to_owned()));
        };
        let job = taken.job;
        // What others put into the line has no envelope: its job's number makes its id, and its payload is the body.
        let (id, body) = match serde_json::from_str::<Envelope<'_>>(job.payload.as_str()) {
            Ok(envelope) if job.key.as_deref() == Some(&self.inner.names.key(&envelope.id)) => {
                (envelope.id.into_owned(), envelope.body.to_owned())
            }
            _ => {
                let body = RawValue::from_string(job.payload.as_str().to_owned());
                let body = body.or_else(|_| serde_json::value::to_raw_value(job.payload.as_str()));
                (format!("{FOREIGN}{}", job.id), body.map_err(|error| Error::Internal(error.to_string()))?)
            }
        };
        Ok(Message {
            queue: queue.to_owned(),
            body,
            attempts: job.attempts,
            until: job.locked_at.unwrap_or_default(),
            handle: Handle { receipt, namespace: self.namespace().to_owned(), queue: queue.to_owned(), id: id.clone() },
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_handle_reads_as_it_is_written(namespace in ".{0,9}", queue in ".{0,20}", id in ".{0,20}", number in 0..i16::MAX, tag in 0..u32::MAX) {
            let handle = Handle { receipt: Receipt::new(JobId::from_number(7), number, tag), namespace, queue, id };
            let text = handle.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_%/".contains(&byte)), "{}", text);
            prop_assert_eq!(text.parse::<Handle>().unwrap(), handle);
        }

        #[test]
        fn what_is_no_handle_is_refused(text in "[^/]{0,9}|1-2-00000000/a/b|1-2-00000000/%f/b/c|x/y/z/u") {
            prop_assert!(text.parse::<Handle>().is_err());
        }
    }
}
