//! Renewing, completing, failing, giving back: all by the handle of a claim.

use std::time::Duration;

use serde::Serialize;

use super::record::{End, Record};
use super::{DocumentChange, Handle, MessageState, NewEvent, Queue, RECORD, Refusal, Unit, numbers, refused};
use crate::error::{Error, Result};
use crate::storage::Outcome;

impl Queue {
    /// Lets a lease end so long after now; with zero, now. Answers whether it stood: once it has ended it cannot be renewed.
    ///
    /// # Errors
    /// When the storage fails, or the lease is too long.
    pub async fn renew(&self, handle: impl AsRef<Handle>, lease: Duration) -> Result<bool> {
        let receipt = self.ours(handle.as_ref())?.receipt();
        let renewed = self.messages()?.renew(&[(receipt, lease)]).await?;
        if lease.is_zero() && !renewed.is_empty() {
            self.messages()?.end_leases(Some(&renewed)).await?;
        }
        Ok(!renewed.is_empty())
    }

    /// The message is done. The same again is answered in the same way, for as long as its end is remembered.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the claim does not stand any more: somebody else has claimed the message since, or it has ended
    /// otherwise. (Work that was done after the lease was over counts, as long as nobody has claimed the message since.)
    pub async fn complete(&self, handle: impl AsRef<Handle>) -> Result<()> {
        self.end(handle.as_ref(), MessageState::Completed, None, Vec::new()).await
    }

    /// The same, with an event: both or neither. However often it is repeated, there is one event.
    ///
    /// # Errors
    /// As [`complete`](Self::complete), and when the event cannot be written as JSON or is too large.
    pub async fn complete_with_event<T: Serialize + ?Sized>(
        &self,
        handle: impl AsRef<Handle>,
        stream: &str,
        payload: &T,
    ) -> Result<()> {
        let event = self.event(stream, payload)?;
        self.end(handle.as_ref(), MessageState::Completed, None, vec![event]).await
    }

    /// The message has failed for good.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub async fn fail(&self, handle: impl AsRef<Handle>, error: &str) -> Result<()> {
        self.end(handle.as_ref(), MessageState::Failed, Some(error), Vec::new()).await
    }

    /// The same, with an event: both or neither.
    ///
    /// # Errors
    /// As [`complete_with_event`](Self::complete_with_event).
    pub async fn fail_with_event<T: Serialize + ?Sized>(
        &self,
        handle: impl AsRef<Handle>,
        error: &str,
        stream: &str,
        payload: &T,
    ) -> Result<()> {
        let event = self.event(stream, payload)?;
        self.end(handle.as_ref(), MessageState::Failed, Some(error), vec![event]).await
    }

    /// Gives the message back: ready again where it stood, or so much later. Its attempt stays counted, so that it fails when it has been
    /// claimed as often as it may be.
    ///
    /// # Errors
    /// As [`complete`](Self::complete); also when the lease is over, by which it is given back anyway.
    pub async fn requeue(&self, handle: impl AsRef<Handle>, after: Duration) -> Result<()> {
        let handle = self.ours(handle.as_ref())?;
        let unit = Unit::new().settle(handle.hold(false), Outcome::requeued(after));
        match self.do_unit(unit).await? {
            Ok(_) => {
                self.inner.hub.wake(&self.inner.names.line(handle.queue()));
                Ok(())
            }
            Err(Refusal::Hold { .. }) => Err(lost(handle)),
            Err(refusal) => Err(refused(&refusal)),
        }
    }

    /// Gives back what ended leases hold, each once whoever asks; answers how many. This happens by itself wherever somebody claims or waits.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn reclaim_expired(&self) -> Result<usize> {
        Ok(self.messages()?.end_leases(None).await?.jobs.len())
    }

    /// The same of these claims only.
    ///
    /// # Errors
    /// When the storage fails; [`Error::InvalidMessage`] for a handle of another namespace.
    pub async fn reclaim_expired_of(&self, handles: &[Handle]) -> Result<usize> {
        handles.iter().try_for_each(|handle| self.ours(handle).map(drop))?;
        Ok(self.messages()?.end_leases(Some(&numbers(handles))).await?.jobs.len())
    }

    async fn end(
        &self,
        handle: &Handle,
        state: MessageState,
        error: Option<&str>,
        events: Vec<NewEvent>,
    ) -> Result<()> {
        let key = self.inner.names.document(RECORD, &[self.ours(handle)?.id()]);
        let record = if self.inner.retention.is_zero() {
            // Its id may be given again.
            DocumentChange::remove(key)
        } else {
            let end = End {
                state,
                receipt: handle.receipt().to_string(),
                attempts: handle.receipt().number,
                error: error.map(crate::storage::clean_error),
                at: self.inner.storage.now().await?,
                told: !events.is_empty(),
            };
            let record = Record { queue: handle.queue().to_owned(), end: Some(end) };
            DocumentChange::put(key, record.payload()?).lasting(self.inner.retention)
        };
        let mut unit = Unit::new().settle(handle.hold(true), Outcome::completed()).change(record);
        unit.events = events;
        let tells = !unit.events.is_empty();
        match self.do_unit(unit).await? {
            Ok(_) => Ok(()),
            Err(Refusal::Hold { .. }) => self.has_ended_so(handle, state, tells).await,
            Err(refusal) => Err(refused(&refusal)),
        }
    }

    /// A handle of another namespace is a mistake: its end would be remembered here, and its event told.
    fn ours<'h>(&self, handle: &'h Handle) -> Result<&'h Handle> {
        if handle.namespace() == self.namespace() {
            return Ok(handle);
        }
        let problem = format!("is of the namespace {:?}, and this is {:?}", handle.namespace(), self.namespace());
        Err(Error::invalid_message("the handle", &handle.to_string(), &problem))
    }

    /// Whether this very claim has ended its message so, as when an answer was lost.
    async fn has_ended_so(&self, handle: &Handle, state: MessageState, tells: bool) -> Result<()> {
        let end = self.record(handle.id()).await?.and_then(|record| record.end);
        match end {
            Some(end) if (end.state, end.told) == (state, tells) && end.receipt == handle.receipt().to_string() => {
                Ok(())
            }
            _ => Err(lost(handle)),
        }
    }
}

fn lost(handle: &Handle) -> Error {
    Error::LeaseLost { id: handle.id().to_owned(), queue: handle.queue().to_owned() }
}
