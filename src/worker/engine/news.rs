//! What wakeups and written results change.

use tokio::time::Instant;

use super::super::events::Event;
use super::super::settler::Written;
use super::{Engine, Mode};
use crate::error::Error;
use crate::storage::Wakeup;

impl Engine {
    pub(super) fn wake(&mut self, wakeup: Wakeup) {
        self.registration.under_way.cancel();
        match wakeup {
            Wakeup::JobsAdded(count) => {
                self.events.tell(|| Event::Notified { count });
                self.announced(count);
            }
            Wakeup::Listening => {
                tracing::debug!("listening for wakeups");
                self.events.tell(|| Event::Listening);
                self.look();
            }
            Wakeup::HandedOff(handoff) => self.handed_off(*handoff),
            Wakeup::ListenerLost { reason } => {
                self.handoff.listener_lost();
                self.events.tell(|| Event::ListenerLost { reason: reason.clone() });
                tracing::warn!(reason, poll_interval = ?self.options.poll_interval, "not listening; polling meanwhile");
            }
            Wakeup::BreakingMigration { revision, supported } => {
                self.events.tell(|| Event::BreakingMigration { revision });
                tracing::error!(revision, "the schema was migrated beyond what this version knows; shutting down");
                self.fail(Error::BreakingMigration { storage: self.calls.storage().name(), revision, supported });
            }
        }
    }

    pub(super) fn written(&mut self, written: Written) {
        match written {
            Written::Batch { claims, freed_queues } => {
                for (job, token) in claims {
                    self.slots.forget(job, token);
                }
                // The queue's next job is ready now, and nobody is notified of that. And a run that ends when idle has
                // nobody to tell it what its jobs have added.
                let freed_queue = freed_queues > 0;
                self.queues.free(freed_queues, self.slots.held.is_empty());
                if freed_queue || self.mode == Mode::UntilIdle {
                    self.look();
                }
                if freed_queue && std::mem::take(&mut self.claims.awaits_queues) {
                    self.claims.not_before = None;
                }
            }
            Written::Due(due) => {
                self.looks.expect(Instant::from_std(due));
            }
            Written::Gone(error) => self.gone(error),
        }
    }
}
