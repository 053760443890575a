//! The way to the settler, and back.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::events::Events;
use super::super::settler::{Backlog, Finished, Settler, Summary, Written};
use crate::storage::GuardedCalls;

/// No claims while the errors and payloads of unwritten results have more bytes than this.
const MAX_UNWRITTEN_BYTES: usize = 32 * 1024 * 1024;

/// Results on their way.
pub(super) struct Results {
    pub sender: mpsc::UnboundedSender<Finished>,
    /// How many bytes are in the results that are not written yet.
    pub backlog: Backlog,
    pub written: mpsc::UnboundedReceiver<Written>,
    pub settler: JoinHandle<(Summary, usize)>,
    pub give_up: CancellationToken,
}

impl Results {
    pub fn begin(calls: &GuardedCalls, events: &Events) -> Self {
        let (sender, finished) = mpsc::unbounded_channel();
        let (written_tx, written) = mpsc::unbounded_channel();
        let (give_up, backlog) = (CancellationToken::new(), Backlog::default());
        let settler =
            Settler::new(calls.clone(), finished, written_tx, give_up.clone(), events.clone(), backlog.clone());
        Self { sender, backlog, written, settler: tokio::spawn(settler.run()), give_up }
    }

    /// Whether the errors and payloads of unwritten results are so many bytes that no job may add to them.
    pub fn are_many_bytes(&self) -> bool {
        self.backlog.bytes() > MAX_UNWRITTEN_BYTES
    }
}
